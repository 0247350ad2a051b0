from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.builders import CPU, SHAPE, fit, grey_images, make_trainer, small_vae
from vae_exp.data.images import ImageSet
from vae_exp.engine.device import check_precision_supported, matmul_precision
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms


@pytest.fixture(autouse=True)
def _own_flags() -> Iterator[None]:
    """Whatever a test does to the flags of the process, the session gets its own back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_tf32_is_refused_without_cuda(name: str):
    with pytest.raises(UserError, match=rf"^trainer\.precision=tf32 needs .*, not {name}; use fp32 or bf16\.$"):
        check_precision_supported("tf32", torch.device(name))


@pytest.mark.parametrize(("capability", "known"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_needs_an_ampere(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: bool):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if known:
        check_precision_supported("tf32", torch.device("cuda:0"))
        return
    with pytest.raises(UserError, match=r"8\.0 or higher, not cuda:0"):
        check_precision_supported("tf32", torch.device("cuda:0"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_others_are_known_everywhere(precision: str):
    check_precision_supported(precision, CPU)


@pytest.mark.parametrize("before", [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("precision", "allowed", "dtype"),
    [("fp32", False, torch.float32), ("tf32", True, torch.float32), ("bf16", False, torch.bfloat16)],
)
def test_a_precision_holds_for_the_length_of_a_block(
    precision: str, allowed: bool, dtype: torch.dtype, fails: bool, before: tuple[bool, bool]
):
    vae = small_vae()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    try:
        with matmul_precision(vae, precision):
            assert _flags() == (allowed, allowed)
            assert vae.compute_dtype == dtype
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert _flags() == before
    assert vae.compute_dtype == torch.float32


def _step(precision: str) -> tuple[LossTerms, Tensor]:
    """The terms of a loss and its gradient, in a precision."""
    vae, noise = small_vae(hidden=64, latent_dim=8), torch.Generator().manual_seed(5)
    images = torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(6))
    with matmul_precision(vae, precision):
        terms = ELBO()(vae, images, noise)
        terms.loss.mean().backward()
    return terms, torch.cat([each.grad.flatten() for each in vae.parameters()])


def test_a_step_in_bf16_is_near_one_in_fp32():
    (exact, gradient), (rounded, rounded_gradient) = _step("fp32"), _step("bf16")
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=1e-2, atol=0)  # bf16 has 8 bits of mantissa
    assert rounded_gradient.dtype == torch.float32
    distance = (rounded_gradient - gradient).norm() / gradient.norm()
    assert 0 < distance < 0.02


def test_terms_in_bf16_are_in_float32():
    terms, _ = _step("bf16")
    assert {terms.loss.dtype, terms.distortion.dtype, terms.rate.dtype} == {torch.float32}


def test_distributions_in_bf16_have_parameters_in_float32():
    vae = small_vae()
    with matmul_precision(vae, "bf16"):
        posterior = vae.encode(torch.rand(3, *SHAPE))
        likelihood = vae.decode(posterior.mean)
    assert posterior.mean.dtype == posterior.stddev.dtype == torch.float32
    assert likelihood.base_dist.logits.dtype == torch.float32


def test_after_the_block_the_model_computes_as_before():
    vae, images = small_vae(), torch.rand(3, *SHAPE)
    before = vae.reconstruct(images)
    with matmul_precision(vae, "bf16"):
        assert not torch.equal(vae.reconstruct(images), before)
    assert torch.equal(vae.reconstruct(images), before)


# In training


class SeesPrecision(ELBO):
    """Keeps what training and validation are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def __call__(self, vae: VAE, images: Tensor, noise: torch.Generator) -> LossTerms:
        self.seen.add((vae.training, vae.compute_dtype))
        return super().__call__(vae, images, noise)


@dataclass
class SeesEvaluation:
    """An evaluator that keeps what it is computed in."""

    every: int = 1
    seen: list[torch.dtype] = field(default_factory=list)

    def run(self, vae: VAE, images: ImageSet, noise: torch.Generator) -> Iterator[tuple[str, float]]:
        self.seen.append(vae.compute_dtype)
        yield "probe", 1.0


def test_training_alone_is_in_bf16(tmp_path: Path):
    loss, evaluator = SeesPrecision(), SeesEvaluation()
    fit(
        make_trainer(
            tmp_path,
            train=grey_images(8),
            val=grey_images(3, seed=1),
            loss=loss,
            evaluators={"sees": evaluator},
            precision="bf16",
            epochs=2,
        )
    )
    assert loss.seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert evaluator.seen == [torch.float32] * 2


def test_training_in_bf16_gets_as_far_as_in_fp32(tmp_path: Path):
    losses = [
        fit(make_trainer(tmp_path / each, train=grey_images(40), precision=each, epochs=5)).state.metrics
        for each in ("fp32", "bf16")
    ]
    assert losses[1]["train/loss"] == pytest.approx(losses[0]["train/loss"], rel=1e-2)
    assert losses[1]["train/loss"] != losses[0]["train/loss"]

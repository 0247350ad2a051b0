import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.builders import CPU, SHAPE, bernoulli_vae, fit, grey_images, make_trainer, noise, small_vae
from vae_exp.data.images import Batch, ImageSet
from vae_exp.engine import device as device_module
from vae_exp.engine.device import (
    check_memory,
    check_precision_supported,
    count_step_bytes,
    device_name,
    matmul_precision,
    oom_error,
    resolve_device,
)
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE
from vae_exp.objective.loss_terms import LossTerms

ADVICE = "use a smaller batch, a smaller model, trainer.precision=bf16, or data.preload_to_device=false."

# Devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with so many CUDA devices, and with or without MPS."""

    def pretend(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "device"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "mps"),
        ("auto", 1, False, "cuda:0"),
        ("auto", 2, True, "cuda:0"),
        ("cuda", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("cpu:0", 2, False, "cpu:0"),
    ],
)
def test_auto_takes_cuda_then_mps_then_the_cpu_and_cuda_has_the_index_that_events_and_nccl_need(
    machine, name: str, cuda: int, mps: bool, device: str
):
    machine(cuda, mps)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "cuda", "reason"),
    [
        ("cuda", 0, "there is no CUDA device here; use mps or auto."),
        ("cuda:0", 0, "there is no CUDA device here; use mps or auto."),
        ("cuda:2", 2, "there are 2 CUDA devices, cuda:0 to cuda:1."),
        ("mps", 2, "there is no MPS device here; use cuda or auto."),
        ("cpu:1", 0, "there is one CPU device; use cpu."),
        ("cuda:256", 0, "is not a device"),  # torch would wrap it round to cuda:0
        *(
            (name, 0, "is not a device; use auto, cpu, mps, cuda or cuda:N.")
            for name in ("gpu", "", "cuda:", "xpu")
        ),
    ],
)
def test_other_names_are_refused_with_those_that_exist(machine, name: str, cuda: int, reason: str):
    machine(cuda, mps=cuda == 0)
    with pytest.raises(UserError, match=rf"^trainer\.device={name}:? {re.escape(reason)}"):
        resolve_device(name)


@pytest.mark.cuda
def test_a_real_cuda_device_is_chosen_and_named():
    assert device_name(CPU) == "cpu"
    device = resolve_device("auto")
    assert device.type == "cuda"
    assert torch.cuda.get_device_name(0) in device_name(device)


# Memory


def _real_cpu_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48, dtype=torch.uint8)  # more than any address space has
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        _real_cpu_error(),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "python", "cpu", "runtime", "cublas"],
)
def test_running_out_of_memory_names_the_keys_that_help(error: BaseException):
    message = oom_error(error, 4096, CPU)
    assert isinstance(message, UserError)
    assert "cpu ran out of memory" in str(message)
    assert f"with trainer.batch_size=4096; {ADVICE}" in str(message)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("memory")])
def test_other_errors_are_not_about_memory(error: Exception):
    assert oom_error(error, 4096, CPU) is None


def test_the_message_has_the_free_memory_and_on_a_gpu_that_of_the_run(monkeypatch: pytest.MonkeyPatch):
    properties = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(device_module, "free_memory", lambda device: None if device.type == "mps" else 2**28)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7 * 2**30)
    messages = {
        "cpu": "cpu ran out of memory (0.25 GiB free) with",
        "mps": "mps ran out of memory with",
        "cuda:0": "cuda:0 ran out of memory (0.25 GiB free of 8.00 GiB, 7.00 GiB held by this run) with",
    }
    for name, message in messages.items():
        assert str(oom_error(MemoryError(), 8, torch.device(name))).startswith(message)


@pytest.mark.cuda
def test_a_gpu_that_runs_out_of_memory_is_known():
    device = torch.device("cuda", 0)
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        torch.empty(2**46, dtype=torch.uint8, device=device)
    message = str(oom_error(caught.value, 8, device))
    assert message.startswith("cuda:0 ran out of memory (")
    assert ADVICE in message


# What a step takes


@pytest.mark.parametrize("loss", [ELBO(), IWAE(50)], ids=["elbo", "iwae"])
def test_the_bytes_of_a_step_are_those_that_a_real_one_keeps(loss: ELBO | IWAE):
    vae, saved = bernoulli_vae(3), {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        terms = loss(vae, Batch(torch.rand(16, *SHAPE)), torch.Generator())
    assert terms.loss.requires_grad
    assert count_step_bytes(loss, vae, SHAPE, 16) == sum(saved.values())


def test_a_step_that_no_device_can_hold_is_refused_and_a_large_one_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    vae = bernoulli_vae(3)
    with pytest.raises(
        UserError, match=r"trainer.batch_size=8, loss.num_samples=10000000000 keeps .* GiB for its"
    ):
        check_memory(IWAE(10**10), vae, SHAPE, 8, CPU)
    needed = count_step_bytes(IWAE(5), vae, SHAPE, 8)
    assert needed is not None
    for total, message in ((5 * needed, False), (2 * needed, True)):
        monkeypatch.setattr(device_module, "_total_memory", lambda device, total=total: total)
        check_memory(IWAE(5), vae, SHAPE, 8, CPU)
        assert ("It may take minutes" in caplog.text) is message
    monkeypatch.setattr(device_module, "_total_memory", lambda device: needed - 1)
    with pytest.raises(UserError, match="Use a smaller batch"):
        check_memory(IWAE(5), vae, SHAPE, 8, CPU)


def test_a_loss_that_needs_values_is_not_counted():
    def loss(vae, batch, generator):
        batch.images.sum().item()
        return ELBO()(vae, batch, generator)

    assert count_step_bytes(loss, bernoulli_vae(3), SHAPE, 8) is None


# Precision


def _flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _own_flags() -> Iterator[None]:
    """Whatever a test does to the flags of the process, the session gets its own back."""
    before = _flags()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("name", "capability"),
    [("cpu", None), ("mps", None), ("cuda:0", (7, 5)), ("cuda:0", (8, 0)), ("cuda:0", (9, 0))],
)
def test_tf32_needs_an_ampere_gpu(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int] | None):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    check_precision_supported("bf16", torch.device(name))
    if capability is not None and capability >= (8, 0):
        check_precision_supported("tf32", torch.device(name))
        return
    with pytest.raises(UserError, match=rf"^trainer\.precision=tf32 needs .*8\.0 or higher, not {name}; use fp32"):
        check_precision_supported("tf32", torch.device(name))


@pytest.mark.parametrize(
    ("precision", "allowed", "dtype"),
    [("fp32", False, torch.float32), ("tf32", True, torch.float32), ("bf16", False, torch.bfloat16)],
)
def test_a_precision_holds_within_a_block(precision: str, allowed: bool, dtype: torch.dtype):
    vae, before = small_vae(), (False, True)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with suppress(KeyError), matmul_precision(vae, precision):
        assert _flags() == (allowed, allowed)
        assert vae.compute_dtype == dtype
        raise KeyError
    assert _flags() == before
    assert vae.compute_dtype == torch.float32


def test_a_step_in_bf16_is_near_one_in_fp32_with_terms_and_distributions_in_float32():
    images, terms, gradients = grey_images(32).batch(), [], []
    for precision in ("fp32", "bf16"):
        vae = small_vae(hidden=64, latent_dim=8)
        before = vae.reconstruct(images.images)
        with matmul_precision(vae, precision):
            posterior = vae.encode(images.images)
            assert posterior.mean.dtype == posterior.stddev.dtype == torch.float32
            assert vae.decode(posterior.mean).base_dist.logits.dtype == torch.float32
            assert torch.equal(vae.reconstruct(images.images), before) is (precision == "fp32")
            terms.append(ELBO()(vae, images, noise(5)))
            terms[-1].loss.mean().backward()
        assert torch.equal(vae.reconstruct(images.images), before)
        gradients.append(torch.cat([weight.grad.flatten() for weight in vae.parameters()]))
    exact, rounded = terms
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=1e-2, atol=0)  # bf16 has 8 bits of mantissa
    assert {rounded.loss.dtype, rounded.distortion.dtype, rounded.rate.dtype} == {torch.float32}
    assert gradients[1].dtype == torch.float32
    distance = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 0 < distance < 0.02


class SeesPrecision(ELBO):
    """A loss, and an evaluator, that keeps what it is computed in: in training, validation and evaluators."""

    every_n_epochs = 1

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = defaultdict(set)

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        self.dtypes["training" if vae.training else "validation"].add(vae.compute_dtype)
        return super().__call__(vae, batch, noise)

    def run(self, vae: VAE, images: ImageSet, noise: torch.Generator) -> Iterator[tuple[str, float]]:
        self.dtypes["evaluators"].add(vae.compute_dtype)
        yield "probe", 1.0


def test_training_alone_is_in_bf16_and_gets_as_far_as_in_fp32(tmp_path: Path):
    losses = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        loss, images, val = SeesPrecision(), grey_images(40), grey_images(3, seed=1)
        options = {"precision": precision, "epochs": 5, "evaluators": {"sees": loss}}
        trainer = fit(make_trainer(tmp_path / precision, train=images, val=val, loss=loss, **options))
        losses.append(trainer.state.metrics["train/loss"])
        single = {torch.float32}
        assert loss.dtypes == {"training": {dtype}, "validation": single, "evaluators": single}
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1] != losses[0]

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.builders import (
    CPU,
    RecordingEvaluator,
    fit,
    grey_images,
    make_trainer,
    small_vae,
    stored_weights,
    weights,
)
from vae_exp.data.images import Batch
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

reproducibly = settings(max_examples=40)


def closed_form(history: list[Tensor], decay: float) -> Tensor:
    """Σₜ dᵀ⁻ᵗ aₜ / Σₜ dᵀ⁻ᵗ over the weights a₁, …, a_T that follow the first, a₀."""
    steps = len(history) - 1
    shares = [decay ** (steps - step) for step in range(1, steps + 1)]
    terms = [share * past.double() for share, past in zip(shares, history[1:], strict=True)]
    return torch.stack(terms).sum(dim=0) / sum(shares)


def set_to(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@reproducibly
@given(
    st.floats(min_value=0.0, max_value=0.9999),
    st.lists(st.floats(min_value=-10, max_value=10, width=32), min_size=2, max_size=30),
)
def test_the_average_is_the_closed_form(decay: float, values: list[float]):
    module = nn.Linear(2, 1)
    set_to(module, values[0])
    average = ExponentialMovingAverage(module, decay)
    assert all((weight == values[0]).all() for weight in average.state_dict().values())
    for value in values[1:]:
        set_to(module, value)
        average.update()
    expected = closed_form([torch.tensor(value) for value in values], decay).item()
    for found in average.state_dict().values():
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-5, atol=1e-4)


def test_the_average_is_in_place_for_the_length_of_a_block_however_it_ends():
    module = nn.Linear(1, 1)
    set_to(module, 0.0)
    average = ExponentialMovingAverage(module, 0.75)
    set_to(module, 1.0)
    average.update()
    set_to(module, 9.0)
    average.update()  # ¼ of the new and ¾ · ¼ of the old, over their sum
    addresses = [weight.data_ptr() for weight in module.parameters()]
    with suppress(KeyError), average.average_parameters():
        assert [weight.item() for weight in module.parameters()] == pytest.approx([39 / 7] * 2)
        assert [weight.data_ptr() for weight in module.parameters()] == addresses
        raise KeyError
    assert [weight.item() for weight in module.parameters()] == [9.0, 9.0]
    assert [weight.item() for weight in average.state_dict().values()] == pytest.approx([39 / 7] * 2)


def test_buffers_are_not_averaged():
    module = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(module, 0.5)
    assert average.state_dict().keys() == {"weight", "bias"}
    with average.average_parameters():
        module.running_mean.fill_(5.0)
    assert (module.running_mean == 5.0).all()


def test_another_average_goes_on_from_the_state():
    module = nn.Linear(2, 2)
    first = ExponentialMovingAverage(module, 0.9)
    set_to(module, 3.0)
    first.update()
    second = ExponentialMovingAverage(module, 0.9)
    second.load_state_dict({name: weight.clone() for name, weight in first.state_dict().items()}, 1)
    set_to(module, 4.0)
    for average in (first, second):
        average.update()
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_a_state_of_another_module_is_refused():
    with pytest.raises(KeyError):
        ExponentialMovingAverage(nn.Linear(2, 2), 0.9).load_state_dict({}, 0)


# In training


class Remembering(ELBO):
    """Keeps the weights before every step."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        if vae.training:
            self.history.append(weights(vae))
        return super().__call__(vae, batch, noise)


def test_a_run_evaluates_and_keeps_the_average_and_trains_as_without_it(
    tmp_path: Path,
):
    loss, vae, plain, train, val = Remembering(), small_vae(), small_vae(), grey_images(11), grey_images(4, seed=1)
    often, at_end = RecordingEvaluator(1), RecordingEvaluator(None)
    evaluators = {"often": often, "at_end": at_end}
    trainer = make_trainer(
        tmp_path / "averaged", train=train, val=val, vae=vae, loss=loss, ema_decay=0.8, evaluators=evaluators
    )
    with GracefulShutdown() as shutdown:
        fit(trainer).run_final_evaluators(shutdown)
    state = load_checkpoint(tmp_path / "averaged" / "checkpoints" / "last.pt", CPU)
    average = stored_weights(state["average"])
    assert len(loss.history) == 6
    expected = closed_form([*loss.history, weights(vae)], 0.8).float()
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(stored_weights(state["vae"]), weights(vae))
    assert len(often.weights) == 2
    assert torch.equal(often.weights[-1], average)
    assert [torch.equal(evaluated, average) for evaluated in at_end.weights] == [True]

    fit(make_trainer(tmp_path / "plain", train=train, val=val, vae=plain))
    assert torch.equal(weights(plain), weights(vae))
    averaged = small_vae()
    averaged.load_state_dict(state["average"])
    losses = [
        ELBO()(scored.eval(), val.batch(), make_generator(3, "evaluation", CPU)).loss.mean().item()
        for scored in (averaged, vae)
    ]
    assert trainer.state.metrics["val/loss"] == pytest.approx(losses[0], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)

"""A resume that cannot be: it says why, and leaves the run as it was."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.readers import read_metrics, read_result, without_times
from vae_exp import load_run
from vae_exp.model.encoders import MLPEncoder
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

RUN = ("data=digits", "tracker=none", "evaluator=[]", "trainer.epochs=3", "trainer.device=cpu")


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of a run of three epochs."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def content(run: Path) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def refusal(command, *overrides: str) -> str:
    """Why `resume=run` is refused with these overrides."""
    refused = command("train", "resume=run", *overrides)
    assert refused.code == 1
    return str(refused.err)


@pytest.mark.slow
def test_a_refused_resume_leaves_every_line(command, run: Path, tmp_path: Path):
    before = content(run)
    for overrides, reason in {
        ("trainer.epochs=9", "trainer.execution=graph"): "trainer.execution=graph needs a CUDA device",
        ("trainer.epochs=4", "hydra.run.dir=other"): "a resumed run stays where it is",
        ("optimizer=sgd",): "the group optimizer cannot be changed on resume",
        ("model.latent_dim=3",): "model.latent_dim=3 cannot be changed on resume",
        ("trainer.epochs=2",): "trainer.epochs=2 is less than the 3 epochs",
        ("--multirun", "seed=0,1"): "resume=run continues one run; leave out --multirun",
    }.items():
        assert reason in refusal(command, *overrides)
        assert content(run) == before
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["resume=", "resume=''", "resume=nowhere"])
def test_a_name_of_no_run_is_no_new_run(command, tmp_path: Path, name: str):
    refused = command("train", name, *RUN)
    assert refused.code == 1
    assert "nowhere holds no run" in refused.err or "resume= is empty; name a run directory" in refused.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_resume_from_the_best_checkpoint_makes_it_the_last(command, tmp_path: Path):
    chosen = [*RUN, "trainer.epochs=12", "trainer.monitor=train/rate"]
    assert command("train", *chosen, "hydra.run.dir=run").code == 0
    best = read_result(tmp_path / "run")["best"]["epoch"]
    assert best < 12
    assert command("train", "resume=run/checkpoints/best.pt").code == 0
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == list(range(1, 13))


@pytest.mark.quick(1)
@pytest.mark.parametrize("damage", ["cut off", "one bit flipped"])
def test_a_damaged_checkpoint_is_refused_and_the_other_one_offered(
    command, run: Path, digits_run: Path, damage: str
):
    last = run / "checkpoints" / "last.pt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.unlink()  # best.pt may be the same file
    last.write_bytes(damaged if damage == "one bit flipped" else damaged[:5000])
    before = content(run)
    message = refusal(command, "trainer.epochs=9")
    assert f"{last} is not a whole checkpoint of plain tensors" in message
    offered = f"resume={run / 'checkpoints' / 'best.pt'}"
    assert offered in message
    assert content(run) == before
    assert command("train", offered).code == 0
    assert list(map(without_times, read_metrics(run))) == list(map(without_times, read_metrics(digits_run)))


def bad_shape(state: dict) -> dict:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    return state


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state | {"format": 99}, "a newer version of vae_exp wrote it"),
        (lambda state: state | {"vae": {"encoder.other": torch.zeros(2)}}, "does not fit the run"),
        (lambda state: {"format": 1, "vae": state["vae"], "epoch": 3}, "can be evaluated, not resumed"),
        (bad_shape, "the optimizer's exp_avg is [3] for a weight of [500, 64]"),
        (lambda state: state | {"epoch": "three"}, "last.pt has epoch=three; expected a number of epoch so far"),
        (lambda state: state | {"lines": -1}, "last.pt has lines=-1; expected a number of lines so far"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(command, run: Path, change, reason: str):
    last = run / "checkpoints" / "last.pt"
    torch.save(change(torch.load(last, weights_only=True)), last)
    message = refusal(command, "trainer.epochs=4")
    assert reason in message
    assert "Traceback" not in message


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "checkpoints"])
def test_a_link_out_of_the_run_is_not_followed(command, run: Path, tmp_path: Path, name: str):
    shutil.move(run / name, tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path)
    assert "leads out of" in refusal(command, "trainer.epochs=4")
    assert content(tmp_path) == before


def test_without_the_last_checkpoint_a_run_goes_on_from_the_best(command, run: Path):
    (run / "checkpoints" / "last.pt").unlink()
    before = (run / "metrics.jsonl").read_text().splitlines()
    ended = command("train", "resume=run", "trainer.epochs=4")
    assert ended.code == 0
    assert "last.pt is missing; the run continues from" in (run / "train.log").read_text()
    after = (run / "metrics.jsonl").read_text().splitlines()
    epoch = read_result(run)["epochs"]
    assert epoch == 4
    assert after[:2] == before[:2]  # trained once, not again


@pytest.mark.slow
def test_what_is_finished_is_said_to_be(command, run: Path):
    ended = command("train", "resume=run")
    assert ended.code == 0
    assert "is already finished; raise trainer.epochs to train longer" in (run / "train.log").read_text()


def test_the_time_of_a_resumed_run_is_that_of_all_its_processes(command, run: Path):
    before = read_result(run)["seconds"]
    assert command("train", "resume=run", "trainer.epochs=4").code == 0
    after = read_result(run)["seconds"]
    assert after["training"] > before["training"]
    assert after["total"] > before["total"] + after["training"] - before["training"]


def test_a_sweep_of_a_team_is_refused(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = command("train", "--multirun", "seed=1,2", *RUN)
    assert refused.code == 1
    assert "torchrun's processes train one run together" in refused.err
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_a_schedule_that_is_too_short_is_named(command):
    one_cycle = ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.01"]
    refused = command("train", *RUN, *one_cycle, "+scheduler.total_steps=2", "hydra.run.dir=run")
    assert refused.code == 1
    assert "scheduler cannot continue after epoch 3 of 3" in refused.err
    assert "its length must fit trainer.epochs" in refused.err


class TiedEncoder(MLPEncoder):
    """One weight under two names."""

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.twin = self.hidden[0]


class DoubleELBO(ELBO):
    """Scores in float64."""

    def __call__(self, *arguments) -> LossTerms:
        terms = super().__call__(*arguments)
        return LossTerms(terms.loss.double(), terms.distortion.double(), terms.rate.double())


@pytest.mark.slow
def test_an_average_of_tied_weights_is_loaded_under_both_names(command, tmp_path: Path):
    own = [f"model.encoder._target_={__name__}.TiedEncoder", "trainer.ema_decay=0.9"]
    assert command("train", *RUN, *own, "hydra.run.dir=run").code == 0
    loaded = load_run(tmp_path / "run", trusted_packages=["tests"], checkpoint="last").vae
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    average = state["average"]["encoder.hidden.0.weight"]
    assert not torch.equal(average, state["vae"]["encoder.hidden.0.weight"])
    assert torch.equal(loaded.encoder.hidden[0].weight, average)
    assert torch.equal(loaded.encoder.twin.weight, average)


@pytest.mark.slow
def test_terms_in_float64_are_taken(command):
    ended = command("train", *RUN, f"loss._target_={__name__}.DoubleELBO", "hydra.run.dir=run")
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_other_data_are_refused_and_the_first_ones_taken_from_another_place(command, tmp_path: Path):
    generator = np.random.default_rng(0)
    one, two = (generator.integers(256, size=(40, 8, 8)).astype(np.uint8) for _ in range(2))
    np.savez(tmp_path / "one.npz", images=one)
    data = ("data=arrays", "data.path=one.npz", "data.validation_size=10", "trainer.batch_size=10")
    small = ("tracker=none", "evaluator=[]", "trainer.epochs=1", "model.hidden_dims=[4]")
    assert command("train", *data, *small, "hydra.run.dir=run").code == 0
    np.savez(tmp_path / "moved.npz", images=one)
    np.savez(tmp_path / "one.npz", images=two)
    before = content(tmp_path / "run")
    message = refusal(command, "trainer.epochs=2")
    assert "run was trained on other data: train has other pixels; val has other pixels. Restore" in message
    assert f"initialize_from={tmp_path / 'run'}" in message
    assert "say resume_on_other_pixels=true" in message
    assert content(tmp_path / "run") == before
    assert command("train", "resume=run", "trainer.epochs=2", "data.path=moved.npz").code == 0
    passed = command("train", "resume=run", "trainer.epochs=3", "data.path=one.npz", "resume_on_other_pixels=true")
    assert passed.code == 0, passed.err
    assert (
        "continues on other data than it was trained on: train has other pixels"
        in (tmp_path / "run" / "train.log").read_text()
    )
    np.savez(tmp_path / "one.npz", images=two[:-1])
    message = refusal(command, "trainer.epochs=4", "resume_on_other_pixels=true")
    assert "train has count 29 instead of 30" in message
    assert "say resume_on_other_pixels=true" not in message
    np.savez(tmp_path / "one.npz", images=one)
    state = torch.load(tmp_path / "run/checkpoints/last.pt")
    torch.save({key: value for key, value in state.items() if key != "data"}, tmp_path / "run/checkpoints/last.pt")
    assert command("train", "resume=run", "trainer.epochs=4", "data.path=one.npz").code == 0

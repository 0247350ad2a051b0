"""A resume that cannot be: it says why, and leaves the run as it was."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.readers import read_metrics, read_result
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
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}


def test_a_refused_resume_leaves_every_line(command, run: Path):
    before = content(run)
    refused = command("train", "resume=run/checkpoints/best.pt", "trainer.epochs=9", "trainer.execution=graph")
    assert refused.code == 1
    assert "trainer.execution=graph needs a CUDA device" in refused.err
    assert content(run) == before


def test_a_resume_from_the_best_checkpoint_makes_it_the_last(command, tmp_path: Path):
    chosen = [*RUN, "trainer.epochs=12", "trainer.monitor=train/rate"]
    assert command("train", *chosen, "hydra.run.dir=run").code == 0
    best = read_result(tmp_path / "run")["best"]["epoch"]
    assert best < 12
    assert command("train", "resume=run/checkpoints/best.pt").code == 0
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == list(range(1, 13))


def test_a_single_flipped_bit_is_found(command, run: Path):
    last = run / "checkpoints" / "last.pt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.unlink()  # best.pt may be the same file
    last.write_bytes(damaged)
    refused = command("train", "resume=run", "trainer.epochs=4")
    assert refused.code == 1
    assert "is not a whole checkpoint of plain tensors" in refused.err
    assert "best.pt is whole" in refused.err


def test_an_optimisers_state_of_another_shape_is_refused(command, run: Path):
    last = run / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, last)
    refused = command("train", "resume=run", "trainer.epochs=4")
    assert refused.code == 1
    assert "the optimizer's exp_avg is [3] for a weight of [500, 64]" in refused.err


@pytest.mark.parametrize(("name", "value"), [("epoch", "three"), ("lines", -1), ("batches", None)])
def test_a_count_that_is_none_is_named(command, run: Path, name: str, value: object):
    last = run / "checkpoints" / "last.pt"
    torch.save({**torch.load(last, weights_only=True), name: value}, last)
    refused = command("train", "resume=run", "trainer.epochs=4")
    assert refused.code == 1
    assert f"last.pt has {name}={value}; expected a number of {name} so far" in refused.err


@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "checkpoints"])
def test_a_link_out_of_the_run_is_not_followed(command, run: Path, tmp_path: Path, name: str):
    shutil.move(run / name, tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path)
    refused = command("train", "resume=run", "trainer.epochs=4")
    assert refused.code == 1
    assert "leads out of" in refused.err
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


@pytest.mark.parametrize("name", ["resume=", "resume=''"])
def test_an_empty_name_is_no_new_run(command, tmp_path: Path, name: str):
    refused = command("train", name, *RUN)
    assert refused.code == 1
    assert "resume= is empty; name a run directory" in refused.err
    assert not (tmp_path / "outputs").exists()


def test_a_resumed_run_stays_where_it_is(command, run: Path, tmp_path: Path):
    refused = command("train", "resume=run", "trainer.epochs=4", "hydra.run.dir=other")
    assert refused.code == 1
    assert "a resumed run stays where it is" in refused.err
    assert not (tmp_path / "other").exists()


def test_a_whole_group_cannot_be_chosen_on_resume(command, run: Path):
    refused = command("train", "resume=run", "optimizer=sgd")
    assert refused.code == 1
    assert "the group optimizer cannot be changed on resume" in refused.err


def test_what_is_finished_is_said_to_be(command, run: Path):
    ended = command("train", "resume=run")
    assert ended.code == 0
    assert "is already finished; raise trainer.epochs to train longer" in (run / "train.log").read_text()
    seconds = read_result(run)["seconds"]
    assert seconds["training"] <= seconds["total"]


def test_a_sweep_of_a_team_is_refused(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = command("train", "--multirun", "seed=1,2", *RUN)
    assert refused.code == 1
    assert "torchrun's processes train one run together" in refused.err
    assert not (tmp_path / "multirun").exists()


def test_several_runs_are_not_resumed_as_a_sweep(command, run: Path, tmp_path: Path):
    refused = command("train", "--multirun", "resume=run,run", "trainer.epochs=5")
    assert refused.code == 1
    assert "resume=run,run continues one run; leave out --multirun" in refused.err
    assert not (tmp_path / "multirun").exists()


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


def test_an_average_of_tied_weights_is_loaded_under_both_names(command, tmp_path: Path):
    own = [f"model.encoder._target_={__name__}.TiedEncoder", "trainer.ema_decay=0.9"]
    assert command("train", *RUN, *own, "hydra.run.dir=run").code == 0
    loaded = load_run(tmp_path / "run", trusted_packages=["tests"], checkpoint="last").vae
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    average = state["average"]["encoder.hidden.0.weight"]
    assert not torch.equal(average, state["vae"]["encoder.hidden.0.weight"])
    assert torch.equal(loaded.encoder.hidden[0].weight, average)
    assert torch.equal(loaded.encoder.twin.weight, average)


def test_terms_in_float64_are_taken(command):
    ended = command("train", *RUN, f"loss._target_={__name__}.DoubleELBO", "hydra.run.dir=run")
    assert ended.code == 0, ended.err

"""Score files: what stays, what is replaced, what is refused; and which runs are scored."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from vae_exp import load_run
from vae_exp.data.npz import NPZSource
from vae_exp.data.splits import DataSplits
from vae_exp.errors import UserError
from vae_exp.runs.scores import find_runs, identify_scores, store_scores, stored_scores
from vae_exp.storage.atomic_io import read_json

IDENTITY = {"checkpoint": "best", "epoch": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evaluation" / "test-best.json"


def test_scores_of_other_evaluators_stay_beside_the_new_ones(path: Path):
    units = {"units": {"active_units": 5.0}}
    assert store_scores(path, IDENTITY, {"units": {}}, units) is None
    assert store_scores(path, IDENTITY, {"elbo": {"a": 1}}, {"elbo": {"elbo": -1.0, "bits": 3.0}}) is None
    second = {"elbo": {"elbo": -2.0}, "nll": {"nll": 1.5}}
    assert store_scores(path, IDENTITY, {"elbo": {"a": 2}, "nll": {}}, second) is None
    assert json.loads(path.read_text()) == {
        **IDENTITY,
        "evaluator": {"units": {}, "elbo": {"a": 2}, "nll": {}},
        "metrics": {"active_units": 5.0, "elbo": -2.0, "nll": 1.5},  # no bits: they are of other settings
        "metric_names": {"units": ["active_units"], "elbo": ["elbo"], "nll": ["nll"]},
    }
    assert stored_scores(path, IDENTITY, {"nll": {}}) == {"active_units": 5.0, "elbo": -2.0, "nll": 1.5}
    assert stored_scores(path, IDENTITY, {"elbo": {"a": 1}}) is None


def test_replaced_scores_are_named(path: Path):
    store_scores(path, IDENTITY, {"elbo": {}, "nll": {}}, {"elbo": {"elbo": -1.0}, "nll": {"nll": 1.0}})
    later = {**IDENTITY, "epoch": 4}
    assert stored_scores(path, later, {"nll": {}}) is None
    assert store_scores(path, later, {"nll": {}}, {"nll": {"nll": 2.0}}) == "elbo, nll, which had epoch=3"
    assert json.loads(path.read_text()) == {
        **later,
        "evaluator": {"nll": {}},
        "metrics": {"nll": 2.0},
        "metric_names": {"nll": ["nll"]},
    }


def test_none_is_lost_when_several_processes_write(path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_slowly(path: Path) -> object:
        try:
            return read_json(path)
        finally:
            time.sleep(0.01)

    monkeypatch.setattr("vae_exp.runs.scores.read_json", read_slowly)
    names = [f"evaluator_{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: store_scores(path, IDENTITY, {name: {}}, {name: {name: 1.0}}), names))
    assert set(json.loads(path.read_text())["metrics"]) == set(names)


def test_a_score_that_is_no_number_is_read_as_nan(path: Path):
    store_scores(path, IDENTITY, {"nll": {}}, {"nll": {"nll": 1.5, "nll_se": nan}})
    assert isnan(stored_scores(path, IDENTITY, {"nll": {}})["nll_se"])
    store_scores(path, IDENTITY, {"elbo": {}}, {"elbo": {"elbo": 1.0}})
    assert json.loads(path.read_text())["metrics"] == {"nll": 1.5, "nll_se": None, "elbo": 1.0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "cannot be read: .* is not valid JSON"),
        (b"\xff\xfe", "cannot be read: "),
        (b"[]", "holds list; expected a JSON object of scores"),
        (b'{"metrics": [1]}', r"has metrics=\[1\]; expected a JSON object"),
        (b'{"evaluator": 5}', "has evaluator=5; expected a JSON object"),
        (b'{"metrics": {"test/elbo": "abc"}}', "has test/elbo='abc'; expected a number"),
    ],
)
def test_a_damaged_file_is_refused_until_it_is_replaced(path: Path, content: bytes, reason: str):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"test-best\.json {reason}.*force=true computes the scores again"):
        stored_scores(path, IDENTITY, {"nll": {}})
    store_scores(path, IDENTITY, {"nll": {}}, {"nll": {"nll": 1.5}})
    assert stored_scores(path, IDENTITY, {"nll": {}}) == {"nll": 1.5}


def test_scores_follow_from_every_image_and_label_of_the_split_wherever_it_is(digits_run: Path, tmp_path: Path):
    images = np.random.default_rng(0).integers(256, size=(200, 8, 8)).astype(np.uint8)
    identities = []
    for name in ("one", "moved", "pixel", "label"):
        arrays = {"test_images": images.copy(), "test_labels": np.zeros(200, np.int64)}
        if name == "pixel":
            arrays["test_images"][101, 3, 3] ^= 1
        if name == "label":
            arrays["test_labels"][101] = 1
        np.savez(tmp_path / f"{name}.npz", images=images, **arrays)
        run = load_run(digits_run)
        vars(run)["data"] = DataSplits(NPZSource(str(tmp_path / f"{name}.npz")), None, 0, 0)
        identities.append(identify_scores(run, "test", 0))
    one, moved, pixel, label = identities
    assert one == moved == json.loads(json.dumps(one))
    assert len({str(identity) for identity in (one, pixel, label)}) == 3


def test_a_sweep_stands_for_all_of_its_jobs(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "sweep" / name / ".hydra").mkdir(parents=True)
        (tmp_path / "sweep" / name / ".hydra" / "config.yaml").touch()
    with pytest.raises(UserError, match="is a sweep of 2 jobs, none of which has a checkpoint yet"):
        find_runs(str(tmp_path / "sweep"))
    (tmp_path / "sweep" / "b" / "checkpoints").mkdir()
    (tmp_path / "sweep" / "b" / "checkpoints" / "best.pt").touch()
    assert find_runs(str(tmp_path / "sweep")) == [tmp_path / "sweep" / "a", tmp_path / "sweep" / "b"]

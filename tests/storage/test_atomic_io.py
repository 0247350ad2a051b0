import os
from pathlib import Path

import pytest

from tests.sweep.sweeps import make_job
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, read_regular, read_yaml
from vae_exp.sweep.job_records import read_jobs
from vae_exp.tracking.metrics_file import JsonlMetrics

BOMB = "- &a [x,x]\n" + "".join(
    f"- &{chr(98 + level)} [*{chr(97 + level)},*{chr(97 + level)}]\n" for level in range(24)
)


@pytest.mark.parametrize(
    "read", [read_regular, read_json, read_yaml, lambda path: JsonlMetrics(path, 1).truncate_and_open()]
)
def test_pipes_and_devices_are_refused_at_once(read, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(UserError, match=rf"{name} is not a regular file"):
            read(tmp_path / name)


def test_a_file_above_the_limit_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(UserError, match="at most 4 bytes"):
        read_regular(tmp_path / "file", 4)


@pytest.mark.parametrize("text", ["[" * 200_000, "1" * 5000])
def test_json_beyond_what_python_reads_is_refused(text, tmp_path: Path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(UserError, match="is not valid JSON"):
        read_json(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, r"holds the alias \*a"),
        ("[" * 500 + "]" * 500, "nested more than 100 levels"),
        ("[" * 300_000 + "]" * 300_000, "nested more than 100 levels|exceeded maximum nesting depth"),
        ("- 2020-99-99", "month must be in"),
        ("- !!python/name:os.system", "not plain YAML"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(text, reason, tmp_path: Path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_yaml(tmp_path / "file")
    job = make_job(tmp_path, ["seed=0"])
    (job / ".hydra" / "overrides.yaml").write_text(text)
    [read] = read_jobs(tmp_path)
    assert (read.status, read.overrides) == ("completed", ())


def test_a_number_that_no_float_holds_is_no_metric(tmp_path: Path):
    job = make_job(tmp_path, ["seed=0"])
    (job / "result.json").write_text('{"status": "completed", "metrics": {"a": 1' + 400 * "0" + ', "b": 2}}')
    [read] = read_jobs(tmp_path)
    assert read.metrics == {"b": 2}


def test_a_pipe_in_place_of_the_metrics_of_a_job_holds_nothing_up(tmp_path: Path):
    job = make_job(tmp_path, ["seed=0"], None)
    os.mkfifo(job / "metrics.jsonl")
    [read] = read_jobs(tmp_path)
    assert (read.status, read.metrics) == ("killed", {})

"""The page as one file."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.dashboard.records import (
    PNG,
    alert_record,
    console_record,
    environment_record,
    make_run,
    picture,
    stats_record,
)
from vae_exp.dashboard.runs.discovery import check_roots
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web.export import export, render_document
from vae_exp.errors import UserError

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 & <img src=x onerror=alert(1)>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    config = {"text": HOSTILE, "data": {"root": "/home/a-user-of-it/data"}, "text2": "by a-user-of-it"}
    pictures = {"figures/a": picture("media/images/a.png"), "figures/b": picture("../../../../etc/passwd")}
    more = [
        console_record("printed at /home/a-user-of-it\n"),
        environment_record(host="secret-host", username="a-user-of-it"),
    ]
    path = make_run(tmp_path, "one", config, [{"val/elbo": -2.0, **pictures}], display_name=HOSTILE, more=more)
    (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    return tmp_path


def exported(root: Path, private: bool = False) -> str:
    store = RunStore([root])
    store.read_all()
    return render_document(store, private).decode()


def data_of(html: str) -> dict:
    match = re.search(r'<script type="application/json" id="embedded">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_the_file_holds_the_numbers_and_the_pictures(root: Path):
    data = data_of(exported(root))
    [row] = data["changes"]["runs"]
    assert row["name"] == row["config"]["text"] == HOSTILE
    assert {curve["metric"] for curve in data["curves"]["epoch"]} >= {"val/elbo"}
    [picture_data] = data["pictures"]["one"]
    assert picture_data["data"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_earlier_pictures_are_left_out_on_request(tmp_path: Path):
    """Of each name the last one stays, whatever the other names have."""
    rows = [{"figures/a": picture("media/images/a.png"), "figures/b": picture("media/images/a.png")}]
    rows += [{"figures/a": picture("media/images/a.png")} for _ in range(3)]
    path = make_run(tmp_path, "one", {}, rows)
    (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    store = RunStore([tmp_path])
    store.read_all()
    for last_pictures, expected in (
        (True, {("a", 40), ("b", 10)}),
        (False, {("a", 10), ("a", 20), ("a", 30), ("a", 40), ("b", 10)}),
    ):
        data = data_of(render_document(store, private=False, last_pictures=last_pictures).decode())
        shown = {(item["name"].removeprefix("figures/"), item["step"]) for item in data["pictures"]["one"]}
        assert shown == expected


def test_paths_host_user_and_console_are_left_out_unless_private(root: Path):
    html = exported(root)
    assert "a-user-of-it" not in html
    assert "secret-host" not in html
    assert data_of(html)["changes"]["runs"][0]["config"] == {
        "text": HOSTILE,
        "data.root": "(left out)",
        "text2": "by (left out)",
    }
    private = exported(root, private=True)
    assert "secret-host" in private
    assert "/home/a-user-of-it" in private


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/SECRET/data", "(left out)"),
        ("python t.py --data=/home/SECRET/data --epochs=3", "python t.py --data=(left out) --epochs=3"),
        ("a file at (/home/SECRET)", "a file at ((left out))"),
        ("./../home/SECRET", "(left out)"),
        ("~/SECRET", "(left out)"),
        ("sftp://SECRET/home and more", "(left out) and more"),
        ("C:\\Users\\SECRET", "(left out)"),
        ("on Secret-Host, not secret-hosts", "on (left out), not secret-hosts"),
        (["~/SECRET", "plain"], ["(left out)", "plain"]),
        (["/home/SECRET", "NaN", *["/home/SECRET/part"] * 200], None),
        ([{"/home/SECRET": 1}], [{"(left out)": 1}]),
        ("val/elbo 1/2 and/or outputs/2026 </b> / 3", "val/elbo 1/2 and/or outputs/2026 </b> / 3"),
    ],
)
def test_paths_are_left_out_in_every_position(tmp_path: Path, value: object, shown: object):
    make_run(tmp_path, "one", {"text": value}, more=[environment_record(host="secret-host")])
    html = exported(tmp_path)
    assert "SECRET" not in html
    if shown is not None:
        assert data_of(html)["changes"]["runs"][0]["config"]["text"] == shown


def test_no_part_of_the_page_names_places_or_people(tmp_path: Path):
    path = make_run(
        tmp_path,
        "user-of-it-1",
        {"/home/SECRET": {"key": 1}},
        [{"/home/SECRET/loss": 1.0, "a": picture("media/images/a.png") | {"caption": "of /home/SECRET"}}],
        notes="see /home/SECRET",
        display_name="user-of-it",
        host="first-host",
        more=[environment_record(host="second-host", username="user-of-it"), alert_record("at /home/SECRET")],
    )
    (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    make_run(tmp_path, "user-of-it-1", {"text": "first-host"}, started=1_700_000_500)
    html = exported(tmp_path)
    for name in ("SECRET", "user-of-it", "first-host", "second-host", str(tmp_path)):
        assert name not in html
    data = data_of(html)
    assert data["changes"]["runs"][0]["key"] == "run1"
    assert list(data["pictures"]) == list(data["details"]) == ["run1"]
    assert {curve["run"] for curve in data["curves"]["step"]} == {"run1"}


def test_metrics_with_the_name_of_a_machine_have_their_curves(tmp_path: Path):
    make_run(tmp_path, "one", {}, [{"test/elbo": 1.0}], host="test")
    data = data_of(exported(tmp_path))
    [row] = data["changes"]["runs"]
    assert "test/elbo" in row["keys"]
    assert "test/elbo" in row["summary"]
    assert data["changes"]["higher"] == data["changes"]["ranked"] == ["test/elbo"]
    assert {curve["metric"] for curve in data["curves"]["step"]} >= {"test/elbo"}


def test_measures_of_a_machine_with_the_name_of_a_device_have_their_curves(tmp_path: Path):
    stats = [stats_record(1_700_000_010, {"gpu.0.gpu": 50.0, "/home/SECRET.cpu": 1.0})]
    make_run(tmp_path, "one", {}, [{"a": 1.0}], host="gpu", more=stats)
    data = data_of(exported(tmp_path))
    assert data["changes"]["runs"][0]["gpu"] == ["gpu.0.gpu"]
    measured = [curve["metric"] for curve in data["details"]["one"]["machine"]]
    assert measured == ["gpu.0.gpu", "(left out)"]


def test_latent_spaces_have_the_keys_and_names_of_their_runs(tmp_path: Path):
    more = [environment_record(username="user-of-it")]
    make_run(tmp_path, "user-of-it-1", display_name="mine, user-of-it", more=more)
    store = RunStore([tmp_path])
    store.read_all()
    latent = [
        {"key": "user-of-it-1", "name": "mine, user-of-it", "bundle": "A/bc"},
        {"key": "directory:1", "name": "user-of-it/run", "bundle": "x"},
    ]
    assert data_of(render_document(store, False, latent=latent).decode())["latent"] == [
        {"key": "run1", "name": "mine, (left out)", "bundle": "A/bc"},
        {"key": "directory:1", "name": "(left out)/run", "bundle": "x"},
    ]
    assert data_of(render_document(store, True, latent=latent).decode())["latent"] == latent


def test_nothing_hostile_ends_a_script_element(root: Path):
    html = exported(root)
    outside = re.sub(r"(?s)<script\b[^>]*>.*?</script>", "", html)
    assert "alert(1)" not in outside
    assert html.count("<script") == 3
    assert "<img" not in html


def test_only_the_scripts_that_are_there_may_run_and_nothing_is_fetched(root: Path):
    html = exported(root)
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    scripts = re.findall(r"(?s)<script>(.*?)</script>", html)
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    }
    assert set(directives["script-src"].split()) == hashes
    assert directives["default-src"] == "'none'"
    assert "connect-src" not in directives
    assert "unsafe-eval" not in policy
    assert not re.search(r'(?:src|href)="(?!data:|#)', re.sub(r"(?s)<script\b[^>]*>.*?</script>", "", html))


def test_the_file_is_written_and_its_size_printed(root: Path, tmp_path: Path):
    target = tmp_path / "page.html"
    line = rf"1 run, \d+\.\d MB, written to {re.escape(str(target))}"
    assert re.fullmatch(line, export([root], target, private=False, max_megabytes=50))
    assert target.read_text().startswith("<!doctype html>")


def test_a_first_attempt_is_no_run_of_its_own(tmp_path: Path):
    for number, name in enumerate(("first", "second")):
        make_run(tmp_path, name, {"run_directory": "/runs/a"}, started=1_700_000_000 + 100 * number)
    assert export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50).startswith("1 run, ")


@pytest.mark.parametrize(
    ("folder", "file", "limit", "message"),
    [
        ("wandb", "page.html", 0.00001, "its limit is 1e-05$"),  # of the pictures
        ("wandb", "page.html", 1.0, "its limit is 1$"),  # of all
        ("empty", "page.html", 50, r"no \.wandb files"),
        ("wandb", "file/page.html", 50, r"--export=.*cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_refused(root: Path, folder: str, file: str, limit: float, message: str):
    (root / "empty").mkdir()
    (root / "file").write_text("")
    with pytest.raises(UserError, match=message):
        export([root / folder], root / file, private=False, max_megabytes=limit)
    assert not (root / "page.html").exists()


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("/dev/null", "is neither a folder nor a .wandb file"),
        (__file__, "is neither a folder"),
        ("/nowhere", "does not exist"),
    ],
)
def test_a_root_that_is_no_folder_is_refused(root: str, problem: str):
    with pytest.raises(UserError, match=f"ROOT={root} {problem}"):
        check_roots([Path(root)])

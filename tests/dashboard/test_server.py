"""Requests that the server answers, and those it refuses."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.dashboard.records import (
    PNG,
    alert_record,
    console_record,
    environment_record,
    make_run,
    picture,
    stats_record,
)
from vae_exp.dashboard.explorer.catalog import ExplorerCatalog
from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.runs.media import ImageFile, ImageUnavailableError, read_picture
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.segment import RunSegment
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web.api import serialize_details
from vae_exp.dashboard.web.app import make_app
from vae_exp.dashboard.web.export import render_document
from vae_exp.dashboard.web.security import POLICY
from vae_exp.dashboard.web.server import Refresher

HOSTS = frozenset({"127.0.0.1", "localhost"})
PAGES = ["/", *["/app.js", "/style.css", "/plotly.min.js"]]
PAGES += ["/api/runs", "/api/curves", "/api/pictures", "/api/run/one", "/media/one/0", "/api/latent"]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    path = make_run(
        tmp_path,
        "one",
        {"model": {"latent_dim": 2}},
        [{"val/elbo": -2.0}, {"val/elbo": -1.0, "figures/samples": picture("media/images/a.png")}],
        display_name="<img src=x onerror=alert(1)>",
        more=[
            console_record("hello\n"),
            environment_record(host="example"),
            alert_record("posterior collapse"),
            alert_record("posterior collapse"),
        ],
    )
    (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    store = RunStore([tmp_path])
    store.refresh()
    return store


@pytest.fixture
def client(store: RunStore) -> TestClient:
    return TestClient(
        make_app(store, ExplorerCatalog(store, ExploreOptions()), HOSTS), base_url="http://127.0.0.1:8765"
    )


def rediscover(store: RunStore) -> None:
    store._discovered = float("-inf")
    store.read_all()


def test_the_table_has_what_changed_since(store: RunStore, client: TestClient, tmp_path: Path):
    answer = client.get("/api/runs?since=0")
    assert answer.headers["content-type"].startswith("application/json")
    assert "<img" not in answer.text
    first = answer.json()
    [row] = first["runs"]
    assert (row["name"], row["warnings"]) == ("<img src=x onerror=alert(1)>", {"posterior collapse": ""})
    assert (row["key"], row["state"], row["config"]) == ("one", "finished", {"model.latent_dim": 2})
    assert row["summary"]["val/elbo"] == -1
    assert "figures/samples._type" not in row["summary"]
    assert first["higher"] == ["val/elbo"]
    assert first["units"] == {"val/elbo": "nats/image"}
    assert client.get(f"/api/runs?since={first['cursor']}").json()["runs"] == []
    make_run(tmp_path, "two")
    rediscover(store)
    later = client.get(f"/api/runs?since={first['cursor']}").json()
    assert [row["key"] for row in later["runs"]] == ["two"]


@pytest.mark.parametrize(("against", "x"), [("step", [10, 20]), ("epoch", [1, 2]), ("time", [0.5, 1])])
def test_curves_are_given_against_step_epoch_and_time(client: TestClient, against: str, x: list[float]):
    [curve] = client.get(f"/api/curves?run=one&run=nobody&metric=val/elbo&against={against}").json()["curves"]
    assert (curve["run"], curve["metric"], curve["x"], curve["y"]) == ("one", "val/elbo", x, [-2, -1])


def test_numbers_that_json_does_not_know_become_null(store: RunStore, client: TestClient, tmp_path: Path):
    rows = [{"a": float("nan")}, {"a": float("inf")}, {"a": 1.0}]
    machine = stats_record(1_700_000_010, {"cpu": float("nan"), "_timestamp": float("nan")})
    make_run(tmp_path, "two", {"odd": float("inf")}, rows, more=[machine])
    rediscover(store)
    [curve] = client.get("/api/curves?run=two&metric=a").json()["curves"]
    assert curve["y"] == [None, None, 1]
    assert client.get("/api/run/two").json()["machine"] == [{"metric": "cpu", "x": [10.0], "y": [None]}]
    json.loads(client.get("/api/runs").text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_curves_of_the_machine_are_downsampled():
    segment, start = RunSegment(Path("run.wandb")), 1_700_000_000
    values = np.random.default_rng(0).random(5_000)
    for number, value in enumerate(values.tolist()):
        keys = ("cpu", "gpu", "_timestamp") if number % 2 else ("cpu", "_timestamp")
        segment.machine.append_numbers(number, keys, [value] * (len(keys) - 1) + [start + 15.0 * number])
    run = Run("one", "one", [segment])
    cpu, gpu = serialize_details(run, private=True)["machine"]
    assert (cpu["metric"], gpu["metric"]) == ("cpu", "gpu")
    assert 1_000 < len(cpu["x"]) <= 2_000
    assert max(cpu["y"]) == pytest.approx(values.max(), rel=1e-6)
    assert cpu["x"] == sorted(cpu["x"])
    assert gpu["x"][0] - cpu["x"][0] == 15


def test_details_and_pictures(client: TestClient):
    details = client.get("/api/run/one").json()
    assert details["console"] == [{"text": "hello\n", "error": False}]
    assert details["environment"] == {"host": "example"}
    [picture] = client.get("/api/pictures?run=one").json()["pictures"]["one"]
    assert (picture["name"], picture["epoch"]) == ("figures/samples", 2)
    answer = client.get(f"/media/one/{picture['n']}")
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_has_the_headers_that_confine_it(client: TestClient, path: str):
    answer = client.get(path)
    assert answer.status_code == 200
    expected = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
    }
    assert expected.items() <= dict(answer.headers).items()
    assert answer.headers.keys().isdisjoint({"access-control-allow-origin", "set-cookie"})


def test_the_policy_lets_no_script_in_but_ours():
    directives = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert "unsafe-eval" not in POLICY
    assert "unsafe-inline" not in directives["style-src-elem"]


@pytest.mark.parametrize("path", ["/", "/api/runs", "/media/one/0", "/nowhere"])
def test_other_methods_and_hosts_are_refused(client: TestClient, path: str):
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert "content-security-policy" in answer.headers
    hosts = ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", "", "localhost@evil.example"]
    for host in (*hosts, "0.0.0.0", "[::", "127.0.0.2"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 400
        assert "onerror" not in answer.text
    for host in ("127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST"):
        assert client.get(path, headers={"host": host}).status_code == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_other_sites_may_link_to_the_page_and_ask_for_nothing_else(client: TestClient, site: str, status: int):
    headers = {"sec-fetch-site": site}
    assert client.get("/", headers=headers).status_code == 200
    assert {client.get(path, headers=headers).status_code for path in PAGES[1:]} == {status}


def test_with_a_token_nothing_is_answered_without_it(store: RunStore):
    client = TestClient(
        make_app(store, ExplorerCatalog(store, ExploreOptions()), frozenset(), "secret"),
        base_url="http://192.0.2.1:8765",
    )
    for path in PAGES:
        assert client.get(path).status_code == 404
        assert client.get(f"/wrong{path}").status_code == 404
        assert client.get(f"/secretly{path}").status_code == 404
        assert client.get(f"/secret{path}").status_code == 200
    assert client.get("/secret", follow_redirects=False).headers["location"] == "/secret/"


TRAVERSALS = ["../../../../etc/passwd", "/etc/passwd", "media/../../../../../../etc/passwd", "", "media"]
TRAVERSALS += ["media/images/../../secret.png", "media/link.png", "media/folder/secret.png", "secret.png"]
TRAVERSALS += ["..%2f..%2fsecret.png", "media\\..\\..\\secret.png", "media/pipe.png", "media/images/\0.png"]
NOT_RASTER = ["media/images/page.png", "media/images/drawing.svg", "media/images/huge.png"]


@pytest.mark.parametrize("path", TRAVERSALS + NOT_RASTER)
def test_no_file_but_a_raster_image_in_the_media_folder_is_shown(tmp_path: Path, path: str):
    files = tmp_path / "run" / "files"
    images = files / "media" / "images"
    images.mkdir(parents=True)
    for secret in (tmp_path / "secret.png", tmp_path / "run" / "secret.png", files / "secret.png"):
        secret.write_bytes(PNG)
    (files / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    (files / "media" / "folder").symlink_to(tmp_path)
    (images / "page.png").write_bytes(b"<html><script>alert(1)</script>")
    (images / "drawing.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with (images / "huge.png").open("wb") as file:
        file.write(PNG)
        file.truncate(30_000_000)
    os.mkfifo(files / "media" / "pipe.png")
    with pytest.raises(ImageUnavailableError):
        read_picture(ImageFile("a", 1, None, "", tmp_path / "run", path))


def test_a_media_folder_that_is_a_link_shows_nothing(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(PNG)
    (tmp_path / "run" / "files").mkdir(parents=True)
    (tmp_path / "run" / "files" / "media").symlink_to(outside)
    with pytest.raises(ImageUnavailableError):
        read_picture(ImageFile("a", 1, None, "", tmp_path / "run", "media/a.png"))


@pytest.mark.parametrize(
    "path",
    ["/../../../../etc/passwd", "/media/one/../../../../etc/passwd", "/media/one/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
     "/media/one/-1", "/media/one/999", "/media/one/" + "1" * 5000,
     "/media/..%2f..%2fetc/0", "/api/run/..%2f..%2fetc%2fpasswd",
     "/static/../__main__.py", "//etc/passwd", "/media/one/0/../../../x", "/api/run/nobody", "/script/10_dom.js"],
)  # fmt: skip
def test_no_address_leads_out(client: TestClient, path: str):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "root:" not in answer.text


@pytest.mark.parametrize("since", ["abc", "-1", "1e9", "9" * 400, "%00"])
def test_odd_cursors_ask_for_everything(client: TestClient, since: str):
    assert len(client.get(f"/api/runs?since={since}").json()["runs"]) == 1


@pytest.mark.parametrize(
    ("query", "text"),
    [("against=nothing", "step, epoch, time"), ("run=one" + "&metric=a" * 5_001, "at most 5000 curves")],
)
def test_too_much_at_once_is_refused(client: TestClient, query: str, text: str):
    answer = client.get(f"/api/curves?{query}")
    assert (answer.status_code, text in answer.text) == (400, True)


def test_text_that_no_encoding_can_write_breaks_no_answer(store: RunStore, client: TestClient, tmp_path: Path):
    make_run(tmp_path, "two", {"k": ["\ud800", {"\udfff": 1}]}, [{"m": {"n\udfff": 1.0}}])
    Path(os.fsdecode(bytes(tmp_path) + b"/run-\xff.wandb")).write_bytes(b"of no known format")
    rediscover(store)
    answer = client.get("/api/runs").json()
    assert answer["runs"][-1]["config"]["k"] == ["?", {"?": 1}]
    assert "run-?.wandb" in answer["notes"][0]
    assert render_document(store, private=False)


def test_a_folder_that_is_a_loop_of_links_shows_nothing(client: TestClient, tmp_path: Path):
    [folder] = (tmp_path / "wandb").iterdir()
    folder.rename(tmp_path / "gone")
    folder.symlink_to(folder)
    assert client.get("/media/one/0").status_code == 404


def test_a_refresh_that_fails_is_reported_and_repeated(store: RunStore, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def refresh() -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("unexpected")
        return False

    monkeypatch.setattr(store, "refresh", refresh)
    refresher = Refresher(store, seconds=0.01)
    refresher.start()
    deadline = time.monotonic() + 5
    while len(calls) <= 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    refresher.stop()
    assert len(calls) > 2
    assert store.notes == ["the runs could not be read: RuntimeError: unexpected"]

"""Notes beside runs: files, requests that save them, and requests that are refused."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from starlette.testclient import TestClient

from tests.dashboard.browsers import dashboard
from tests.dashboard.records import environment_record, make_run
from tests.dashboard.test_export import data_of
from vae_exp.dashboard.explorer.catalog import ExplorerCatalog
from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.runs.run_notes import MAX_CHARACTERS
from vae_exp.dashboard.runs.run_tables import RunTables
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web.app import make_app
from vae_exp.dashboard.web.export import render_document
from vae_exp.storage.run_directory import RunDirectory

TOKEN = "of this page"
ADDRESS = "http://127.0.0.1:8765"
HEADERS = {"origin": ADDRESS, "sec-fetch-site": "same-origin", "x-notes-token": TOKEN}
HOSTS = frozenset({"127.0.0.1", "localhost"})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The directory of the run `one`, which has a config, as Hydra writes it."""
    path = tmp_path / "root" / "one"
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text("{}")
    more = [environment_record(host="thinkpad")]
    make_run(tmp_path / "root", "one", {"run_directory": str(path)}, [{"a": 1.0}], more=more, notes="of W&B")
    return path


@pytest.fixture
def store(run_dir: Path) -> RunStore:
    store = RunStore([run_dir.parent])
    store.read_all()
    return store


def open_page(store: RunStore, notes_token: str = TOKEN) -> TestClient:
    app = make_app(store, ExplorerCatalog(store, ExploreOptions()), HOSTS, notes_token=notes_token)
    return TestClient(app, base_url=ADDRESS)


@pytest.fixture
def client(store: RunStore) -> Iterator[TestClient]:
    with open_page(store) as client:
        yield client


def version(client: TestClient, key: str = "one") -> str:
    return client.get(f"/api/run/{key}").json()["note"]["version"]


def save(client: TestClient, text: str, key: str = "one", **headers: str) -> Any:
    content = {"text": text, "version": version(client, key)}
    return client.post(f"/api/notes/{key}", json=content, headers={**HEADERS, **headers})


def refresh(store: RunStore) -> None:
    store._discovered = float("-inf")
    store.read_all()


def test_a_note_is_a_file_of_the_run_directory(store: RunStore, client: TestClient, run_dir: Path):
    cursor = client.get("/api/runs").json()["cursor"]
    assert client.get("/api/run/one").json()["note"] == {"text": "", "version": version(client), "problem": ""}
    text = "Diverges with lr = 0.1 → try <b>0.01</b>\nsecond line 🙂 \ufffd"
    answer = save(client, text)
    assert (answer.status_code, answer.json()["text"]) == (200, text)
    assert (run_dir / "notes.md").read_text() == text
    assert {path.name for path in run_dir.iterdir()} == {".hydra", "notes.md"}
    [row] = client.get(f"/api/runs?since={cursor}").json()["runs"]
    assert row["note"] == text
    details = client.get("/api/run/one").json()
    assert (details["notes"], details["note"]["text"], details["note"]["problem"]) == ("of W&B", text, "")
    assert save(client, " \n").status_code == 200
    assert not (run_dir / "notes.md").exists()


def test_a_note_written_by_an_editor_appears(store: RunStore, client: TestClient, run_dir: Path):
    cursor = client.get("/api/runs").json()["cursor"]
    (run_dir / "notes.md").write_text("by hand")
    refresh(store)
    [row] = client.get(f"/api/runs?since={cursor}").json()["runs"]
    assert row["note"] == "by hand"
    assert RunTables(list(store.runs.values())).info["notes"].tolist() == ["by hand"]
    (run_dir / "notes.md").unlink()
    refresh(store)
    assert client.get("/api/runs").json()["runs"][0]["note"] == ""


def test_a_note_that_has_changed_is_not_replaced(store: RunStore, client: TestClient, run_dir: Path):
    content = {"text": "mine", "version": version(client)}
    (run_dir / "notes.md").write_text("theirs")
    answer = client.post("/api/notes/one", json=content, headers=HEADERS)
    assert (answer.status_code, "has changed" in answer.text) == (409, True)
    assert (run_dir / "notes.md").read_text() == "theirs"


@pytest.mark.parametrize(
    ("data", "text", "problem"),
    [
        (b"a" * (MAX_CHARACTERS + 1), "a" * MAX_CHARACTERS + "…", "more than 10,000 characters"),
        (b"caf\xe9", "caf\ufffd", "is not UTF-8"),
    ],
)
def test_a_file_that_the_page_cannot_hold_is_left_alone(
    store: RunStore, client: TestClient, run_dir: Path, data: bytes, text: str, problem: str
):
    (run_dir / "notes.md").write_bytes(data)
    refresh(store)
    note = client.get("/api/run/one").json()["note"]
    assert (note["text"], problem in note["problem"]) == (text, True)
    assert save(client, "short").status_code == 400
    assert (run_dir / "notes.md").read_bytes() == data


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://127.0.0.1:8765.evil.example"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"x-notes-token": "guessed"}, 403),
        ({"x-notes-token": ""}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 400),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-length": "131073"}, 413),
        ({"content-length": "9" * 5000}, 413),
        ({"content-length": "-1"}, 411),
        ({"transfer-encoding": "chunked"}, 411),
    ],
)
def test_requests_that_the_page_does_not_send_are_refused(
    client: TestClient, run_dir: Path, headers: dict[str, str], status: int
):
    assert save(client, "mine", **headers).status_code == status
    assert not (run_dir / "notes.md").exists()


def test_without_an_origin_or_a_length_nothing_is_saved(store: RunStore, run_dir: Path):
    """Nor is the body read."""
    app = make_app(store, ExplorerCatalog(store, ExploreOptions()), HOSTS, notes_token=TOKEN)
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    common = {"host": "127.0.0.1:8765", "content-type": "application/json", **HEADERS}
    for missing, length, status in (("origin", "10", 403), ("", "", 411), ("", "10000000", 413)):
        headers = {k: x for k, x in {**common, "content-length": length}.items() if k != missing and x}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/api/notes/one", "query_string": b"", "headers": raw}
        with ThreadPoolExecutor() as threads:  # another test may run a loop in this one
            threads.submit(anyio.run, app, scope, receive, send).result()
        assert sent[-2]["status"] == status
    assert not (run_dir / "notes.md").exists()


def test_only_the_address_of_notes_takes_a_post_and_only_if_it_is_allowed(store: RunStore, client: TestClient):
    for path in ("/", "/api/runs", "/api/run/one", "/media/one/0", "/api/latent", "/api/notes", "/nowhere"):
        assert client.post(path, json={}, headers=HEADERS).status_code == 405
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        assert client.request(method, "/api/notes/one", headers=HEADERS).status_code == 405
    assert client.get("/api/notes/one").status_code == 405
    assert TOKEN in client.get("/").text
    with open_page(store, "") as reading:
        assert save(reading, "mine", **{"x-notes-token": ""}).status_code == 405
        assert "notes-token" not in reading.get("/").text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"text": 1, "version": ""}', b'{"text": "a"}', b"[" * 100_000]
)
def test_a_body_that_is_no_note_is_refused(client: TestClient, run_dir: Path, body: bytes):
    headers = {**HEADERS, "content-type": "application/json"}
    assert client.post("/api/notes/one", content=body, headers=headers).status_code == 400
    assert not (run_dir / "notes.md").exists()


@pytest.mark.parametrize("text", ["a" * (MAX_CHARACTERS + 1), "\ud800"])
def test_a_text_that_no_note_can_hold_is_refused(client: TestClient, run_dir: Path, text: str):
    content = json.dumps({"text": text, "version": version(client)})
    headers = {**HEADERS, "content-type": "application/json; charset=utf-8"}
    assert client.post("/api/notes/one", content=content, headers=headers).status_code == 400
    assert not (run_dir / "notes.md").exists()
    assert save(client, "🙂" * MAX_CHARACTERS).status_code == 200


def test_notes_stay_within_run_directories_below_the_roots(tmp_path: Path, run_dir: Path):
    root, outside = run_dir.parent, tmp_path / "outside"
    (outside / ".hydra").mkdir(parents=True)
    (outside / ".hydra" / "config.yaml").write_text("{}")
    (outside / "notes.md").write_text("secret")
    (root / "link").symlink_to(outside)
    (root / "empty").mkdir()
    (root / "two" / ".hydra").mkdir(parents=True)
    (root / "two" / ".hydra" / "config.yaml").write_text("{}")
    (root / "two" / "notes.md").symlink_to(outside / "notes.md")
    (root / "pipe" / ".hydra").mkdir(parents=True)
    (root / "pipe" / ".hydra" / "config.yaml").write_text("{}")
    os.mkfifo(root / "pipe" / "notes.md")
    expected = {
        "none": ("", "has no run directory"),
        "outside": (str(outside), "not below the folders"),
        "link": (str(root / "link"), "not below the folders"),
        "dots": (str(root / "one" / ".." / ".." / "outside"), "not below the folders"),
        "empty": (str(root / "empty"), "holds no run"),
        "gone": (str(root / "gone"), "holds no run"),
        "odd": (str(root / "gone\udcff"), "holds no run"),
        "two": (str(root / "two"), "is not a regular file"),
        "pipe": (str(root / "pipe"), "is not a regular file"),
        "null": (str(root) + "/\0", "not below the folders"),
    }
    for number, (key, (directory, _)) in enumerate(expected.items()):
        make_run(root, key, {"run_directory": directory} if directory else {}, started=1_700_000_100 + number)
    store = RunStore([root])
    store.read_all()
    with open_page(store) as client:
        for key, (_, problem) in expected.items():
            note = client.get(f"/api/run/{key}").json()["note"]
            assert (note["text"], problem in note["problem"]) == ("", True), (key, note)
            answer = save(client, "mine", key)
            assert (answer.status_code, problem in answer.text) == (400, True), (key, answer.text)
        assert (
            client.post("/api/notes/nobody", json={"text": "", "version": ""}, headers=HEADERS).status_code == 404
        )
    with open_page(store, notes_token="") as client:  # then nobody asks why there can be none
        details = [client.get(f"/api/run/{key}").json() for key in ("none", "empty", "gone")]
        assert [entry["note"]["problem"] for entry in details] == ["", "", ""]
    assert (outside / "notes.md").read_text() == "secret"
    assert "secret" not in json.dumps([run.note.text for run in store.runs.values()])


def test_a_note_outlives_the_attempts_of_its_run(store: RunStore, client: TestClient, run_dir: Path):
    """It is no trace of a run, is not archived with an attempt, and is no leftover."""
    save(client, "kept")
    directory = RunDirectory(run_dir)
    directory.remove_temp_files()
    directory.archive_attempt()
    assert (run_dir / "notes.md").read_text() == "kept"
    assert not directory.contains_run()
    directory.require_free()


def test_an_export_has_notes_without_names_and_paths(store: RunStore, client: TestClient):
    save(client, "on thinkpad, see /home/me/plan.txt, good")
    for private, text in (
        (True, "on thinkpad, see /home/me/plan.txt, good"),
        (False, "on (left out), see (left out), good"),
    ):
        data = data_of(render_document(store, private).decode())
        assert data["changes"]["runs"][0]["note"] == text
        assert data["details"]["one"]["note"]["text"] == text


def test_the_command_saves_notes_over_http(run_dir: Path):
    def ask(address: str, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        with closing(HTTPConnection(urlsplit(address).netloc, timeout=20)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    with dashboard([run_dir.parent], "--allow-notes") as address:
        token = ask(address, "GET", "/")[1].partition('name="notes-token" content="')[2].partition('"')[0]
        assert len(token) == 32
        until = time.monotonic() + 20
        while ask(address, "GET", "/api/run/one")[0] != 200 and time.monotonic() < until:
            time.sleep(0.1)
        note = json.loads(ask(address, "GET", "/api/run/one")[1])["note"]
        headers = {"Origin": address.rstrip("/"), "Content-Type": "application/json", "X-Notes-Token": token}
        body = json.dumps({"text": "over HTTP", "version": note["version"]})
        assert ask(address, "POST", "/api/notes/one", body, **{**headers, "X-Notes-Token": "x"})[0] == 403
        assert ask(address, "POST", "/api/notes/one", body, **headers)[0] == 200
        assert (run_dir / "notes.md").read_text() == "over HTTP"
    with dashboard([run_dir.parent]) as address:
        headers["Origin"] = address.rstrip("/")
        assert ask(address, "POST", "/api/notes/one", body, **headers)[0] == 405

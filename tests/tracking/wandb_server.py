"""A W&B server on the loopback address that knows one sweep, its agents and their runs."""

import gzip
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

SWEEP = "sweep1"
PROJECT = {"id": "project", "name": "vae_exp", "entity": {"id": "entity", "name": "someone"}}


@dataclass
class Run:
    """What the server knows of a run.

    Args:
        sweep: The sweep that the client has named.
        config: As the client has sent it, without W&B's own part.
        rows: What has been logged, a mapping per step.
        exit_code: None until the client says that it has ended.
        artifacts: By name: `type`, `metadata`, `aliases`, and whether it is `committed`.
    """

    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)


class WandbServer:
    """Answers `wandb sweep`, `wandb agent` and their runs.

    Args:
        parameters: Of the runs that agents are to start, one after the other.
    """

    def __init__(self, parameters: Sequence[dict[str, Any]]) -> None:
        self.parameters = list(parameters)
        self.sweep: dict[str, Any] = {}
        self.url = ""
        self.runs: dict[str, Run] = {}
        self.uploads: dict[str, bytes] = {}
        self._started = 0

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40}

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that a GraphQL operation returns."""
        answers = {
            "Viewer": self._viewer,
            "UpsertSweep": self._upsert_sweep,
            "SweepWithRuns": self._read_sweep,
            "CreateAgent": self._create_agent,
            "Heartbeat": self._heartbeat,
            "UpsertBucket": self._upsert_run,
            "CreateRunFiles": self._create_files,
            "ArtifactType": lambda _: {"project": None},
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
        }
        return answers[operation](variables) if operation in answers else {}

    def stream(self, run_id: str, content: dict[str, Any]) -> None:
        """Take what a run logs."""
        run = self.runs[run_id]
        files = content.get("files") or {}
        run.rows += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if content.get("complete"):
            run.exit_code = content["exitcode"]

    def _viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "someone", "username": "someone", "teams": {"edges": []}}}

    def _upsert_sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.sweep = yaml.safe_load(variables["config"])
        sweep = {"name": SWEEP, "project": PROJECT}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _read_sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": SWEEP, "name": SWEEP, "config": yaml.safe_dump(self.sweep), "runs": {"edges": []}}
        return {"project": {"sweep": sweep if variables["sweep"] == SWEEP else None}}

    def _create_agent(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        command: dict[str, Any] = {"type": "exit"}
        if json.loads(variables["runState"]):
            return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": "[]"}}
        if self.parameters:
            self._started += 1
            arguments = {name: {"value": value} for name, value in self.parameters.pop(0).items()}
            command = {"type": "run", "run_id": f"run{self._started}", "args": arguments}
            command["program"] = self.sweep.get("program")
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps([command])}}

    def _upsert_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(variables["name"], Run())
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("config"):
            config = json.loads(variables["config"])
            run.config = {name: entry["value"] for name, entry in config.items() if name != "_wandb"}
        bucket = {"id": variables["name"], "name": variables["name"], "project": PROJECT, "sweepName": run.sweep}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        request = variables["input"]
        name, run_id = request["artifactCollectionName"], request["runName"]
        self.runs[run_id].artifacts[name] = {
            "type": request["artifactTypeName"],
            "metadata": json.loads(request["metadata"] or "{}"),
            "aliases": sorted(alias["alias"] for alias in request["aliases"]),
            "committed": False,
        }
        artifact = {"id": f"{run_id}/{name}", "state": "PENDING", "artifactSequence": {"id": name}}
        return {"createArtifact": {"artifact": artifact}}

    def _create_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "file", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}

    def _create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"id": file["name"], "name": file["name"], "displayName": file["name"], "uploadHeaders": [],
             "uploadUrl": f"{self.url}/upload/{file['artifactID']}/{file['name']}", "storagePath": "",
             "artifact": {"id": file["artifactID"]}}
            for file in variables["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id, name = variables["artifactID"].split("/")
        self.runs[run_id].artifacts[name]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that end close their connections."""


@contextmanager
def serve(server: WandbServer) -> Iterator[WandbServer]:
    """Let a server answer within the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                request = json.loads(body)
                [operation, *_] = re.findall(r"(?:query|mutation)\s+(\w+)", request["query"])
                answer = {"data": server.answer(operation, request.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            elif self.command == "PUT":
                server.uploads[self.path.removeprefix("/upload/")] = body
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            pass

    http = _Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()

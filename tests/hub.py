"""A Hugging Face hub on loopback: the routes by which its client reads one model and pushes another."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_loopback"
SHA = "0" * 40


@dataclass
class Hub:
    """What it was given."""

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Of the last commit."""
    large: dict[str, bytes] = field(default_factory=dict)
    """By sha256: what came before the commit that names it."""
    asked: list[str] = field(default_factory=list)
    refuses: str = ""
    """A part of paths that are answered with 403."""
    base: Path | None = None
    """The folder of somebody/base."""
    private: dict[str, bool] = field(default_factory=dict)
    """Of each repository that is there besides, whether it is private."""
    makes_public: bool = False
    """Whether a repository is there, and public, by the time that it is created: somebody else was faster."""


@contextmanager
def open_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            place = self.path.partition("?")[0].split("/")
            if place[1:4] == ["somebody", "base", "resolve"]:
                self._file("/".join(place[5:]))
            else:
                self._answer(b"")

        do_HEAD = do_GET

        def _file(self, name: str) -> None:
            file = None if hub.base is None else hub.base / name
            there = file is not None and file.is_file()
            data = file.read_bytes() if file is not None and there else b""
            self.send_response(200 if there else 404)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            if not there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))

        do_PUT = do_POST

        def _answer(self, body: bytes) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if self.command == "PUT":
                hub.large[path.rpartition("/")[2]] = body
                self._send(200, {})
            elif not signed:
                self._send(401, {"error": "Invalid username or password."})
            elif hub.refuses and hub.refuses in path:
                self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
            elif path == "/api/repos/create" and _is_there(hub, body):
                self._send(
                    409,
                    {
                        "error": "You already created this model repo",
                        "url": f"{hub.address}/{_name(json.loads(body))}",
                    },
                )
            elif (answer := _answers(hub, path, body)) is None:
                self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            else:
                self._send(200, answer)

        def _send(self, status: int, value: dict[str, Any], more: Mapping[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (more or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answers(hub: Hub, path: str, body: bytes) -> dict[str, Any] | None:
    if path == "/api/whoami-v2":
        return {"name": "somebody", "type": "user"}
    if path.startswith("/api/models/somebody/base"):
        assert hub.base is not None
        names = [{"rfilename": one.name} for one in hub.base.iterdir()]
        return {"id": "somebody/base", "sha": SHA, "siblings": names, "tags": []}
    if path == "/api/repos/create":
        made = json.loads(body)
        hub.created.append(made)
        hub.private[_name(made)] = made.get("private") is True or made.get("visibility") == "private"
        return {"url": f"{hub.address}/{_name(made)}", "id": _name(made)}
    if (name := path.removeprefix("/api/models/")) in hub.private:
        return {"id": name, "sha": SHA, "siblings": [], "tags": [], "private": hub.private[name]}
    if path.endswith("/preupload/main"):
        files = json.loads(body)["files"]
        modes = (
            {"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False} for one in files
        )
        return {"files": [*modes]}
    if path.endswith("/info/lfs/objects/batch"):
        return {"transfer": "basic", "objects": [_upload(hub, one) for one in json.loads(body)["objects"]]}
    if path.endswith("/commit/main"):
        _commit(hub, body)
        return {
            "commitUrl": f"{hub.address}/somebody/student/commit/{SHA}",
            "commitOid": SHA,
            "success": True,
        }
    return {} if path == "/api/validate-yaml" else None


def _name(made: dict[str, Any]) -> str:
    return f"{made['organization']}/{made['name']}"


def _is_there(hub: Hub, body: bytes) -> bool:
    name = _name(json.loads(body))
    if hub.makes_public:
        hub.private[name] = False
    return name in hub.private


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"


def _upload(hub: Hub, wanted: dict[str, Any]) -> dict[str, Any]:
    oid, size = wanted["oid"], wanted["size"]
    return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{hub.address}/large/{oid}"}}}


def _commit(hub: Hub, body: bytes) -> None:
    hub.files = {}
    for line in body.splitlines():
        row = json.loads(line)
        value = row["value"]
        if row["key"] == "file":
            assert value["encoding"] == "base64"
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif row["key"] == "lfsFile":
            data = hub.large[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"] and len(data) == value["size"]
            hub.files[value["path"]] = data

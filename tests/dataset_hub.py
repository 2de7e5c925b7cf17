"""A hub on loopback: the routes of the Hugging Face hub that `datasets` asks for a repository of files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

COMMIT = hashlib.sha1(b"a commit").hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Serves `files` of the dataset `repository`, to whoever brings `token` where that is set."""

    protocol_version = "HTTP/1.1"
    repository = "owner/tickets"
    files: Mapping[str, bytes] = {}
    token: str | None = None
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.append(f"POST {self.path}")
        if self._refused():
            return
        if self.path.startswith(f"/api/datasets/{self.repository}/paths-info/"):
            self._json([self._entry(name) for name in asked["paths"] if name in self.files])
        else:
            self._json({"error": "no such route"}, 404)

    def _refused(self) -> bool:
        if self.token is not None and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return True
        return False

    def _entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        return {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {self.path}")
        if self._refused():
            return
        # No other dataset is there, and nobody else's revision.
        api, resolve = f"/api/datasets/{self.repository}", f"/datasets/{self.repository}/resolve/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            files = [{"rfilename": name} for name in self.files]
            self._json(
                {"id": self.repository, "sha": COMMIT, "private": False, "siblings": files, "tags": []}
            )
        elif path.startswith(f"{api}/tree/"):
            folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
            inside = [name for name in self.files if name.startswith(f"{folder}/" if folder else "")]
            if inside:
                self._json([self._entry(name) for name in inside])
            else:
                self._json({"error": "no such folder"}, 404, {"X-Error-Code": "EntryNotFound"})
        elif path.startswith(resolve):
            name = path.removeprefix(resolve).partition("/")[2]
            if name in self.files:
                self._file(self.files[name], with_body)
            else:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _file(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _json(self, value: object, code: int = 200, more: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        for key, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Repo-Commit": COMMIT,
            **(more or {}),
        }.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub(files: Mapping[str, bytes], token: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """A hub with one dataset, `owner/tickets`: its address, and the requests as they come."""
    asked: list[str] = []
    handler = type("OneHub", (Hub,), {"files": files, "token": token, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

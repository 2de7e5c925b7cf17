"""A fake of OpenAI's chat API on loopback: real clients reach it, and a function answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import pytest

KEY = "fake-key-never-print-me"
READ, WRITTEN = 1000, 100
"""Tokens of every call."""

Answer = Callable[[list[dict[str, str]], int], str | int]
"""(chat turns, number of the call) -> a reply, cut at its token limit where it ends with a bar, or the status of an error that
repeats the key."""


@dataclass
class OpenAIAPI:
    """What the server is told and what it saw."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies in the order in which they came."""
    lock: Lock = field(default_factory=Lock)
    busy: int = 0
    busiest: int = 0
    """Most calls that were answered at the same time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: OpenAIAPI

    def do_POST(self) -> None:
        api, body = self.api, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with api.lock:
            number = len(api.asked)
            api.asked.append(body)
            api.busy += 1
            api.busiest = max(api.busiest, api.busy)
        said: str | int = 401
        if self.headers["Authorization"] == f"Bearer {KEY}":
            said = api.answer(body["messages"], number)
        with api.lock:
            api.busy -= 1
        if isinstance(said, int):
            self._reply(said, {"error": {"message": f"no good: {KEY}", "code": "error"}})
            return
        message = {"role": "assistant", "content": said.removesuffix("|")}
        choice = {"index": 0, "message": message, "finish_reason": "length" if said.endswith("|") else "stop"}
        usage = {"prompt_tokens": READ, "completion_tokens": WRITTEN, "total_tokens": READ + WRITTEN}
        about = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        self._reply(200, {**about, "choices": [choice], "usage": usage})

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def openai_api(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Iterator[OpenAIAPI]:
    """Serves while the environment points OpenAI's clients at it with the accepted key."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.api = api = OpenAIAPI(answer)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

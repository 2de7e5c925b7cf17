"""A fake of Anthropic's Messages API on loopback: real clients reach it, and it plays a script."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

KEY = "fake-key-never-print-me"
MODEL = "claude-opus-5-5"

Behaviour = Callable[["_Handler"], object]
"""Answers one POST /v1/messages."""


def normal(text: str, stop_reason: str = "end_turn") -> Behaviour:
    """A reply of one text block, 1,000 tokens in and 200 out."""
    about = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL}
    content = [{"type": "text", "text": text}] if text else []
    usage = {"input_tokens": 1000, "output_tokens": 200}
    body = {**about, "content": content, "stop_reason": stop_reason, "stop_sequence": None, "usage": usage}
    return lambda handler: handler.reply(200, body)


def instruction(text: str) -> Behaviour:
    """The reply that DSPy's proposer hopes for."""
    return normal(json.dumps({"new_instruction": text}))


def cut(text: str) -> Behaviour:
    """A reply that ends at max_tokens."""
    return normal(text, stop_reason="max_tokens")


def slow(release: Event, then: Behaviour) -> Behaviour:
    """Waits for the test, then answers."""
    return lambda handler: release.wait(timeout=30) and then(handler)


def error(status: int, kind: str, message: str = f"bad: {KEY}", **headers: str) -> Behaviour:
    """An error in Anthropic's format; its message repeats the key, as providers' messages may."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return lambda handler: handler.reply(status, body, **headers)


def rate_limited(retry_after: str = "0") -> Behaviour:
    return error(429, "rate_limit_error", **{"retry-after": retry_after})


OVERLOADED = error(529, "overloaded_error")
BROKEN = error(500, "api_error")


def malformed(handler: _Handler) -> None:
    """Sends a body that is no JSON."""
    handler.reply(200, b"<html>Welcome to the proxy</html>")


def hang(handler: _Handler) -> None:
    """Does not answer while the server runs."""
    handler.api.closed.wait()


def drip(handler: _Handler) -> None:
    """Declares a body and sends a byte of it at a time, never too slowly for a client's timeout."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.api.closed.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def disconnect(handler: _Handler) -> None:
    """Declares a body, sends a part of it and closes the connection."""
    handler.reply(200, b'{"id": "msg_1", "type": "mess', **{"Content-Length": "500", "Connection": "close"})


@dataclass
class AnthropicAPI:
    """What the server is told and what it saw."""

    url: str
    script: list[Behaviour]
    """One behaviour for each POST /v1/messages, in order; the last one for ever."""
    counted: int | None = 1234
    """What count_tokens answers; None is a 500."""
    paths: list[str] = field(default_factory=list)
    """Every request, as "METHOD path"."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of POST /v1/messages."""
    counts: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of POST /v1/messages/count_tokens."""
    closed: Event = field(default_factory=Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: AnthropicAPI

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        api, body = self.api, json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        api.paths.append(f"{self.command} {self.path}")
        # litellm sends the first, the SDK the second.
        key = self.headers["x-api-key"] or self.headers["Authorization"].removeprefix("Bearer ")
        if key != KEY:
            error(401, "authentication_error", f"invalid x-api-key: {key}")(self)
        elif self.path == "/v1/messages":
            api.messages.append(body)
            api.script[min(len(api.messages), len(api.script)) - 1](self)
        elif self.path == "/v1/messages/count_tokens":
            api.counts.append(body)
            BROKEN(self) if api.counted is None else self.reply(200, {"input_tokens": api.counted})
        elif self.path == f"/v1/models/{MODEL}":
            about = {
                "type": "model",
                "id": MODEL,
                "display_name": MODEL,
                "created_at": "2026-01-01T00:00:00Z",
            }
            self.reply(200, {**about, "max_tokens": 128_000})
        else:
            error(404, "not_found_error")(self)

    def reply(self, status: int, body: Mapping[str, Any] | bytes, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def anthropic_api(monkeypatch: pytest.MonkeyPatch, *script: Behaviour) -> Iterator[AnthropicAPI]:
    """Serves the script while the environment points Anthropic's clients at it with the accepted key."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.api = api = AnthropicAPI(f"http://127.0.0.1:{server.server_port}", list(script))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_BASE", api.url)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        api.closed.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""A reflection model on loopback that takes its time: OpenAI's chat API, with a made-up instruction for each question."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

NAME = "openai/gpt-4o-mini"
"""A model of which litellm knows the price."""

SENTENCES = (
    "Work it out step by step.",
    "Check each step before you go on.",
    "Write the result alone at the end.",
    "Be brief.",
    "Do not explain.",
    "Read the question twice.",
    "End your reply with the answer.",
    "Give the answer at once.",
)


@dataclass(frozen=True)
class Manner:
    """How the model answers."""

    seconds: float
    """Until a reply comes."""
    read: int = 0
    """Tokens that it says it has read, as many for every reply."""
    written: int = 0


class SlowModel(ThreadingHTTPServer):
    """Answers each request in a thread of its own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manner = Manner(0.0)

    def answers(self, seconds: float, tokens: tuple[int, int] = (0, 0)) -> None:
        """Take so long from now on, and bill so much."""
        self.manner = replace(self.manner, seconds=seconds, read=tokens[0], written=tokens[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowModel

    def do_POST(self) -> None:
        manner = self.server.manner
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(manner.seconds)
        message = {"role": "assistant", "content": json.dumps({"new_instruction": written(asked)})}
        usage = {"prompt_tokens": manner.read, "completion_tokens": manner.written}
        body = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": NAME,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {**usage, "total_tokens": manner.read + manner.written},
        }
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def written(asked: bytes) -> str:
    """An instruction that is the same for the same question: four sentences, and a number that tells it from others."""
    mark = zlib.crc32(asked)
    chosen = [SENTENCES[mark >> 3 * place & 7] for place in range(4)]
    return " ".join(["Answer the question.", *dict.fromkeys(chosen), f"(Variant {mark}.)"])


@contextmanager
def slow_model() -> Iterator[SlowModel]:
    """Serves while the environment points OpenAI's clients at it."""
    server = SlowModel()
    own = {
        "OPENAI_API_KEY": "none-is-needed",
        "OPENAI_API_BASE": f"http://127.0.0.1:{server.server_port}/v1",
    }
    before = {key: os.environ.get(key) for key in own}
    os.environ.update(own)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value

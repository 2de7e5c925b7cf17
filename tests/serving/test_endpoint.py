"""A student answers over HTTP as it answers in the process, one by one and many at a time."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gepa_loop.cli import run
from gepa_loop.errors import EnvironmentFault, PromptError
from gepa_loop.outside.redact import printable
from gepa_loop.sampling.base import Sampling
from gepa_loop.serving.endpoint import Endpoint
from gepa_loop.serving.finished import read_finished
from gepa_loop.serving.listen import free_socket
from gepa_loop.serving.talk import Talker, open_talker
from gepa_loop.task.records import Messages

uvicorn = pytest.importorskip("uvicorn")

ASK = (("user", "What is 2 + 2?"),)


@pytest.fixture(scope="module")
def talker(place: Path) -> Talker:
    return open_talker(read_finished(str(place / "runs" / "d")))


@pytest.fixture(scope="module")
def client(talker: Talker) -> Iterator[httpx.Client]:
    endpoint = Endpoint(talker, temperature=0.0, max_tokens=6, batch=4)
    with free_socket("127.0.0.1", 0) as listener:
        listener.listen()  # who connects before the server has begun waits
        server = uvicorn.Server(uvicorn.Config(endpoint.app(), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60, trust_env=False
        ) as asking:
            yield asking
        server.should_exit = True
        thread.join()


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "student", "messages": [{"role": "user", "content": ASK[0][1]}], **more}


def _text(client: httpx.Client, **more: Any) -> str:
    reply = client.post("/v1/chat/completions", json=_body(**more))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_who_answers_reads_what_was_trained(talker: Talker) -> None:
    renderer, prompt = talker.renderer, talker.finished.prompt.text
    for who, text in (("student", ""), ("bare", ""), ("prompted", prompt)):
        tokens = talker.tokens(who, ASK)  # type: ignore[arg-type]
        assert (prompt in renderer.tokenizer.decode(tokens)) == bool(text)
    # Greedily, the student's reply is that of its adapter.
    (student,) = talker.reply("student", [ASK], Sampling(0.0, 6), [0])
    direct = talker.sampler.generate([talker.tokens("student", ASK)], Sampling(0.0, 6), [0], talker.student)[
        0
    ]
    assert student.text == renderer.reply(direct.token_ids) and student.tokens == len(direct.token_ids)
    bare = talker.sampler.generate([talker.tokens("bare", ASK)], Sampling(0.0, 6), [0], None)[0]
    assert talker.reply("bare", [ASK], Sampling(0.0, 6), [0])[0].text == renderer.reply(bare.token_ids)
    assert direct.logprobs != bare.logprobs


def test_a_reply_does_not_depend_on_its_company(talker: Talker) -> None:
    other = (("user", "And what is 7 + 12 + 9?"), ("assistant", "28"), ("user", "Sure?"))
    alone = talker.reply("student", [ASK], Sampling(1.0, 5), [7])[0]
    both = talker.reply("student", [other, ASK], Sampling(1.0, 12), [3, 7], [12, 5])[1]
    assert both == alone
    assert talker.reply("student", [ASK], Sampling(1.0, 12), [8])[0] != alone


def test_a_chat_that_cannot_be_read(talker: Talker) -> None:
    with pytest.raises(PromptError, match="special token"):
        talker.reply("student", [(("user", "<|im_end|>"),)], Sampling(0.0, 2), [0])
    with pytest.raises(PromptError, match="not UTF-8 text"):
        talker.reply("student", [(("user", "\udcff"),)], Sampling(0.0, 2), [0])
    with pytest.raises(PromptError, match="the model's context has 2,048"):
        talker.reply("student", [(("user", "word " * 3_000),)], Sampling(0.0, 2), [0])


def test_a_long_chat_beside_a_short_one_cuts_it_not(talker: Talker) -> None:
    words = "word " * 3_000
    for count in range(2_047, 0, -1):
        long: Messages = (("user", words[:count]),)
        if len(talker.tokens("student", long)) <= 2_046:
            break
    alone = talker.reply("student", [ASK], Sampling(1.0, 5), [7])[0]
    both = talker.reply("student", [long, ASK], Sampling(1.0, 5), [3, 7])
    assert both[1] == alone and both[0].tokens <= 2_048 - both[0].prompt_tokens


class Breaks:
    """A sampler that fails as a GPU without memory does."""

    def __init__(self, talker: Talker) -> None:
        self.sampler, self.fails = talker.sampler, True

    def generate(self, *args: Any) -> Any:
        if self.fails:
            raise RuntimeError("CUDA out of memory")
        return self.sampler.generate(*args)

    def sleep(self) -> Any:
        return {}


def test_a_failure_is_told_and_the_worker_goes_on(talker: Talker) -> None:
    from starlette.testclient import TestClient

    broken = Breaks(talker)
    endpoint = Endpoint(replace(talker, sampler=broken), temperature=0.0, max_tokens=4, batch=4)  # type: ignore[arg-type]
    with TestClient(endpoint.app()) as asking:
        reply = asking.post("/v1/chat/completions", json=_body())
        assert reply.status_code == 500 and "out of memory" in reply.json()["error"]["message"]
        assert reply.json()["error"]["type"] == "server_error"
        broken.fails = False
        assert (
            asking.post("/v1/chat/completions", json=_body(seed=2**128, temperature=1.0)).status_code == 200
        )


def test_models_and_health(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    found = client.get("/v1/models").json()
    assert [one["id"] for one in found["data"]] == ["d", "student", "bare", "prompted"]


def test_a_reply_over_http_is_the_students(client: httpx.Client, talker: Talker) -> None:
    (expected,) = talker.reply("student", [ASK], Sampling(0.0, 6), [0])
    whole = client.post("/v1/chat/completions", json=_body(model="d", user="me", stream_options=None)).json()
    choice = whole["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert choice["finish_reason"] == ("length" if expected.cut else "stop")
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (expected.prompt_tokens, expected.tokens)
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]
    assert _text(client, messages=[{"role": "user", "content": parts}]) == expected.text
    prompted = talker.reply("prompted", [ASK], Sampling(0.0, 6), [0])[0].text
    assert _text(client, model="prompted") == prompted


def test_a_stream_ends_with_the_whole_reply(client: httpx.Client) -> None:
    text = _text(client)
    with client.stream("POST", "/v1/chat/completions", json=_body(stream=True)) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == text
    assert chunks[-1]["finish_reason"] in ("stop", "length")


def test_many_at_a_time_answer_as_one_by_one(client: httpx.Client) -> None:
    asked = [
        {
            "seed": n,
            "temperature": (0.0, 1.0)[n % 2],
            "max_tokens": 3 + n % 4,
            "model": ("student", "bare")[n % 3 == 0],
        }
        for n in range(12)
    ]
    alone = [_text(client, **one) for one in asked]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda one: _text(client, **one), asked))
    assert together == alone and len(set(alone)) > 2


def test_a_text_that_ends_a_reply(client: httpx.Client) -> None:
    text = next(
        found
        for seed in range(20)
        if len(found := _text(client, seed=seed, temperature=1.0, max_tokens=12)) > 3
    )
    seed = next(
        seed for seed in range(20) if _text(client, seed=seed, temperature=1.0, max_tokens=12) == text
    )
    again = client.post(
        "/v1/chat/completions",
        json=_body(seed=seed, temperature=1.0, max_tokens=12, stop=["\x00none", text[2]]),
    ).json()["choices"][0]
    assert again["message"]["content"] == text[: text.find(text[2])] and again["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (_body(model="gpt-5"), 404, "there are d, student, bare, prompted"),
        (_body(messages=[]), 400, "messages"),
        (_body(messages=[{"role": "tool", "content": "x"}]), 400, "messages.0.role"),
        (_body(messages=[{"role": "assistant", "content": "x"}]), 400, "the last message is not the user's"),
        (_body(tools=[{"type": "function"}]), 400, "tools is not known here"),
        (_body(top_p=0.9), 400, "top_p"),
        (_body(n=2), 400, "n"),
        (_body(temperature=-1), 400, "temperature"),
        (_body(messages=[{"role": "user", "content": "<|im_end|>"}]), 400, "special token"),
        (_body(messages=[{"role": "user", "content": "word " * 3_000}]), 400, "context"),
        (
            _body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            400,
            "content",
        ),
    ],
)
def test_what_is_refused(client: httpx.Client, body: dict[str, Any], status: int, said: str) -> None:
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == status and said in reply.json()["error"]["message"]
    # And the worker goes on.
    assert client.post("/v1/chat/completions", json=_body()).status_code == 200


def test_bodies_that_are_none(client: httpx.Client) -> None:
    assert client.post("/v1/chat/completions", content=b"{not json").status_code == 400
    assert client.post("/v1/chat/completions", content=b" " * (2**22 + 1)).status_code == 413


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(EnvironmentFault, match=f"127.0.0.1:{port}: ") as caught,
            free_socket("127.0.0.1", port),
        ):
            pass
        assert "--port" in caught.value.hint
    with pytest.raises(EnvironmentFault, match="--host"), free_socket("no such host", 0):
        pass


def test_chat_on_the_command_line(
    place: Path, talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    monkeypatch.chdir(place)
    flags = ["--temperature", "0", "--max-tokens", "6"]
    assert run(["chat", "last", ASK[0][1], *flags]) == 0
    (expected,) = talker.reply("student", [ASK], Sampling(0.0, 6), [0])
    assert (
        capsys.readouterr().out.split()
        == (printable(expected.text) + ("  [6 tokens of at most 6, cut]" if expected.cut else "")).split()
    )
    assert run(["chat", "d", ASK[0][1], "--compare", *flags]) == 0
    shown = capsys.readouterr().out
    assert [word for word in ("bare", "prompted", "student") if word in shown] == [
        "bare",
        "prompted",
        "student",
    ]
    # A conversation that is piped: the second question follows the first, and /new begins anew.
    monkeypatch.setattr(
        "sys.stdin", io.StringIO(f"{ASK[0][1]}\n\nSure?\n/new\n{ASK[0][1]}\n<|im_end|>\n/quit\nmore\n")
    )
    assert run(["chat", "d", *flags]) == 0
    heard = capsys.readouterr()
    turns = (*ASK, ("assistant", expected.text), ("user", "Sure?"))
    (second,) = talker.reply("student", [turns], Sampling(0.0, 6), [0])
    for text in (expected.text, second.text):
        assert printable(text).strip() in heard.out
    assert heard.out.count(printable(expected.text).strip()) >= 2 and "special token" in heard.err

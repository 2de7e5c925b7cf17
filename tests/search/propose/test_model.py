"""Proposals of a language model: a real HTTP server on loopback that answers, fails, drips and refuses as providers do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import anthropic_api as fake
import pytest
from anthropic_api import KEY, AnthropicAPI, Behaviour

from gepa_loop.config.search import ReflectionConfig
from gepa_loop.errors import CallFailed, ProviderError
from gepa_loop.search.propose.base import Quote
from gepa_loop.search.propose.model import LMProposer

OPUS = "anthropic/claude-opus-5-5"
EXAMPLES = [
    {
        "Inputs": {"question": "1 + 1"},
        "Generated Outputs": {"answer": "3"},
        "Feedback": "It is 2.",
        "Failure": "content",
    }
]

Serve = Callable[..., AnthropicAPI]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serves a script to Anthropic's clients until the test ends."""
    with fake.anthropic_api(monkeypatch) as api:

        def play(*script: Behaviour) -> AnthropicAPI:
            api.script.extend(script)
            return api

        yield play


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing may be logged or printed, least of all the key."""
    yield
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def proposer(model: str = OPUS, *, pause: float = 0.0, **settings: Any) -> LMProposer:
    return LMProposer(model, ReflectionConfig(**{"retries": 1, **settings}), 300, pause)


def failure(call: Callable[[], object]) -> ProviderError:
    """The error of a call; its text, hint, repr and traceback may not hold the key."""
    with pytest.raises(ProviderError) as caught:
        call()
    error = caught.value
    for text in (str(error), error.hint, repr(error), "".join(traceback.format_exception(error))):
        assert KEY not in text
    assert error.hint
    return error


def test_a_proposal_with_its_cost_and_the_request_behind_it(serve: Serve) -> None:
    api = serve(fake.instruction("Add carefully."))
    made = proposer(max_tokens=5000).propose("Add.", EXAMPLES, 0)
    assert (made.text, made.how, made.cut) == ("Add carefully.", f"reflection by {OPUS}", False)
    assert made.usd == pytest.approx(1000 * 4e-6 + 200 * 20e-6)
    assert (made.input_tokens, made.output_tokens) == (1000, 200)
    assert api.paths == ["POST /v1/messages"]
    body = api.messages[0]
    # No temperature, thinking or forced tools, all of which the model refuses.
    assert set(body) == {"model", "max_tokens", "system", "messages", "output_format"}
    assert (body["model"], body["max_tokens"]) == ("claude-opus-5-5", 5000)
    assert list(body["output_format"]["schema"]["properties"]) == ["new_instruction"]
    asked = body["messages"][0]["content"][0]["text"]
    assert "at most 300 tokens long, about 200 words" in asked and "It is 2." in asked
    assert "Failure" not in asked


def test_a_reply_cut_in_the_instruction_says_so(serve: Serve) -> None:
    serve(fake.cut('{"new_instruction": "Add care'))
    made = proposer().propose("Add.", EXAMPLES, 0)
    assert (made.text, made.cut, made.usd) == ("Add care", True, pytest.approx(0.008))


def test_a_reply_that_was_all_thoughts_is_cut_and_empty(serve: Serve) -> None:
    serve(fake.cut(""))
    made = proposer().propose("Add.", EXAMPLES, 0)
    assert (made.text, made.cut, made.usd) == ("", True, pytest.approx(0.008))


@pytest.mark.parametrize("text", ["", "I would rather not.", '{"new_instruction": "  "}', '{"other": 1}'])
def test_a_reply_without_an_instruction_is_an_empty_proposal_that_is_paid(serve: Serve, text: str) -> None:
    api = serve(fake.normal(text))
    made = proposer().propose("Add.", EXAMPLES, 0)
    assert (made.text, made.how, made.cut) == ("", f"{OPUS} gave no instruction", False)
    assert (made.usd, made.output_tokens, len(api.messages)) == (pytest.approx(0.008), 200, 1)


def test_a_call_goes_on_after_everything_that_may_pass(serve: Serve) -> None:
    passing = [fake.rate_limited(), fake.OVERLOADED, fake.BROKEN, fake.malformed, fake.disconnect]
    api = serve(*passing, fake.instruction("Add carefully."))
    made = proposer(retries=5).propose("Add.", EXAMPLES, 0)
    assert (made.text, made.usd, len(api.messages)) == ("Add carefully.", pytest.approx(0.008), 6)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (fake.rate_limited(), "HTTP 429, rate limited"),
        (fake.OVERLOADED, "HTTP 529, overloaded"),
        (fake.BROKEN, "HTTP 500, the provider failed"),
        (fake.malformed, "the answer is not JSON"),
        (fake.disconnect, "the connection broke off"),
        (fake.hang, "timed out after 0.2 s"),
    ],
)
def test_what_does_not_pass_fails_after_the_retries(serve: Serve, behaviour: Behaviour, words: str) -> None:
    api = serve(behaviour)
    error = failure(lambda: proposer(retries=2, timeout_seconds=0.2).propose("Add.", EXAMPLES, 7))
    assert type(error) is CallFailed
    said = re.sub(r"after \d\.\d s", "after 0.2 s", str(error))  # a loaded machine notices later
    assert said == f"optimize.reflection.model = {OPUS!r}, proposal 7: {words} (3 tries)"
    assert len(api.messages) == 3


def test_pauses_double_unless_the_provider_says_how_long(serve: Serve) -> None:
    api = serve(fake.OVERLOADED, fake.OVERLOADED, fake.instruction("One."))
    start = time.monotonic()
    proposer(retries=2, pause=0.1).propose("Add.", EXAMPLES, 0)
    assert 0.3 <= time.monotonic() - start < 2
    api.script.extend([fake.rate_limited("0"), fake.instruction("Two.")])
    start = time.monotonic()
    assert proposer(pause=60).propose("Add.", EXAMPLES, 1).text == "Two."
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (fake.error(403, "permission_error"), "HTTP 403, the key may not do this"),
        (fake.error(404, "not_found_error"), "HTTP 404, no such model"),
        (fake.error(400, "invalid_request_error", "Your credit balance is too low"), "no credit"),
    ],
)
def test_what_cannot_pass_is_fatal_at_once(serve: Serve, behaviour: Behaviour, words: str) -> None:
    api = serve(behaviour)
    error = failure(lambda: proposer().propose("Add.", EXAMPLES, 0))
    assert type(error) is ProviderError and error.exit_code == 3
    assert str(error) == f"optimize.reflection.model = {OPUS!r}, proposal 0: {words}"
    assert len(api.messages) == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (fake.error(400, "invalid_request_error"), "HTTP 400, invalid request"),
        (fake.error(413, "request_too_large"), "HTTP 413, invalid request"),
    ],
)
def test_a_request_that_cannot_pass_fails_alone(serve: Serve, behaviour: Behaviour, words: str) -> None:
    api = serve(behaviour, fake.instruction("Two."))
    error = failure(lambda: proposer().propose("Add.", EXAMPLES, 0))
    assert type(error) is CallFailed and str(error).endswith(words) and len(api.messages) == 1
    assert proposer().propose("Add.", EXAMPLES, 1).text == "Two."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "an empty reply"),
        ("I can't help\nwith that.", '"I can\'t help with that."'),
        ('{"new_instruction": "half', repr('{"new_instruction": "half')),
    ],
)
def test_a_refusal_is_a_failure_in_the_providers_words_and_is_paid(
    serve: Serve, text: str, shown: str
) -> None:
    api = serve(fake.normal(text, stop_reason="refusal"))
    made = proposer().propose("Add.", EXAMPLES, 3)
    # litellm's word for Anthropic's refusal.
    words = f"it refused (finish_reason content_filter): {shown}"
    assert made.failed == f"optimize.reflection.model = {OPUS!r}, proposal 3: {words}"
    assert (made.text, made.cut, made.usd, made.reply) == ("", False, pytest.approx(0.008), text)
    assert len(api.messages) == 1


def test_prose_is_read_and_the_reply_is_kept_without_a_key(serve: Serve) -> None:
    reply = f"Here is the improved instruction:\n\nUse prime factors. {KEY}"
    serve(fake.normal(reply), fake.normal("x" * 100_001), fake.normal("y" * 200_001))
    made = proposer().propose("Add.", EXAMPLES, 0)
    assert (made.text, made.failed) == ("Use prime factors. ***", None)
    assert made.reply == reply.replace(KEY, "***")
    long = proposer().propose("Add.", EXAMPLES, 1)
    assert (len(long.text), long.failed) == (100_001, None)
    assert long.reply == "x" * 2000 + "\n[96001 characters left out]\n" + "x" * 2000
    endless = proposer().propose("Add.", EXAMPLES, 2)
    assert (endless.text, endless.usd) == ("", pytest.approx(0.008))
    assert str(endless.failed).endswith("proposal 2: it wrote 200,001 characters, at most 200,000 are read")


@pytest.mark.timeout(60)
def test_a_reply_that_drips_has_an_end(serve: Serve) -> None:
    api = serve(fake.drip)
    error = failure(lambda: proposer(retries=1, timeout_seconds=0.3).propose("Add.", EXAMPLES, 0))
    assert type(error) is CallFailed and str(error).endswith("proposal 0: no whole answer after 1.2 s")
    assert len(api.messages) == 1


def test_a_null_is_no_instruction(serve: Serve) -> None:
    serve(fake.normal('{"new_instruction": null}'))
    assert proposer().propose("Add.", EXAMPLES, 0).text == ""


class _Portal(BaseHTTPRequestHandler):
    """Answers everything with a page, or with an object that is nothing."""

    body = b"<html>Please log in</html>"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.body.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("page", [b"<html>Please log in</html>", b"{}"])
def test_something_else_at_the_address(monkeypatch: pytest.MonkeyPatch, page: bytes) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Portal,), {"body": page}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_BASE", f"http://127.0.0.1:{server.server_port}")
    try:
        assert "the answer is no model's description" in str(failure(proposer(retries=0).check))
        assert proposer().quote("Add.", EXAMPLES).input_tokens > 100
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_BASE", "http://[::1")
    assert "the address 'http://[::1' is none" in str(failure(proposer().check))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"{KEY}-revoked", "HTTP 401, the key is refused"),
        (f"{KEY}\nANOTHER=1", "ANTHROPIC_API_KEY holds a character that no key has"),
        (f"{KEY}…", "ANTHROPIC_API_KEY holds a character that no key has"),
    ],
)
def test_a_refused_key_is_fatal_and_not_repeated(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    serve(fake.instruction("Never."))
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    for call in (proposer().check, lambda: proposer().propose("Add.", EXAMPLES, 0)):
        error = failure(call)
        assert type(error) is ProviderError and str(error).endswith(words)
    assert KEY not in repr(proposer())


def test_a_line_break_after_the_key_does_no_harm(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(fake.instruction("One."))
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{KEY}\n")
    proposer().check()
    assert proposer().propose("Add.", EXAMPLES, 0).text == "One."


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_missing_key_is_found_without_a_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, blank: str | None
) -> None:
    api = serve(fake.instruction("Never."))
    if blank is None:
        monkeypatch.delenv("ANTHROPIC_API_KEY")
    else:
        monkeypatch.setenv("ANTHROPIC_API_KEY", blank)
    for call in (proposer().check, lambda: proposer().propose("Add.", EXAMPLES, 0)):
        error = failure(call)
        assert str(error) == f"optimize.reflection.model = {OPUS!r}: ANTHROPIC_API_KEY is not set"
    assert api.paths == []


def test_a_slow_reply_is_waited_for(serve: Serve) -> None:
    release, made = Event(), []
    api = serve(fake.slow(release, fake.instruction("At last.")))
    asking = Thread(target=lambda: made.append(proposer(timeout_seconds=20).propose("Add.", EXAMPLES, 0)))
    asking.start()
    while not api.messages:
        time.sleep(0.01)
    assert not made
    release.set()
    asking.join()
    assert made[0].text == "At last." and len(api.messages) == 1


def test_the_check_looks_the_model_up_and_writes_nothing(serve: Serve) -> None:
    api = serve()
    proposer().check()
    assert api.paths == ["GET /v1/models/claude-opus-5-5"]


def test_the_check_finds_an_unknown_model(serve: Serve) -> None:
    api = serve()
    error = failure(proposer("anthropic/claude-nonesuch").check)
    assert str(error).endswith("'anthropic/claude-nonesuch', check: HTTP 404, no such model")
    assert api.paths == ["GET /v1/models/claude-nonesuch"]


def test_the_check_finds_a_cap_that_the_model_does_not_take(serve: Serve) -> None:
    serve()
    error = failure(proposer(max_tokens=200_000).check)
    assert str(error) == f"optimize.reflection.max_tokens = 200000, {OPUS} writes at most 128000"


def test_an_endpoint_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        monkeypatch.setenv("ANTHROPIC_API_BASE", f"http://127.0.0.1:{closed.server_port}")
    for call in (proposer().check, lambda: proposer().propose("Add.", EXAMPLES, 0)):
        assert "it cannot be reached (2 tries)" in str(failure(call))


@pytest.mark.parametrize("model", ["nonesuch", "anthropic/"])
def test_a_name_without_a_provider_or_a_model(model: str) -> None:
    assert "names no provider and model" in str(failure(proposer(model).check))


@pytest.mark.parametrize(
    ("variable", "path"), [("ANTHROPIC_BASE_URL", ""), ("ANTHROPIC_API_BASE", "/v1/messages")]
)
def test_both_clients_ask_the_same_endpoint(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, variable: str, path: str
) -> None:
    api = serve(fake.instruction("One."))
    monkeypatch.delenv("ANTHROPIC_API_BASE")
    monkeypatch.setenv(variable, api.url + path)
    proposer().check()
    proposer().propose("Add.", EXAMPLES, 0)
    assert api.paths == ["GET /v1/models/claude-opus-5-5", "POST /v1/messages"]


def test_a_quote_counts_the_very_messages_that_are_sent(serve: Serve) -> None:
    api = serve(fake.instruction("One."))
    quote = proposer(max_tokens=5000).quote("Add.", EXAMPLES)
    assert quote == Quote(1234, 5000, pytest.approx(1234 * 4e-6 + 5000 * 20e-6))
    proposer().propose("Add.", EXAMPLES, 0)
    (counted,), (sent,) = api.counts, api.messages
    assert counted["model"] == sent["model"]
    assert counted["system"] == sent["system"][0]["text"]
    assert counted["messages"] == [{"role": "user", "content": sent["messages"][0]["content"][0]["text"]}]


def test_a_quote_where_the_endpoint_does_not_count(serve: Serve) -> None:
    api = serve()
    api.counted = None
    short = proposer(max_tokens=5000).quote("Add.", EXAMPLES)
    assert 300 < short.input_tokens < 3000 and short.usd is not None
    assert short.usd == pytest.approx(short.input_tokens * 4e-6 + 0.1)
    long = proposer(max_tokens=5000).quote("Add. " * 1000, EXAMPLES)
    assert long.input_tokens > short.input_tokens + 900
    assert len(api.counts) == 2


ALONE = """
import socket, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1] if event == "socket.connect" else arguments[0]
        if host[0] != "127.0.0.1" and host != "127.0.0.1":
            print(event, host)
sys.addaudithook(note)
from gepa_loop.search.propose.model import LMProposer
from gepa_loop.config.search import ReflectionConfig
proposer = LMProposer("anthropic/claude-opus-5-5", ReflectionConfig(), 300, 0)
proposer.check()
proposer.quote("Add.", [])
assert proposer.propose("Add.", [], 0).cut
"""


def test_nothing_but_the_endpoint_is_reached_and_nothing_is_printed(serve: Serve) -> None:
    api = serve(fake.OVERLOADED, fake.cut(""))
    env = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    made = subprocess.run([sys.executable, "-c", ALONE], env=env, capture_output=True, text=True, timeout=120)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    assert len(api.paths) == 4


class _OpenAI(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint: one reply or, where `status` is not 200, one error for ever."""

    status = 200
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        text = json.dumps({"new_instruction": "Add carefully."})
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60},
        }
        if self.status != 200:
            reply = {"error": {"message": f"no good: {KEY}", "code": "invalid_api_key"}}
        body = json.dumps(reply).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def openai(monkeypatch: pytest.MonkeyPatch, answer: int = 200) -> Iterator[list[dict[str, Any]]]:
    """The bodies that arrive at such an endpoint."""

    class Handler(_OpenAI):
        status = answer
        asked: list[dict[str, Any]] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for variable in ("OPENAI_API_BASE", "HOSTED_VLLM_API_BASE"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    try:
        yield Handler.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["openai/m", "hosted_vllm/m"])
def test_a_model_behind_openais_api(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with openai(monkeypatch) as asked:
        model = proposer(name)
        model.check()
        quote = model.quote("Add.", EXAMPLES)
        assert quote.usd is None and 300 < quote.input_tokens < 3000 and quote.output_tokens == 16384
        made = model.propose("Add.", EXAMPLES, 0)
    assert (made.text, made.usd, made.input_tokens, made.output_tokens) == ("Add carefully.", 0.0, 50, 10)
    assert len(asked) == 2 and all(set(body) >= {"model", "messages", "max_tokens"} for body in asked)
    assert all("temperature" not in body for body in asked)


@pytest.mark.parametrize(
    ("status", "words", "requests"),
    [
        (401, "HTTP 401, the key is refused", 1),
        (404, "HTTP 404, no such model", 1),
        (503, "HTTP 503, the provider failed (3 tries)", 3),
    ],
)
def test_openais_clients_errors(
    monkeypatch: pytest.MonkeyPatch, status: int, words: str, requests: int
) -> None:
    with openai(monkeypatch, status) as asked:
        error = failure(proposer("openai/m", retries=2, pause=60).check)
    assert str(error) == f"optimize.reflection.model = 'openai/m', check: {words}"
    assert len(asked) == requests


def test_openais_missing_key_is_found_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY is not set" in str(failure(proposer("openai/m").check))


def test_dspys_own_limits_are_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    error = failure(proposer("openai/gpt-5", max_tokens=1000).check)
    assert "max_tokens >= 16000" in str(error)


class _Ollama(_OpenAI):
    """Ollama's own API: what a model is, and one reply for ever."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps({"new_instruction": "Add carefully."})
        reply: dict[str, Any] = {"model_info": {}, "template": ""}
        if self.path == "/api/chat":
            message = {"role": "assistant", "content": text}
            counts = {"prompt_eval_count": 50, "eval_count": 10}
            reply = {"model": "m", "message": message, "done": True, "done_reason": "stop", **counts}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_model_of_a_local_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ollama)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OLLAMA_API_BASE", f"http://127.0.0.1:{server.server_port}")
    try:
        model = proposer("ollama_chat/m")
        model.check()
        made = model.propose("Add.", EXAMPLES, 0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (made.text, made.usd, made.input_tokens, made.output_tokens) == ("Add carefully.", 0.0, 50, 10)


@pytest.mark.parametrize("choices", [[], None])
def test_an_answer_without_a_reply_may_pass_and_is_said(
    monkeypatch: pytest.MonkeyPatch, choices: list[Any] | None
) -> None:
    class Empty(_OpenAI):
        asked: list[dict[str, Any]] = []  # noqa: RUF012

        def do_POST(self) -> None:
            self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            usage = {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
            about = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            body = json.dumps({**about, "choices": choices, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    try:
        model = proposer("openai/m", retries=1, pause=0)
        said = [str(failure(model.check)), str(failure(lambda: model.propose("Add.", EXAMPLES, 0)))]
        priced = proposer("openai/gpt-4o-mini", retries=2, pause=0)
        failed = failure(lambda: priced.propose("Add.", EXAMPLES, 0))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    expected = "the answer holds no reply (2 tries)" if choices == [] else "no usable answer"
    assert all(expected in one for one in said), said
    assert isinstance(failed, CallFailed)
    # Three answers of five tokens read, at $.15 a million, where the client passes on what they took.
    assert failed.usd == pytest.approx(3 * 5 * 0.15e-6 if choices == [] else 0.0)
    assert len(Empty.asked) == 7

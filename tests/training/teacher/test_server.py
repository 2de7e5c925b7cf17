"""A teacher on a server: a real HTTP server on loopback that answers as vLLM does, from the tiny model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ConfigError, ModelError, PromptError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.bundled import TINY
from gepa_loop.run.files import read_jsonl
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.trainer import distill


class Vllm(ThreadingHTTPServer):
    """Two of vLLM's routes; `answers` changes what a test wants wrong."""

    def __init__(self, base: Base) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = base
        self.most = 10**6
        """Log-probabilities at a position, whatever is asked."""
        self.shift = 0
        """Added to each token id that /tokenize gives."""
        self.key: str | None = None
        self.context = 4096
        self.refuse_after: int | None = None
        """Completions requests that are answered."""
        self.closed = Event()
        self.drips = False
        """It declares a body and sends a byte of it now and then."""
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Vllm

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        if not self.authorised():
            return self.answer(401, {"error": "Unauthorized"})
        served = {"id": "tiny", "object": "model", "max_model_len": self.server.context}
        return self.answer(200, {"object": "list", "data": [served]})

    def authorised(self) -> bool:
        key = self.server.key
        return key is None or self.headers.get("Authorization") == f"Bearer {key}"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if not self.authorised():
            return self.answer(401, {"error": "Unauthorized"})
        if server.drips:
            return self.drip()
        if self.path == "/tokenize":
            ids = server.base.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])[
                "input_ids"
            ]
            return self.answer(200, {"tokens": [token + server.shift for token in ids]})
        if server.refuse_after is not None and len(server.asked) >= server.refuse_after:
            return self.answer(500, {"error": "engine is dead"})
        server.asked.append(body)
        choices = [
            {"index": n, "prompt_logprobs": self.prompt_logprobs(ids, body["prompt_logprobs"])}
            for n, ids in enumerate(body["prompt"])
        ]
        return self.answer(200, {"choices": choices[::-1]})  # in any order

    def prompt_logprobs(self, ids: list[int], count: int) -> list[dict[str, Any] | None]:
        """vLLM's: nothing for the first token; then the likeliest tokens and, in any case, the one that is there."""
        with torch.no_grad():
            table = self.server.base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        out: list[dict[str, Any] | None] = [None]
        for token, row in zip(ids[1:], table, strict=False):
            top = row.topk(min(count, self.server.most)).indices.tolist()
            order = row.argsort(descending=True).tolist()
            out.append(
                {
                    str(t): {"logprob": row[t].item(), "rank": order.index(t) + 1, "decoded_token": "?"}
                    for t in dict.fromkeys([token, *top])
                }
            )
        return out

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.closed.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    # A model of its own: the lab's is wrapped in adapters while the server's threads compute.
    server = Vllm(load_base(ModelConfig(name=TINY, dtype="float32", device="cpu")))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.closed.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", env={}))


def train(lab: Lab, folder: Path, *sets: str) -> list[dict[str, Any]]:
    config = load_config("smoke", ["distill.steps=2", "distill.lr=0.05", *sets], env={})
    distill(
        lab.under(config),
        Candidate("Answer with one number."),
        folder,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
        progress=lambda row: None,
    )
    return read_jsonl(folder / "metrics.jsonl")


def served(vllm: Vllm, *more: str) -> tuple[str, ...]:
    return "teacher.kind=server", f"teacher.url={vllm.url}", "teacher.name=tiny", *more


@pytest.mark.parametrize(
    "objective",
    [
        ("objective.type=full_kl",),
        ("objective.divergence=jsd",),
        ("objective.type=token_kl",),
        ("objective.type=sequence_kl",),
    ],
)
def test_all_but_one_log_probability_equal_the_whole_vocabulary(
    lab: Lab, vllm: Vllm, tmp_path: Path, objective: tuple[str, ...]
) -> None:
    size = lab.base.model.get_output_embeddings().weight.shape[0]
    there = train(lab, tmp_path / "server", *objective, *served(vllm, f"teacher.top_k={size - 1}"))
    here = train(lab, tmp_path / "base", *objective)
    for one, other in zip(there, here, strict=True):
        for key in ("loss", "reverse_kl", "grad_norm", "advantage_std", "reward_mean"):
            assert one[key] == pytest.approx(other[key], rel=2e-4, abs=1e-6), key
    assert here[0]["grad_norm"] > 1e-3
    assert vllm.asked[0]["model"] == "tiny" and vllm.asked[0]["prompt_logprobs"] == size - 1


def test_fewer_log_probabilities_say_less(lab: Lab, vllm: Vllm, tmp_path: Path) -> None:
    """Merging outcomes can only lower a divergence."""
    few = train(lab, tmp_path / "few", *served(vllm, "teacher.top_k=4"))
    more = train(lab, tmp_path / "more", *served(vllm, "teacher.top_k=64"))
    whole = train(lab, tmp_path / "whole")
    assert 0 < few[0]["reverse_kl"] < more[0]["reverse_kl"] < whole[0]["reverse_kl"]


def test_what_is_wrong_with_a_server_is_found_before_the_first_step(
    lab: Lab, vllm: Vllm, tmp_path: Path
) -> None:
    vllm.most = 5
    with pytest.raises(ModelError, match=r"teacher.top_k = 20 were asked"):
        train(lab, tmp_path, *served(vllm))
    vllm.most, vllm.shift = 10**6, 1
    with pytest.raises(ModelError, match="as other tokens than the student"):
        train(lab, tmp_path, *served(vllm))
    vllm.shift, vllm.key = 0, "right"
    with pytest.raises(ModelError, match="401 from /v1/models"):
        train(lab, tmp_path, *served(vllm))
    with pytest.raises(ModelError, match="no answer from /v1/models"):
        train(lab, tmp_path, "teacher.kind=server", "teacher.url=http://127.0.0.1:9", "teacher.name=tiny")
    vllm.key = None
    with pytest.raises(ModelError, match=r"teacher.name = 'huge': .* does not serve it") as caught:
        train(lab, tmp_path, *served(vllm)[:2], "teacher.name=huge")
    assert caught.value.hint == "It serves tiny."
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_server_that_drips_has_an_end(lab: Lab, vllm: Vllm, tmp_path: Path) -> None:
    vllm.drips = True
    with pytest.raises(ModelError, match=r"no whole answer after 0\.3 s from /tokenize") as caught:
        train(lab, tmp_path, *served(vllm, "teacher.seconds=0.3"))
    assert caught.value.exit_code == 3 and "teacher.seconds" in caught.value.hint


def test_a_servers_rows_that_are_no_tokens_are_none(lab: Lab, vllm: Vllm, tmp_path: Path) -> None:
    """As of Qwen 2.5 with 7B parameters for a student with 0.5B: 152,064 and 151,936 rows."""
    vllm.base.model.resize_token_embeddings(320)
    rows = len(lab.base.model.get_output_embeddings().weight)
    with pytest.raises(ModelError, match=f"is none of the {rows} rows of the student's output layer"):
        train(lab, tmp_path, *served(vllm, f"teacher.top_k={rows + 1}"))


def test_the_servers_context_counts_and_not_the_students(lab: Lab, vllm: Vllm, tmp_path: Path) -> None:
    prompts = [lab.rollouts.renderer.tokens("Answer with one number.", i) for i in lab.task.splits["train"]]
    longest = max(map(len, prompts)) + lab.config.sampling.max_tokens
    vllm.context = longest + 1  # room for all that is read, and for the token that is sampled
    train(lab, tmp_path / "b", *served(vllm))
    vllm.context = longest
    with pytest.raises(PromptError, match=f"over its context of {longest}, less one"):
        train(lab, tmp_path / "c", *served(vllm))


def test_the_key_comes_from_the_environment_and_is_not_shown(
    lab: Lab, vllm: Vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm.key = "secret-1234"
    monkeypatch.setenv("VLLM_API_KEY", "secret-1234")
    train(lab, tmp_path / "a", *served(vllm))
    monkeypatch.setenv("VLLM_API_KEY", "secret-5678")
    with pytest.raises(ModelError) as caught:
        train(lab, tmp_path / "b", *served(vllm))
    assert "secret" not in str(caught.value)
    assert not any(b"secret" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_a_server_that_dies_stops_the_run_with_its_words(lab: Lab, vllm: Vllm, tmp_path: Path) -> None:
    vllm.refuse_after = 3  # the check, the first step, and its held-out replies
    with pytest.raises(ModelError, match=r"500 from /v1/completions: .*engine is dead") as caught:
        train(lab, tmp_path, *served(vllm), "distill.check_every=1")
    assert caught.value.exit_code == 3
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1
    vllm.refuse_after = None
    assert len(train(lab, tmp_path, *served(vllm), "distill.check_every=1")) == 2
    train(lab, tmp_path / "whole", *served(vllm), "distill.check_every=1")
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_server_neither_samples_nor_takes_the_students_top_k() -> None:
    sets = ["teacher.kind=server", "teacher.url=http://x", "teacher.name=tiny"]
    with pytest.raises(ConfigError, match="does not sample"):
        load_config("smoke", [*sets, "objective.type=sft"], env={})
    with pytest.raises(ConfigError, match=r"set teacher\.top_k"):
        load_config("smoke", [*sets, "objective.top_k=5"], env={})

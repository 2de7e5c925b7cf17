"""GEPA over the tiny model: one reader of prompts, replay after a kill, budgets, the front."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dspy
import pytest

from gepa_loop.config import Config, check_budget, load_config
from gepa_loop.errors import BudgetReached, ConfigError, ReflectionError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.optimize.adapter import FieldAdapter, example, program, save_program
from gepa_loop.optimize.engine import Front, optimize
from gepa_loop.optimize.proposer import LMProposer, OfflineProposer, Proposal, excerpt, make_proposer, refusal
from gepa_loop.prompts import Candidate
from gepa_loop.runs import read_jsonl
from gepa_loop.task import Item

SEED = Candidate("Answer the question.")


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", env={}))


def proposer(lab: Lab) -> Any:
    return make_proposer(lab.config.optimize.reflection, lab.task.splits["train"], 0, has_key=False)


class Scripted:
    """A proposer that returns given texts; the last one for ever."""

    name = about = "scripted"

    def __init__(self, *texts: str, dies_at: int | None = None) -> None:
        self.texts, self.dies_at, self.asked = texts, dies_at, 0

    def propose(self, parent: str, examples: Any, number: int) -> Proposal:
        self.asked += 1
        if number == self.dies_at:
            raise KeyboardInterrupt
        return Proposal(self.texts[min(number, len(self.texts) - 1)], 0.25, "scripted")


def search(lab: Lab, folder: Path, how: Any, *sets: str, progress: Any = None) -> Front:
    lab.rollouts.sampler.set_student(None)
    config = load_config("smoke", sets, env={})
    return optimize(config, lab.rollouts, how, SEED, folder, progress or (lambda spent: None), 0)


def files(folder: Path) -> dict[str, str]:
    """Every file of a search but the journal's times."""
    found = {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}
    for name in ("gepa/evaluations.jsonl", "gepa/proposals.jsonl"):
        rows = [json.loads(line) for line in found[name].splitlines()]
        found[name] = json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    return found


def test_gepa_reads_the_bytes_of_the_prompt_file_as_its_system_message(lab: Lab, tmp_path: Path) -> None:
    front = search(lab, tmp_path, proposer(lab))
    item = lab.task.splits["pareto"][0]
    for candidate in front.candidates:
        data = (tmp_path / "prompts" / f"{candidate.id}.txt").read_bytes()
        gepa_reads = FieldAdapter().format(program(candidate).signature, [], dict(example(item).inputs()))
        assert gepa_reads == lab.rollouts.renderer.messages(candidate.text, item)
        assert gepa_reads[0]["content"].encode() == data == candidate.text.encode()
        teacher = lab.base.tokenizer.decode(lab.rollouts.renderer.tokens(candidate.text, item))
        assert data.decode() == teacher.partition("<|im_start|>system\n")[2].partition("<|im_end|>")[0]


def test_saved_programs_load_with_dspy(tmp_path: Path) -> None:
    prompt = Candidate('Say {this} "twice".\n\nThen:\n  - and {{that}}')
    save_program(tmp_path / "p.json", prompt)
    loaded = dspy.Predict("question -> answer")
    loaded.load(str(tmp_path / "p.json"))
    assert loaded.signature.instructions == prompt.text


def test_the_adapter_knows_its_task_by_field_names() -> None:
    renamed = program(SEED).signature.with_instructions("Other.")
    turns = FieldAdapter().format(renamed, [], {"question": [{"role": "user", "content": "a"}]})
    assert [t["content"] for t in turns] == ["Other.", "a"]
    with pytest.raises(ValueError, match="question -> answer"):
        FieldAdapter().format(dspy.Signature("text -> label"), [], {"text": "x"})
    with pytest.raises(dspy.utils.exceptions.AdapterParseError):
        FieldAdapter().parse(renamed, "  ")


def test_a_killed_search_ends_like_an_uninterrupted_one(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path / "whole", proposer(lab), "optimize.max_rollouts=60")
    whole = files(tmp_path / "whole")
    calls = whole["gepa/evaluations.jsonl"].count('"candidate"')
    assert calls >= 5

    class Kill(Exception):
        pass

    for after in range(1, calls):
        seen = []

        def kill(spent: Any, seen: list[Any] = seen, after: int = after) -> None:
            seen.append(spent)
            if len(seen) == after:
                raise Kill

        folder = tmp_path / f"killed_{after}"
        with pytest.raises(Kill):
            search(lab, folder, proposer(lab), "optimize.max_rollouts=60", progress=kill)
        (folder / "gepa" / "evaluations.jsonl").open("a").write('{"candidate": "torn')
        search(lab, folder, proposer(lab), "optimize.max_rollouts=60")
        assert files(folder) == whole


def test_replayed_proposals_are_not_paid_again(lab: Lab, tmp_path: Path) -> None:
    dying = Scripted("One.", "Two.", "Three.", dies_at=2)
    with pytest.raises(KeyboardInterrupt):
        search(lab, tmp_path, dying, "optimize.max_rollouts=100")
    again = Scripted("One.", "Two.", "Three.")
    front = search(lab, tmp_path, again, "optimize.max_rollouts=100")
    proposals = read_jsonl(tmp_path / "gepa" / "proposals.jsonl")
    assert [p["text"] for p in proposals[:3]] == ["One.", "Two.", "Three."]
    assert again.asked == len(proposals) - 2
    assert front.usd == pytest.approx(0.25 * len(proposals))


def test_budgets_are_kept(lab: Lab, tmp_path: Path) -> None:
    front = search(lab, tmp_path / "a", proposer(lab))
    assert front.rollouts <= 48 and front.stopped_by.startswith("rollouts")
    dear = search(
        lab, tmp_path / "b", Scripted("a", "b", "c", "d"), "optimize.max_usd=0.5", "optimize.max_rollouts=999"
    )
    assert dear.stopped_by == "usd: 0.50 of 0.50" and dear.usd == 0.5


def test_a_budget_without_a_proposal_names_the_least(lab: Lab) -> None:
    config: Config = load_config("smoke", ["optimize.max_rollouts=19"], env={})
    with pytest.raises(ConfigError, match=r"max_rollouts = 19 allows no proposal: .* take up to 20"):
        check_budget(config)
    check_budget(load_config("smoke", ["optimize.max_rollouts=20"], env={}))


def test_a_failing_reflection_model_stops_the_search(lab: Lab, tmp_path: Path) -> None:
    class Refused(Scripted):
        def propose(self, parent: str, examples: Any, number: int) -> Proposal:
            raise ReflectionError("the key was refused")

    with pytest.raises(ReflectionError, match="the key was refused"):
        search(lab, tmp_path, Refused("x"))


def test_refused_proposals_are_recorded_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    search(
        lab,
        tmp_path,
        Scripted("", "Answer the question.", "word " * 2000, "Fine."),
        "optimize.max_rollouts=60",
    )
    rows = {
        row["text"][:5]: row
        for row in read_jsonl(tmp_path / "candidates.jsonl")
        if row["status"] == "refused"
    }
    assert rows[""]["reason"] == "empty"
    assert rows["Answe"]["reason"].startswith("unchanged")
    assert rows["word "]["reason"].startswith("over-long")


def test_candidates_hold_scores_by_item_and_sample(lab: Lab, tmp_path: Path) -> None:
    front = search(
        lab,
        tmp_path,
        proposer(lab),
        "optimize.samples=2",
        "optimize.temperature=1.0",
        "optimize.max_rollouts=60",
    )
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    assert rows[0]["proposer"] == "seed" and rows[0]["id"] == SEED.id
    assert {len(scores) for scores in rows[0]["pareto_scores"].values()} == {2}
    assert set(rows[0]["pareto_scores"]) == {item.id for item in lab.task.splits["pareto"]}
    assert {c.id for c in front.candidates} <= {row["id"] for row in rows if row["status"] == "front"}


def test_offline_proposals_depend_on_seed_and_number_alone(lab: Lab) -> None:
    one, two = proposer(lab), proposer(lab)
    examples = [{"Inputs": {"question": "q"}, "Failure": "format"}]
    texts = [one.propose("A.\n\nB.", examples, n).text for n in range(30)]
    assert texts == [two.propose("A.\n\nB.", examples, n).text for n in range(30)]
    assert len(set(texts)) > 5


def test_worked_examples_come_from_train_and_not_from_the_minibatch() -> None:
    items = tuple(Item(f"t:{n}", (("user", f"q{n}"),), f"a{n}", {}) for n in range(5))
    examples = [{"Inputs": {"question": f"q{n}"}, "Failure": None} for n in range(3)]
    made = [OfflineProposer((), 2, items, 0).propose("P.", examples, n).text for n in range(20)]
    shown = {
        line.removeprefix("Example: ") for text in made for line in text.splitlines() if "Example" in line
    }
    assert shown == {"q3", "q4"}


def test_excerpt_and_refusal() -> None:
    assert excerpt("abc", 10) == "abc"
    assert excerpt("a" * 50 + "b" * 50, 10) == "aaaaa\n[90 characters left out]\nbbbbb"
    assert refusal("x y z", {"a"}, lambda text: len(text.split()), 3) is None
    assert "4 tokens" in str(refusal("x y z w", set(), lambda text: len(text.split()), 3))


def test_minutes_that_end_before_a_proposal_are_an_error(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached, match=r"max_minutes = 1e-09 was reached before the first proposal"):
        search(lab, tmp_path, proposer(lab), "optimize.max_minutes=1e-9")


def test_a_perfect_seed_prompt_ends_the_search(lab: Lab, tmp_path: Path) -> None:
    perfect = replace(lab.task, scorer=lambda *_: (1.0, ""))
    rollouts = replace(lab.rollouts, task=perfect)
    config = load_config("smoke", ["optimize.max_rollouts=9999"], env={})
    front = optimize(config, rollouts, proposer(lab), SEED, tmp_path, lambda _: None, 0)
    assert front.candidates == (SEED,) and front.means == (1.0,)


class Provider(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that proposes one prompt, or refuses every key."""

    status = 200
    text = json.dumps({"new_instruction": "Add {up} carefully."})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {
            "role": "assistant",
            "content": self.text,
        }
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        reply: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        if self.status != 200:
            reply = {"error": {"message": "bad key: sk-secret", "code": "invalid_api_key"}}
        body = json.dumps(reply).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Refusing(Provider):
    status = 401


class Babbling(Provider):
    text = "I would rather not."


@contextmanager
def provider(handler: type[Provider], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real server on loopback that litellm's `openai/` models reach."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_reflection_model_proposes_through_litellm(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(Provider, monkeypatch):
        search(lab, tmp_path, LMProposer("openai/m", 100), "optimize.max_rollouts=30")
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    assert rows[1]["text"] == "Add {up} carefully." and rows[1]["proposer"] == "openai/m"


def test_a_reply_without_an_instruction_is_a_refused_proposal(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(Babbling, monkeypatch):
        front = search(lab, tmp_path, LMProposer("openai/m", 100))
    assert front.stopped_by == "nothing new in 20 iterations" and front.candidates == (SEED,)
    (row,) = {r["reason"] for r in read_jsonl(tmp_path / "candidates.jsonl") if r["status"] == "refused"}
    assert row == "empty"


def test_a_refused_key_ends_the_search_and_is_not_printed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        provider(Refusing, monkeypatch),
        pytest.raises(ReflectionError, match="its API key is missing or refused") as caught,
    ):
        search(lab, tmp_path, LMProposer("openai/m", 100))
    assert "sk-secret" not in f"{caught.value} {caught.value.hint}"
    assert not (tmp_path / "front.jsonl").exists()


def test_a_missing_key_ends_the_search(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    auto = make_proposer(
        load_config("smoke", env={}).optimize.reflection.model_copy(update={"model": "auto"}), (), 0, True
    )
    with pytest.raises(ReflectionError, match=r"anthropic/.*its API key is missing or refused"):
        search(lab, tmp_path, auto)

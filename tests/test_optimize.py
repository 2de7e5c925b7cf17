"""GEPA over the tiny model: one reader of prompts, replay after a kill, budgets, the front."""

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from gepa_loop.config import Config, check_budget, load_config
from gepa_loop.errors import ConfigError, ReflectionError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.optimize.adapter import FieldAdapter, example, program, save_program
from gepa_loop.optimize.engine import Front, optimize
from gepa_loop.optimize.proposer import OfflineProposer, Proposal, excerpt, make_proposer, refusal
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
    front = search(lab, tmp_path, proposer(lab), "optimize.samples=2", "optimize.max_rollouts=60")
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

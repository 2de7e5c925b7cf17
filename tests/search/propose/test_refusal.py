"""Copies of items, and the other reasons against a proposal."""

import json
import random

import pytest
from places import ROOT

from gepa_loop.config.load import load_config
from gepa_loop.scores.rollouts import Row
from gepa_loop.search.feedback import Excerpt, failure_of, reflective_record
from gepa_loop.search.propose.refusal import CopyGuard, Rules
from gepa_loop.task.items import Item, load_task


def items(*questions: str) -> list[Item]:
    return [Item(f"t:{n}", (("user", question),), "", {}) for n, question in enumerate(questions)]


def test_a_short_item_is_copied_as_a_whole() -> None:
    guard = CopyGuard(items("Calculate 44 + 23.", "Calculate 7 + 91."), 8)
    assert guard.copied("Example: calculate  44 + 23. Answer: 67") == "t:0"
    assert guard.copied("Calculate 44 + 91. Then 7 + 23.") is None
    assert guard.copied("") is None


def test_words_that_many_items_have_may_be_quoted() -> None:
    fixed = "Find the least common multiple of these numbers:"
    guard = CopyGuard(items(*(f"{fixed} {a}, {b}" for a in range(10, 20) for b in range(30, 40))), 8)
    assert guard.copied(f"You will be asked: {fixed} N, M") is None
    assert guard.copied(f"{fixed} 12, 99") is None
    assert guard.copied(f"{fixed} 12, 35") == "t:25"


def test_a_long_item_is_copied_by_half_of_it() -> None:
    rng = random.Random(0)
    words = [f"w{n}" for n in range(400)]
    texts = [" ".join(rng.sample(words, 60)) for _ in range(20)]
    guard = CopyGuard(items(*texts), 8)
    part = texts[3].split()
    assert guard.copied("As in: " + " ".join(part[10:44])) == "t:3"
    assert guard.copied("As in: " + " ".join(part[10:43])) is None


def test_what_is_allowed_may_be_quoted() -> None:
    asked = items("Calculate 44 + 23.", "Calculate 7 + 91.")
    guard = CopyGuard(asked, 8, ["You add. Example: Calculate 44 + 23. Answer: 67"])
    assert guard.copied("Calculate 44 + 23.") is None
    assert guard.copied("Calculate 7 + 91.") == "t:1"


@pytest.mark.parametrize("name", ["gsm_symbolic", "knights_knaves", "maze", "syllogism"])
def test_other_items_of_a_task_with_templates_are_not_taken_for_copies(name: str) -> None:
    import reasoning_gym

    asked = [entry["question"] for entry in reasoning_gym.create_dataset(name, size=500, seed=0)]
    guard = CopyGuard(items(*dict.fromkeys(asked)), 8)
    others = [entry["question"] for entry in reasoning_gym.create_dataset(name, size=100, seed=10**6)]
    fresh = [question for question in others if question not in asked]
    assert sum(guard.copied(f"As in: {question}") is not None for question in fresh) <= 0.1 * len(fresh)
    assert guard.copied(f"As in: {asked[7]}") is not None


def test_the_sokoban_prompts_are_no_copies_of_boards() -> None:
    import reasoning_gym

    asked = [entry["question"] for entry in reasoning_gym.create_dataset("sokoban", size=200, seed=0)]
    guard = CopyGuard(items(*asked), 8)
    texts = [path.read_text() for path in (ROOT / "prompts" / "sokoban").glob("*.txt")]
    assert len(texts) == 4 and not any(guard.copied(text) for text in texts)
    assert guard.copied(f"As in: {asked[3]}") == "t:3"


def test_prompts_of_the_repository_copy_no_item_of_the_demo() -> None:
    config = load_config("demo", env={})
    task = load_task(config.task, 0)
    guard = CopyGuard([item for split in task.splits.values() for item in split], config.optimize.max_copied)
    texts = [path.read_text() for path in (ROOT / "prompts").rglob("*.txt")]
    assert len(texts) > 3 and not any(guard.copied(text) for text in texts)
    asked = task.splits["test"][7]
    assert guard.copied(f"{texts[0]}\n\n{asked.question.upper()}") == asked.id


def test_reasons() -> None:
    rules = Rules(
        5, CopyGuard(items("Calculate 44 + 23."), 8), lambda text: "no room" if "big" in text else None
    )
    assert rules.refusal("Fine.", 2, {"a"}, False) is None
    assert str(rules.refusal("Fine.", 2, (), True)).startswith("cut: ")
    assert str(rules.refusal("", 0, (), False)).startswith("unreadable: ")
    assert str(rules.refusal("a", 1, {"a"}, False)).startswith("unchanged")
    assert str(rules.refusal("a", 6, (), False)).startswith("over-long: 6 tokens")
    assert rules.refusal("Calculate 44 + 23.", 5, (), False) == "copies item t:0"
    assert rules.refusal("big", 1, (), False) == "no room"
    slip = json.loads('{"new_instruction": "Answer in \\boxed{N}."}')["new_instruction"]
    assert "control character '\\x08'" in str(rules.refusal(slip, 3, (), False))


class Words:
    """A tokenizer whose tokens are words."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        return {"input_ids": text.split()}

    def decode(self, ids: list[str]) -> str:
        return " ".join(ids)


def row(
    score: float, extracted: str | None = "1", finish: str = "stop", sample: int = 0, text: str = "x"
) -> Row:
    return Row("t:0", sample, score, score, extracted, text, 3, finish, f"feedback {sample}")


def test_excerpts_keep_head_and_tail() -> None:
    excerpt = Excerpt(Words(), 5)  # type: ignore[arg-type]
    assert excerpt("a b c d e") == "a b c d e"
    assert excerpt("a b c d e f g") == "a b\n[2 tokens left out]\ne f g"


def test_kinds_of_failure() -> None:
    assert [failure_of(one) for one in (row(1.0), row(0.0), row(0.0, None), row(0.0, None, "length"))] == [
        None,
        "content",
        "format",
        "cut",
    ]


def test_a_record_shows_a_failure_and_how_many_were_right() -> None:
    (item,) = items("What?")
    excerpt = Excerpt(Words(), 5)  # type: ignore[arg-type]
    found = reflective_record(item, [row(1.0), row(0.0, sample=1, text="y"), row(0.0, sample=2)], excerpt)
    assert found == {
        "Inputs": {"question": "What?"},
        "Generated Outputs": {"answer": "y"},
        "Feedback": "1 of 3 replies to this were right. This one: feedback 1",
        "Failure": "content",
    }
    assert reflective_record(item, [row(1.0)], excerpt)["Feedback"] == "feedback 0"

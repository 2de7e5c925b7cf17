"""Tasks: disjoint splits, extraction, scores, feedback, and errors that say what to change."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.content import content
from gepa_loop.task.dealing import FRESH
from gepa_loop.task.items import SPLITS, Item, Task, extract, load_task
from gepa_loop.task.made import code_of

FOUR = dict.fromkeys((split for split in SPLITS if split != "race"), 2)
SMALL = {"train": 40, "pareto": 10, "race": 15, "select": 20, "test": 30}
GYM = [
    ("lcm", {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30}),
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    ("gcd", {"max_value": 40}),
]


def _gym(name: str = "lcm", options: dict[str, Any] | None = None, **sizes: int) -> TaskConfig:
    return TaskConfig(name=name, options=options or {}, splits={**SMALL, **sizes})


def _write(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def _jsonl(path: Path, extract: str = "whole", **sizes: int) -> TaskConfig:
    return TaskConfig(kind="jsonl", name=str(path), extract=extract, splits=sizes or FOUR)


def _numbered(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + 0?", "answer": n} for n in range(count)]


def _all(task: Task) -> list[Item]:
    return [item for split in SPLITS for item in task.splits[split]]


def _seed_of(item: Item) -> int:
    return int(item.id.rpartition(":")[2])


@pytest.mark.parametrize(("name", "options"), GYM)
def test_splits_have_their_sizes_and_share_no_question(name: str, options: dict[str, Any]) -> None:
    task = load_task(_gym(name, options), seed=0)
    assert {split: len(items) for split, items in task.splits.items()} == SMALL
    assert len({item.question for item in _all(task)}) == sum(SMALL.values())
    assert len({item.id for item in _all(task)}) == sum(SMALL.values())


@pytest.mark.parametrize(("name", "options"), GYM)
def test_an_item_is_the_example_of_the_seed_in_its_id(name: str, options: dict[str, Any]) -> None:
    import reasoning_gym

    for item in load_task(_gym(name, options), seed=3).splits["train"][::10]:
        entry = reasoning_gym.create_dataset(name, seed=_seed_of(item), size=1, **options)[0]
        assert (item.messages, item.answer) == ((("user", entry["question"]),), entry["answer"])


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_seed_blocks_are_far_apart(seed: int) -> None:
    splits = load_task(_gym(options=GYM[0][1]), seed).splits
    for one, other in combinations(SPLITS, 2):
        distance = min(abs(_seed_of(a) - _seed_of(b)) for a in splits[one] for b in splits[other])
        assert distance >= 10**6
    assert all(0 <= _seed_of(item) < 2**31 for items in splits.values() for item in items)


def test_same_seed_same_items_another_seed_other_items() -> None:
    one, same, other = (load_task(_gym("chain_sum"), seed) for seed in (7, 7, 8))
    assert one == same
    assert one.fingerprint != other.fingerprint
    assert not {item.question for item in _all(one)} & {item.question for item in _all(other)}


def test_fingerprint_depends_on_extraction_and_items() -> None:
    config = _gym("gcd")
    prints = {
        load_task(config, 0).fingerprint,
        load_task(config.model_copy(update={"extract": "tags"}), 0).fingerprint,
        load_task(_gym("gcd", train=41), 0).fingerprint,
    }
    assert len(prints) == 3


def test_fingerprint_depends_on_what_a_rule_means() -> None:
    """A run that scored by `includes` when that took parts of words does not go on; those of other rules do."""
    for rule, same in (("exact", True), ("f1", True), ("includes", False)):
        config = TaskConfig(kind="example", name="desk", extract="whole", scorer=rule, splits=FOUR)
        task = load_task(config, 0)
        scoring = {"extract": "whole", "scorer": rule, "full_marks": False}
        before = fingerprint({**scoring, "splits": content(task.splits, ())[0]})
        assert (task.fingerprint == before) is same


@pytest.mark.parametrize(("name", "options"), GYM)
def test_test_split_does_not_depend_on_other_sizes(name: str, options: dict[str, Any]) -> None:
    # The pools are small enough for the splits to compete for questions.
    small = load_task(_gym(name, options), 0)
    large = load_task(_gym(name, options, train=400, pareto=100, select=100), 0)
    assert small.splits["test"] == large.splits["test"]
    assert small.splits["select"] == large.splits["select"][:20]


def test_each_round_gets_items_of_select_of_its_own() -> None:
    one, three = load_task(_gym(), 0), load_task(_gym(), 0, rounds=3)
    # Rounds change nothing of what there was, so they can be added to a run.
    assert (one.splits, one.fingerprint) == (three.splits, three.fingerprint) and one.later == ()
    assert one.rounds is None
    assert three.in_round(0) is three
    for split in FRESH:
        parts = [three.in_round(n).splits[split] for n in range(3)]
        assert parts[0] == one.splits[split] and [len(part) for part in parts] == [len(parts[0])] * 3
        assert parts[1:] == [later[split] for later in three.later] and parts[1] != parts[2]
    questions = [item.messages for item in three.items]
    fresh = sum(SMALL[split] for split in FRESH)
    assert len(set(questions)) == len(questions) == len(_all(three)) + 2 * fresh
    empty = dict.fromkeys(FRESH, ())
    assert {**three.in_round(2).splits, **empty} == {**three.splits, **empty}


def test_a_race_has_items_of_its_own_where_they_are_made_or_asked_for(tmp_path: Path) -> None:
    sizes = {"train": 4, "pareto": 2, "select": 2, "test": 2}
    assert len(load_task(TaskConfig(name="lcm", splits=sizes), 0).splits["race"]) == 64
    # This one has 100 questions, of which 70 are left over, and then none for a second round.
    few = TaskConfig(name="lcm", options={"max_value": 10}, splits={**sizes, "train": 60})
    one = load_task(few, 0)
    assert 0 < len(one.splits["race"]) < 64 and not any("of race" in text for text in one.warnings())
    with pytest.raises(TaskError, match="only 0 questions were found for round 1, the run's second;"):
        load_task(few, 0, rounds=2)
    # With 34 for the races of two rounds and their select, what a round has less is said.
    two = load_task(
        few.model_copy(update={"splits": type(few.splits)(**{**sizes, "train": 20})}), 0, rounds=2
    )
    left = len(two.later[0]["race"])
    assert len(two.splits["race"]) == 64 > left
    said = f"task lcm: round 1 has {left} items of race, not 64 as round 0"
    assert [text for text in two.warnings() if "of race" in text] == [f"{said}; no more questions were found"]
    file = _write(tmp_path / "t.jsonl", _numbered(30))
    assert load_task(_jsonl(file, **sizes), 0).splits["race"] == ()
    assert len(load_task(_jsonl(file, **sizes, race=5), 0).splits["race"]) == 5
    with pytest.raises(TaskError, match="race = 21: only 20 questions"):
        load_task(_jsonl(file, **sizes, race=21), 0)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "python"])
def test_records_are_dealt_out_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, by_hand: bool
) -> None:
    sizes = {"train": 4, "pareto": 3, "race": 5, "select": 6, "test": 7}
    records = _numbered(14 + 3 * 11)
    if by_hand:
        names = [split for split, size in sizes.items() for _ in range(size * (3 if split in FRESH else 1))]
        records = [{**record, "split": name} for record, name in zip(records, names, strict=True)]
    config = _jsonl(_write(tmp_path / "t.jsonl", records), **sizes)
    if kind == "python":
        name = f"dealt_{by_hand}".lower()
        (tmp_path / f"{name}.py").write_text(f"def make():\n    return {records!r}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        config = TaskConfig(kind="python", name=f"{name}:make", extract="whole", splits=sizes)
    three = load_task(config, 0, rounds=3)
    assert len({item.id for item in three.items}) == len(three.items) == len(records)
    for split in FRESH:
        parts = [three.in_round(n).splits[split] for n in range(3)]
        assert [len(part) for part in parts] == [sizes[split]] * 3 and parts[1:] == [
            later[split] for later in three.later
        ]
        if by_hand:
            assert {item.entry["split"] for part in parts for item in part} == {split}
    # Rounds that are added change nothing of those before, and there must be records for them.
    two, one = load_task(config, 0, rounds=2), load_task(config, 0)
    assert one.splits == two.splits == three.splits and two.later == three.later[:1]
    assert one.fingerprint == three.fingerprint and three.warnings() == ()
    assert one.rounds == two.rounds == three.rounds == 3
    with pytest.raises(TaskError, match=r"select = 6: only 0 questions were found for round 3") as caught:
        load_task(config, 0, rounds=4)
    assert "or loop.rounds" in str(caught.value.hint)
    fewer = {**sizes, "select": 2}
    with pytest.raises(TaskError, match=r"race = 5: only \d questions were found for round \d") as caught:
        load_task(config.model_copy(update={"splits": type(config.splits)(**fewer)}), 0, rounds=9)
    assert "Lower task.splits.race or loop.rounds" in str(caught.value.hint)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_file_must_hold_select_for_each_round(tmp_path: Path, by_hand: bool) -> None:
    records = _numbered(10)
    if by_hand:
        splits = ["train", "pareto", "test", *["select"] * 7]
        records = [{**record, "split": split} for record, split in zip(records, splits, strict=True)]
    config = _jsonl(_write(tmp_path / "t.jsonl", records), train=1, pareto=1, select=3, test=1)
    two = load_task(config, 0, rounds=2)
    assert len({item.id for item in two.items}) == 9 and len(two.later) == 1 and two.rounds == 2
    with pytest.raises(TaskError, match=r"select = 3: only [01] questions were found for round 2") as caught:
        load_task(config, 0, rounds=3)
    assert "Lower task.splits.select or loop.rounds" in str(caught.value.hint)
    # A row that only a later round reads is part of the data, too.
    changed = [
        {**record, "answer": "other"} if two.later[0]["select"][0].id == f"jsonl:{n}" else record
        for n, record in enumerate(records, 1)
    ]
    _write(tmp_path / "t.jsonl", changed)
    assert (
        load_task(config, 0).fingerprint
        != load_task(
            _jsonl(_write(tmp_path / "u.jsonl", records), train=1, pareto=1, select=3, test=1), 0
        ).fingerprint
    )


def test_every_field_of_a_record_is_part_of_the_data(tmp_path: Path) -> None:
    def mark(records: Sequence[object]) -> str:
        return load_task(_jsonl(_write(tmp_path / "t.jsonl", records)), 0).fingerprint

    records = [{**record, "hint": {"most": n, "of": ["a"]}} for n, record in enumerate(_numbered(10))]
    before = mark(records)
    assert mark([dict(reversed(record.items())) for record in records]) == before  # the order of keys is none
    for changed in ({"hint": {"most": 3, "of": ["b"]}}, {"hint": None}, {"more": 1}):
        assert mark([*records[:9], {**records[9], **changed}]) != before


def test_a_field_that_nobody_would_know_again_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_checkers.py").write_text(
        "def make(): return [dict(question=str(n), answer=n, check=len, more=object()) for n in range(8)]"
    )
    config = TaskConfig(kind="python", name="own_checkers:make", extract="whole", splits=FOUR)
    one, two = load_task(config, 0), load_task(config, 0)
    assert one.fingerprint == two.fingerprint
    assert one.warnings() == (
        "task own_checkers:make: `check`, `more` of its records: what a run is known by has no part of it",
    )


def test_a_pool_too_small_for_its_splits() -> None:
    # Ordered pairs of 1..10: 100 questions for test 60, select 20, pareto 10 and train 40.
    with pytest.raises(TaskError) as caught:
        load_task(_gym(options={"max_value": 10}, test=60), 0)
    assert "task.splits.train = 40: only 10 questions were found" in str(caught.value)
    assert "lcm gave 100 distinct questions" in str(caught.value)
    assert "Lower task.splits.train" in caught.value.hint
    assert len(_all(load_task(_gym(options={"max_value": 10}, test=45, train=10), 0))) == 100


def test_a_pool_whose_rare_questions_must_be_waited_for() -> None:
    # 900 ordered pairs of 1..30; the coprime ones are rare, so the last items need many draws.
    task = load_task(_gym(options={"max_value": 30}, train=256, pareto=64, select=128, test=285), 0)
    assert 748 < task.distinct <= 900
    assert task.drawn > 2748
    assert task.commonest[1] < 0.05
    (warning,) = task.warnings()
    assert f"{task.distinct} distinct questions" in warning
    assert "748 of them" in warning


def test_a_large_pool_is_not_probed_and_not_warned_about() -> None:
    task = load_task(_gym("chain_sum", {"min_digits": 6, "max_digits": 8}), 0)
    assert (task.distinct, task.drawn) == (115, 115)
    assert task.warnings() == ()


def test_warning_about_the_commonest_answer() -> None:
    task = load_task(_gym("letter_counting", {"min_words": 1, "max_words": 3}, test=300), 0)
    answer, share = task.commonest
    assert answer == "1"
    assert share == pytest.approx(sum(item.answer == "1" for item in _all(task)) / 385)
    assert 0.7 < share < 0.9
    (warning,) = task.warnings()
    assert f"{share:.0%} of the answers are '1'" in warning


def test_unknown_gym_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match="'chain_sums'") as caught:
        load_task(_gym("chain_sums"), 0)
    assert "chain_sum" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_valu": 30}, "max_valu"),
        ({"min_value": 0}, "min_value must be positive"),
        ({"max_value": "thirty"}, "TypeError"),
        ({"seed": 4}, "seed"),
    ],
)
def test_bad_gym_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(_gym("lcm", options), 0)
    assert "task.options" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint == "Options of lcm: max_numbers, max_value, min_numbers, min_value."


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("tags", "<answer>7</answer>", "7"),
        ("tags", "<answer>1</answer> no, <ANSWER>\n 2\nand 3 </Answer>.", "2\nand 3"),
        ("tags", "<answer>1 <answer>2</answer>", "2"),
        ("tags", "<answer>1</answer> <answer>2", "1"),
        ("tags", "<answer>7", None),
        ("tags", "7</answer>", None),
        ("tags", "<answer> </answer>", None),
        ("tags", "7", None),
        ("boxed", r"so \boxed{7}.", "7"),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"{a} \boxed{ {1, 2} } {b}", "{1, 2}"),
        ("boxed", r"\boxed{\text{it is \boxed{3}}}", "3"),
        ("boxed", r"\boxed{1} and \boxed{\frac{1}{2}", "1"),
        ("boxed", r"\boxed{7", None),
        ("boxed", r"\boxed{}", None),
        ("boxed", "boxed{7}", None),
        ("last_number", "The LCM of 4 and 6 is 12.", "12"),
        ("last_number", "12", "12"),
        ("last_number", "It is 1,234.", "1234"),
        ("last_number", "It is 1,234,567.50!", "1234567.50"),
        ("last_number", "2, 3,4", "4"),
        ("last_number", "12,34", "34"),
        ("last_number", "1,2345", "2345"),
        ("last_number", "0.5", "0.5"),
        ("last_number", "x = .5", ".5"),
        ("last_number", "x = -5", "-5"),
        ("last_number", "x = \u22125", "-5"),
        ("last_number", "(-5)", "-5"),
        ("last_number", "x = +5", "5"),
        ("last_number", "3-4", "4"),
        ("last_number", "3 - 4", "4"),
        ("last_number", "3 + -4", "-4"),
        ("last_number", "-1,000", "-1000"),
        ("last_number", "**42**", "42"),
        ("last_number", "$42$ apples", "42"),
        ("last_number", "42%", "42"),
        ("last_number", "1/2 of it", "1/2"),
        ("last_number", "The answer is $9{,}500$.", "9500"),
        ("last_number", r"so \dfrac{3}{4}.", r"\frac{3}{4}"),
        ("last_number", "The area is 12 cm^2.", "12"),
        ("last_number", "12 cm^{-2}", "12"),
        ("last_number", "born 10/2/2020", "2020"),
        ("last_number", "It is 6.02e23", "6.02e23"),
        ("last_number", "no digits", None),
        ("last_number", "", None),
        ("last_line", "work\n\n  the end \n \n", "the end"),
        ("last_line", "one", "one"),
        ("last_line", " \n", None),
        ("whole", "  a\nb ", "a\nb"),
        ("whole", " \n ", None),
        ("last_number", "<think>it might be 7, or", None),
        ("last_number", "<think>7</think>", None),
        ("last_number", "7?</think>It is 8 <think>or 9", "8"),
        ("boxed", r"<think>\boxed{7}</think>It is \boxed{8}.", "8"),
        ("boxed", r"<think>\boxed{7}</think>It is", None),
        ("tags", "<think><answer>7</answer>", None),
        ("last_line", "<think>\n7", None),
        ("whole", "<think>7 or 8</think>\n\n8", "8"),
        ("last_number", "<seed:think>It is 7", None),
        ("last_number", "<seed:think>It is 7</seed:think>No, it is 8", "8"),
        ("last_number", "[THINK]It is 7", None),
        ("last_number", "<|channel>thought\n7<channel|>8", "8"),
        ("last_number", "8 <|inner_prefix|>or 9", "8"),
    ],
)
def test_extraction(kind: str, text: str, answer: str | None) -> None:
    assert extract(kind, text) == answer


def test_feedback_on_a_thought_that_was_cut() -> None:
    task = load_task(_gym("lcm"), 0)
    item = task.splits["test"][0]
    cut = task.score(item, f"<think>it is {item.answer}", truncated=True)
    assert (cut.value, cut.extracted) == (0.0, None)
    assert cut.feedback.endswith("before it ended. It ended inside <think>, before any answer.")
    # Some chat templates open the thought themselves.
    opened = task.score(item, f"it is {item.answer}", opening="<think>")
    assert (opened.value, opened.extracted) == (0.0, None)
    assert task.score(item, f"hm</think>it is {item.answer}", opening="<think>").value == 1.0


def test_extraction_of_a_repetitive_reply_is_quick() -> None:
    # Quadratic scanning would take minutes here.
    assert extract("boxed", r"\boxed{" * 50_000) is None
    assert extract("tags", "<answer>" * 50_000) is None
    assert extract("last_number", "1," * 50_000) == "1"


def test_unknown_extraction() -> None:
    with pytest.raises(ValueError, match="'tag'"):
        extract("tag", "<answer>1</answer>")


def test_partial_credit_is_kept_raw_and_scores_nothing() -> None:
    task = load_task(_gym("lcm").model_copy(update={"extract": "whole"}), 0)
    item = task.splits["test"][0]
    full, partial = task.score(item, item.answer), task.score(item, f"It is {item.answer}")
    assert (full.value, full.raw) == (1.0, 1.0)
    assert partial.value == 0.0
    # reasoning-gym's default scorer: length of the answer over length of the reply.
    assert partial.raw == pytest.approx(len(item.answer) / len(f"It is {item.answer}"))
    assert f"gave {partial.raw:.2f} of 1" in partial.feedback


def test_feedback_sentences() -> None:
    task = load_task(_gym("lcm"), 0)
    item, cut = task.splits["test"][0], "The reply was cut off at the token limit before it ended."
    right, wrong = item.answer, "999983"
    assert task.score(item, f"It is {right}.").feedback == f"Correct: {right}."
    assert task.score(item, f"{right}, or {wrong}?").feedback == (
        f"The answer read from the reply was {wrong}, which is wrong; the expected answer is {right}."
    )
    assert task.score(item, wrong, truncated=True).feedback.endswith(f"is {right}. {cut}")
    none = task.score(item, "The multiples are", truncated=True)
    assert none.feedback == f"The expected answer is {right}. {cut} No number was found in the reply."
    assert (none.value, none.raw, none.extracted) == (0.0, 0.0, None)


def test_feedback_names_the_missing_tags_and_shortens_long_replies() -> None:
    task = load_task(_gym("lcm").model_copy(update={"extract": "tags"}), 0)
    item = task.splits["test"][0]
    assert "No <answer>...</answer> was found" in task.score(item, item.answer).feedback
    assert len(task.score(item, f"<answer>{'x' * 5000}</answer>").feedback) < 500


def test_an_answer_that_the_gym_scorer_cannot_parse_is_wrong() -> None:
    task = load_task(_gym("prime_factorization").model_copy(update={"extract": "whole"}), 0)
    item = task.splits["test"][0]
    score = task.score(item, "two times three")
    assert (score.value, score.raw) == (0.0, 0.0)
    assert score.feedback.endswith("The task's scorer could not read this answer.")
    assert task.score(item, item.answer).value == 1.0


def test_a_gym_task_without_an_oracle_answer() -> None:
    task = load_task(_gym("propositional_logic"), 0)
    assert task.commonest == ("", 1.0)
    assert task.warnings() == ()
    feedback = task.score(task.splits["test"][0], "7").feedback
    assert feedback.startswith("The answer read from the reply was 7, which is wrong.")


def test_jsonl_deals_each_question_once(tmp_path: Path) -> None:
    records = _numbered(9) + [{"question": "What is 3 + 0?", "answer": 3, "extra": [1]}]
    config = _jsonl(_write(tmp_path / "a.jsonl", records), train=3, pareto=2, select=2, test=2)
    task = load_task(config, 0)
    assert sorted(item.question for item in _all(task)) == [f"What is {n} + 0?" for n in range(9)]
    assert (task.distinct, task.drawn) == (9, 10)
    for item in _all(task):
        line = int(item.id.removeprefix("jsonl:"))
        assert item.entry == records[line - 1]
    assert load_task(config, 0) == task
    assert load_task(config, 1).splits["test"] != task.splits["test"]


def test_jsonl_test_split_does_not_depend_on_the_train_size(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", _numbered(30))
    small, large = (load_task(_jsonl(path, train=n, pareto=2, select=2, test=5), 0) for n in (3, 21))
    assert small.splits["test"] == large.splits["test"]


def test_jsonl_with_too_few_questions(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", _numbered(7) * 2)
    with pytest.raises(TaskError) as caught:
        load_task(_jsonl(path), 0)
    assert "task.splits.train = 2: only 1 questions were found" in str(caught.value)
    assert "7 distinct questions in 14 examples" in str(caught.value)


def test_jsonl_with_splits_by_hand(tmp_path: Path) -> None:
    records = [r | {"split": SPLITS[n % 5]} for n, r in enumerate(_numbered(15))]
    records.append({"question": "What is 3 + 0?", "answer": 3, "split": "train"})
    task = load_task(_jsonl(_write(tmp_path / "a.jsonl", records)), 0)
    assert all(item.entry["split"] == split for split in SPLITS for item in task.splits[split])
    with pytest.raises(TaskError, match=r"task\.splits\.train = 4: only 3 questions"):
        load_task(_jsonl(tmp_path / "a.jsonl", train=4, pareto=3, select=3, test=3), 0)


def test_jsonl_whose_rows_are_all_of_one_split(tmp_path: Path) -> None:
    records = [record | {"split": "train"} for record in _numbered(12)]
    with pytest.raises(TaskError, match=r"task\.splits\.\w+ = 2: only 0 questions .* for it;") as caught:
        load_task(_jsonl(_write(tmp_path / "a.jsonl", records)), 0)
    said = str(caught.value)
    assert (
        "12 of 'train', 0 of 'pareto', 0 of 'race', 0 of 'select', 0 of 'test'" in said
        and "distinct" not in said
    )
    assert "name another field in task.fields.split" in caught.value.hint


@pytest.mark.parametrize("second", [{}, {"split": "dev"}, {"split": None}])
def test_jsonl_with_half_given_or_unknown_splits(tmp_path: Path, second: dict[str, Any]) -> None:
    one, two = _numbered(2)
    path = _write(tmp_path / "a.jsonl", [one | {"split": "test"}, two | second])
    with pytest.raises(TaskError, match=r"a\.jsonl, jsonl:2: split is") as caught:
        load_task(_jsonl(path), 0)
    assert "train, pareto, race, select, test" in caught.value.hint


def test_jsonl_keeps_all_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be {brief}."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Capital of France?"},
    ]
    # The same last turn after another beginning is another question.
    records = [
        *_numbered(6),
        {"question": turns, "answer": "Paris"},
        {"question": turns[-1:], "answer": "Paris"},
    ]
    task = load_task(_jsonl(_write(tmp_path / "a.jsonl", records)), 0)
    (item,) = (item for item in _all(task) if item.id == "jsonl:7")
    assert item.messages == tuple((turn["role"], turn["content"]) for turn in turns)
    assert item.question == "Capital of France?"


@pytest.mark.parametrize(
    ("answer", "reply", "value"),
    [
        ("Paris", " Paris\n", 1.0),
        ("Paris", "paris", 0.0),
        ("Paris", "Paris, France", 0.0),
        (42, "42.0", 1.0),
        (42, "42.", 1.0),
        ("1,234", "1234.00", 1.0),
        (0.1, ".10", 1.0),
        (-3, "\u22123", 1.0),
        (42, "43", 0.0),
        (42, "42 apples", 0.0),
        (42, "", 0.0),
        ("1.2.3", "1.2.3", 1.0),
    ],
)
def test_exact_match_of_texts_and_numbers(tmp_path: Path, answer: object, reply: str, value: float) -> None:
    records = [{"question": f"Q{n}", "answer": answer} for n in range(8)]
    task = load_task(_jsonl(_write(tmp_path / "a.jsonl", records)), 0)
    score = task.score(task.splits["test"][0], reply)
    assert (score.value, score.raw) == (value, value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"answer": "A"}', "no field 'question'"),
        ('{"question": "Q", "answer": ', "not JSON"),
        ('["Q", "A"]', "not an object"),
        ('{"question": "Q", "answer": ["A"]}', "answer is ['A']"),
        ('{"question": {"text": "Q"}, "answer": "A"}', "question is {'text'"),
        ('{"question": [{"role": "tool", "content": "Q"}], "answer": "A"}', "question is"),
        (
            '{"question": [{"role": "assistant", "content": "Q"}], "answer": "A"}',
            "does not end with a user's",
        ),
        ('{"question": "Q", "answer": NaN}', "NaN is not JSON"),
        ('{"question": "Q", "answer": "A", "level": -Infinity}', "-Infinity is not JSON"),
        ('{"question": "Q", "answer": 1e999}', "answer holds a number that is not finite"),
        ('{"question": "Q", "answer": %s}' % ("7" * 5000), "a number of 5,000 digits; write it as a text"),
        ('{"question": "Q \\ud83d", "answer": "A"}', "question holds half of a surrogate pair"),
        (
            '{"question": [{"role": "user", "content": "\\ude00"}], "answer": "A"}',
            "question holds half of a surrogate",
        ),
        ('{"question": "Q", "answer": "A", "note": {"a": ["\\ud83d"]}}', "note holds half of a surrogate"),
        ('{"question": "Q", "answer": "A", "answer": "B"}', "the field 'answer' stands there twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "Q", "answer": "A"}\n\n' + line + "\n", "utf-8")
    with pytest.raises(TaskError) as caught:
        load_task(_jsonl(path), 0)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert said in str(caught.value)


def test_jsonl_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.jsonl.*No such file"):
        load_task(_jsonl(tmp_path / "none.jsonl"), 0)
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é", "answer": "A"}\n'.encode("latin-1"))
    with pytest.raises(TaskError, match=r"latin\.jsonl:1: not UTF-8"):
        load_task(_jsonl(tmp_path / "latin.jsonl"), 0)


def test_a_byte_order_mark_and_empty_lines_are_no_records(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", _numbered(8))
    path.write_bytes(b"\xef\xbb\xbf\r\n" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    assert {item.id for item in _all(load_task(_jsonl(path), 0))} == {f"jsonl:{2 * n}" for n in range(1, 9)}


@pytest.mark.timeout(20)
def test_a_task_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(TaskError, match="not a regular file"):
            load_task(_jsonl(name), 0)
    with pytest.raises(TaskError, match="it is a folder"):
        load_task(_jsonl(tmp_path), 0)


FACTORIES = """
import asyncio

def plain(count=8):
    return ({"question": f"What is {n}?", "answer": n} for n in range(count))

class Scored:
    def __init__(self, verdict):
        self.items = [{"question": f"Q{n}", "answer": "yes", "note": n} for n in range(8)]
        self.verdict = verdict
    def score(self, item, completion):
        if self.verdict == "length":
            return len(completion) / 10, f"note {item['note']}"
        if self.verdict == "raise":
            raise ConnectionError("the judge is away")
        if self.verdict == "exit":
            raise SystemExit(0)
        if self.verdict == "cancelled":
            raise asyncio.CancelledError
        return self.verdict

def scored(verdict):
    return Scored(verdict)

class Lazy:
    def score(self, item, completion):
        return 1
    @property
    def items(self):
        raise SystemExit(0)

def refilled():
    record = {}
    for n in range(8):
        record.update(question=f"Q{n}", answer=n, note=n)
        yield record

def __getattr__(name):
    raise SystemExit(0) if name == "leaves_unread" else AttributeError(name)

def nothing():
    return None

def broken():
    return [{"question": "Q", "answer": 10**5000}]

def around():
    loop = []
    loop.append(loop)
    return [{"question": f"Q{n}", "answer": n, "loop": loop} for n in range(8)]

def leaves():
    raise SystemExit(0)

def breaks_off():
    yield {"question": "Q", "answer": "A"}
    raise OSError("the drive is away")

def incomplete():
    return [{"answer": "A"}]

number = 7
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def _python(name: str, **options: Any) -> TaskConfig:
    return TaskConfig(kind="python", name=name, options=options, splits=FOUR)


def test_python_factory_of_records(factories: str) -> None:
    task = load_task(_python(f"{factories}:plain", count=9), 0)
    item = task.splits["test"][0]
    assert task.distinct == 9
    assert task.score(item, f"It is {item.answer}.").value == 1.0
    assert task.score(item, "It is 77.").value == 0.0
    assert load_task(_python(f"{factories}:around"), 0).distinct == 8


def test_python_factory_with_its_own_scorer(factories: str) -> None:
    task = load_task(_python(f"{factories}:scored", verdict="length"), 0)
    item = task.splits["select"][1]
    # The scorer reads the whole reply, so a reply without a number can have a full score.
    full, half = task.score(item, "ten chars!"), task.score(item, "five5")
    assert (full.value, full.raw, full.extracted) == (1.0, 1.0, None)
    assert full.feedback == f"Correct: yes. note {item.entry['note']}"
    assert (half.value, half.raw) == (0.5, 0.5)
    assert task.score(item, "x", truncated=True).raw == pytest.approx(0.1)


def test_a_factory_may_fill_one_record_again_and_again(factories: str) -> None:
    task = load_task(_python(f"{factories}:refilled"), 0)
    assert all(item.entry["note"] == int(item.answer) for item in task.items) and task.distinct == 8


def test_what_a_scorer_says_has_an_end_and_can_be_written(factories: str) -> None:
    task = load_task(_python(f"{factories}:scored", verdict=(0.5, "a\ud83d" + "b" * 10**6 + "c")), 0)
    said = task.score(task.splits["test"][0], "5").feedback
    assert len(said) < 4_200 and "a?bb" in said and said.endswith("bc")


@pytest.mark.parametrize("verdict", [None, "good", [1], float("nan"), pytest.param(10**400, id="10**400")])
def test_python_scorer_that_returns_no_score(factories: str, verdict: object) -> None:
    task = load_task(_python(f"{factories}:scored", verdict=verdict), 0)
    with pytest.raises(TaskError, match=r"score gave .* for python:"):
        task.score(task.splits["test"][0], "5")


def test_a_python_scorer_that_fails_is_an_error_and_no_score(factories: str) -> None:
    task = load_task(_python(f"{factories}:scored", verdict="raise"), 0)
    with pytest.raises(
        EnvironmentFault, match=r"score on python:.* failed: ConnectionError: the judge is away"
    ):
        task.score(task.splits["test"][0], "5")


def test_a_scorer_that_ends_the_program_is_an_error(factories: str) -> None:
    task = load_task(_python(f"{factories}:scored", verdict="exit"), 0)
    with pytest.raises(EnvironmentFault, match=r"score on python:.* failed: SystemExit: 0"):
        task.score(task.splits["test"][0], "5")
    task = load_task(_python(f"{factories}:scored", verdict="cancelled"), 0)
    with pytest.raises(EnvironmentFault, match=r"score on python:.* failed: CancelledError"):
        task.score(task.splits["test"][0], "5")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no_such_module_at_all:make", {}, "there is no file of no_such_module_at_all in"),
        ("os:system", {"command": "touch harm"}, "there is no file of os in"),
        ("sys:exit", {}, "there is no file of sys in"),
        ("numpy.testing:run_module_suite", {}, "there is no file of numpy.testing in"),
        ("gepa_loop.run.directory:locked", {}, "there is no file of gepa_loop.run.directory in"),
        ("{}:leaves", {}, "the factory failed: SystemExit: 0"),
        ("{}:Lazy", {}, "the factory failed: SystemExit: 0"),
        ("{}:leaves_unread", {}, "failed: SystemExit: 0"),
        ("{}:breaks_off", {}, "the factory failed: OSError: the drive is away"),
        ("{}:no_such", {}, "has no function 'no_such'"),
        ("{}:number", {}, "has no function 'number'"),
        ("{}", {}, "not of the form"),
        ("{}:plain", {"size": 3}, "unexpected keyword argument 'size'"),
        ("{}:nothing", {}, "returned NoneType"),
        ("{}:incomplete", {}, "record 1: no field 'question'"),
        ("{}:broken", {}, "record 1: answer holds a number of more than 4,000 digits"),
    ],
)
def test_python_factories_that_cannot_be_used(
    factories: str, name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(_python(name.format(factories), **options), 0)
    assert said in str(caught.value)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    for name, text, said in (
        ("broken_one", "def (", "importing broken_one failed: SyntaxError"),
        ("broken_two", "raise SystemExit(0)", "importing broken_two failed: SystemExit: 0"),
        (
            "broken_three",
            "import no_such_thing",
            "failed: ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("json", "def make(): return []", "json.py cannot be imported, as"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(TaskError, match=re.escape(said)):
            load_task(_python(f"{name}:make"), 0)


def test_only_the_file_that_is_named_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    inner = tmp_path / "own_package" / "inner.py"
    inner.parent.mkdir()
    inner.write_text("def make(): return [dict(question=str(n), answer=n) for n in range(8)]")
    config = _python("own_package.inner:make")
    assert code_of(config) == (inner,)
    assert "own_package" not in sys.modules, "nothing is run to find it"
    assert load_task(config, 0).distinct == 8
    assert code_of(_jsonl(inner)) == ()

"""Scores of replies beside expected answers, by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.task.items import load_task
from gepa_loop.task.readings import Reading
from gepa_loop.task.records import Item, item_of
from gepa_loop.task.scorers import choice, exact, f1, first_object, includes, json_fields, make_scorer, regex

LABELS = ("Q1-RFD", "late", "late delivery", "Was ist los?")


def item(answer: str, **entry: object) -> Item:
    return Item("t:1", (("user", "?"),), answer, {"question": "?", "answer": answer, **entry})


@pytest.mark.parametrize(
    ("read", "answer", "score"),
    [
        ("Q1-RFD", "Q1-RFD", 1.0),
        ("The desk is q1 rfd.", "Q1-RFD", 1.0),
        ("Q1-RFDX", "Q1-RFD", 0.0),
        ("late delivery", "late delivery", 1.0),
        ("late delivery", "late", 0.0),  # a label inside a longer one is not named
        ("late, so a late delivery", "late delivery", 0.0),  # but here both are
        ("it is late.", "late", 1.0),
        ("Q1-RFD or late", "late", 0.0),
        ("was ist los", "Was ist los?", 1.0),
        ("none of these", "late", 0.0),
        ("", "late", 0.0),
    ],
)
def test_a_choice_is_the_one_label_that_is_named(read: str, answer: str, score: float) -> None:
    assert choice(LABELS)(read, answer)[0] == score


def test_a_choice_says_what_was_wrong() -> None:
    assert choice(LABELS)("Q1-RFD or late", "late")[1] == "It names 2 labels: Q1-RFD, late."
    assert choice(LABELS)("nothing", "late")[1] == "It names none of the labels."
    assert choice(LABELS)("late", "Q1-RFD")[1] == ""


def test_rules_of_texts() -> None:
    assert exact("7.50", "7.5") == (1.0, "") and exact("7,5 or so", "7.5") == (0.0, "")
    assert includes("It is  NEW\nYork.", "new york") == (1.0, "")
    assert includes("It is York.", "new york") == (0.0, "")
    assert includes("What is 3 and 4? 17", "7") == (0.0, "") and includes("17, no: 7.", "7") == (1.0, "")
    assert regex("on 2026-05-03", r"\b\d{4}-05-\d\d\b") == (1.0, "")
    assert regex("on 2026-06-03", r"\b\d{4}-05-\d\d\b") == (0.0, "")


@pytest.mark.parametrize(
    ("read", "answer", "score"),
    [
        ("the cat sat", "The cat sat.", 1.0),
        ("the cat", "the cat sat", 2 * 2 / 5),  # precision 1, recall 2/3
        ("cat cat cat", "cat", 2 * 1 / 4),  # a word counts as often as it occurs
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_f1_of_words(read: str, answer: str, score: float) -> None:
    assert f1(read, answer)[0] == pytest.approx(score)


@pytest.mark.parametrize(
    ("read", "score"),
    [
        ('{"sku": "A-1", "bags": 12, "to": {"town": "GRAZ"}}', 1.0),
        ('Sure!\n```json\n{"bags": 12.0, "to": {"town": "GRAZ"}, "sku": "A-1"}\n```', 1.0),
        ('{"sku": "A-2", "bags": 12, "to": {"town": "GRAZ"}}', 2 / 3),
        ('{"sku": "A-1", "bags": 12}', 2 / 3),
        ('{"sku": "A-1", "bags": 12, "to": {"town": "GRAZ"}, "note": "hi"}', 3 / 4),  # a field too many
        ('{"sku": "A-1", "bags": 12, "to": "GRAZ"}', 2 / 4),  # another path: one missing, one too many
        ("{not json} {} ", 0.0),
        ("A-1, 12, GRAZ", 0.0),
        ('[{"sku": "A-1"}]', 1 / 3),
    ],
)
def test_json_is_worth_the_share_of_right_fields(read: str, score: float) -> None:
    answer = json.dumps({"sku": "A-1", "bags": 12, "to": {"town": "GRAZ"}})
    assert json_fields(read, answer)[0] == pytest.approx(score)


def test_json_says_which_fields_are_wrong() -> None:
    answer = json.dumps({"a": 1, "b": ["x", "y"]})
    assert (
        json_fields('{"a": 2, "b": ["x"], "c": 3}', answer)[1]
        == "Wrong or missing: a, b[1]. Not asked for: c."
    )
    assert first_object('{"broken": {"a": 1}') == {"a": 1}
    assert first_object("{" * 100_000) is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("1", "-1", "0"), "the labels '1' and '-1' differ in their punctuation alone"),
        (("A-", "B", "A+"), "the labels 'A-' and 'A+' differ"),
        (("C#", "C++"), "the labels 'C#' and 'C++' differ"),
        (("yes", "?!"), "the label '?!' has no word"),
    ],
)
def test_labels_that_a_choice_takes_for_one_are_refused(labels: Sequence[str], said: str) -> None:
    config = TaskConfig(kind="jsonl", name="x", scorer="choice")
    with pytest.raises(TaskError) as caught:
        make_scorer(config, [item(label) for label in labels])
    assert f"task.scorer = 'choice': {said}" in str(caught.value) and "'exact'" in caught.value.hint
    # And so it does.
    assert [exact(read, labels[0])[0] for read in labels] == [1.0] + [0.0] * (len(labels) - 1)


def test_labels_that_differ_in_case_and_white_space_are_one() -> None:
    scorer = make_scorer(TaskConfig(kind="jsonl", name="x", scorer="choice"), [item("Late"), item("late ")])
    assert scorer([Reading(item("Late"), "LATE.", "LATE.")]) == [(1.0, "")]


def test_answers_that_no_scorer_can_use_are_refused() -> None:
    for name, answer, what in (("regex", "(", "regular expression"), ("json", "[1]", "JSON object")):
        config = TaskConfig(kind="jsonl", name="x", scorer=name)
        with pytest.raises(TaskError, match=rf"task.scorer = '{name}': the answer of t:1 is no {what}"):
            make_scorer(config, [item(answer)])


def test_a_missing_answer_is_said_where_one_is_compared_with() -> None:
    config = TaskConfig(kind="jsonl", name="x")
    for nothing in ("", "   "):
        records = [
            item_of("jsonl:1", {"question": "?", "answer": nothing}, "x:1"),
            item_of("jsonl:2", {"question": "?"}, "x:2"),
        ]
        with pytest.raises(
            TaskError, match=r"jsonl:1 has no answer, and task.scorer = 'exact' compares with one"
        ):
            make_scorer(config, records)


def test_scorers_are_named_and_fit_the_kind() -> None:
    def wrong(*sets: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config("smoke", list(sets), env={})
        return str(caught.value)

    assert "reasoning-gym's tasks bring their own" in wrong("task.scorer=exact")
    named = ("task.kind=jsonl", "task.name=x.jsonl", "task.options={}")
    assert "neither file.py:function, package.module:function nor one of exact, choice" in wrong(
        *named, "task.scorer=fuzzy"
    )
    assert "partial is about reasoning-gym's" in wrong(*named, "task.partial=true")


def test_a_function_of_the_users_scores_a_jsonl_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_scorer_of_lengths.py").write_text(
        "def score(record, reply):\n    return len(reply) / record['most'], f'{len(reply)} letters.'\n"
    )
    records = [{"question": str(n), "most": 8} for n in range(8)]
    Path("items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sizes = {"train": 2, "pareto": 2, "select": 2, "test": 2}
    config = TaskConfig(
        kind="jsonl", name="items.jsonl", extract="whole", scorer="own_scorer_of_lengths:score", splits=sizes
    )
    task = load_task(config, 0)
    score = task.score(task.splits["test"][0], "abcdef")
    assert (score.value, score.raw) == (0.75, 0.75)
    assert score.feedback == "The answer read from the reply was abcdef, which is worth 0.75 of 1. 6 letters."
    with pytest.raises(TaskError, match=r"score gave \(1.125, '9 letters.'\) for jsonl:"):
        task.score(task.splits["test"][0], "abcdefghi")

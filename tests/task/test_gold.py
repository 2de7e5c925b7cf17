"""Expected answers that nothing can match, and questions with two of them, found at load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.items import load_task


def _task(folder: Path, answers: list[object], extract: str, questions: int | None = None) -> TaskConfig:
    """A JSONL task whose question n has the n-th answer; with `questions` they come again after so many."""
    count = questions or len(answers)
    rows = [{"question": f"Q{n % count}", "answer": answer} for n, answer in enumerate(answers)]
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sizes = {"train": count - 6, "pareto": 2, "select": 2, "test": 2}
    return TaskConfig(kind="jsonl", name=str(path), extract=extract, splits=sizes)


@pytest.mark.parametrize(
    ("answer", "extract", "read", "hint"),
    [
        (lambda n: f"We add.\n#### {n}", "last_number", "'1'", "follows ####"),
        (lambda n: f"{n} apples", "last_number", "'1'", "number alone"),
        (lambda n: f"yes {'no' * n}", "last_number", "nothing", "another task.extract"),
        (lambda n: f"one\n{n}", "last_line", "'1'", "another task.extract"),
        (lambda n: f"}}{n}{{", "boxed", "nothing", "another task.extract"),
    ],
)
def test_answers_that_cannot_be_matched_are_an_error(
    tmp_path: Path, answer: Callable[[int], object], extract: str, read: str, hint: str
) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(_task(tmp_path, [answer(n) for n in range(1, 11)], extract), 0)
    assert "10 of 10 answers cannot score 1" in str(caught.value)
    assert f"(task.extract = {extract}): jsonl:1 {answer(1)!r} is read as {read}; jsonl:2" in str(
        caught.value
    )
    assert "jsonl:3" in str(caught.value) and "jsonl:4" not in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("extract", ["last_number", "boxed", "tags", "last_line", "whole"])
@pytest.mark.parametrize("form", ["{}", "{}%", "\\frac{{{}}}{{7}}", "1{{,}}00{}"])
def test_numbers_match_themselves_in_every_form(tmp_path: Path, extract: str, form: str) -> None:
    answers: list[object] = [form.format(n) for n in range(10)]
    assert load_task(_task(tmp_path, answers, extract), 0).warnings() == ()


def test_a_few_unmatched_answers_are_said(tmp_path: Path) -> None:
    answers: list[object] = [*range(1, 9), "nine", "10 apples"]
    (warning,) = load_task(_task(tmp_path, answers, "last_number"), 0).warnings()
    assert "2 of 10 answers cannot score 1" in warning
    assert "jsonl:9 'nine' is read as nothing; jsonl:10 '10 apples' is read as '10'" in warning
    # Nine of ten are nearly all.
    with pytest.raises(TaskError, match="9 of 10 answers"):
        load_task(_task(tmp_path, [1, *(f"{n} apples" for n in range(9))], "last_number"), 0)


def test_a_gym_task_whose_answers_are_no_numbers() -> None:
    sizes = {"train": 10, "pareto": 5, "race": 5, "select": 5, "test": 5}
    with pytest.raises(TaskError, match="30 of 30 answers cannot score 1") as caught:
        load_task(TaskConfig(name="spell_backward", splits=sizes), 0)
    assert "tags" in caught.value.hint
    assert load_task(TaskConfig(name="spell_backward", extract="tags", splits=sizes), 0).warnings() == ()
    with pytest.raises(TaskError, match="200 of 200 answers"):
        load_task(TaskConfig(name="spell_backward", splits=sizes | {"train": 380}), 0)


def test_questions_with_two_answers_are_said(tmp_path: Path) -> None:
    # Questions 0 to 9 come again on lines 11 to 20: as the same number, and one as another.
    answers: list[object] = [*range(10), *(f"{n}.0" for n in range(9)), 11]
    (warning,) = load_task(_task(tmp_path, answers, "last_number", questions=10), 0).warnings()
    assert warning.endswith(
        "1 question occurs with two answers, of which the shuffle keeps one: jsonl:10 '9' and jsonl:20 '11'"
    )
    answers[10:] = range(1, 11)
    (warning,) = load_task(_task(tmp_path, answers, "last_number", questions=10), 0).warnings()
    assert "10 questions occur with two answers" in warning
    assert (
        "jsonl:1 '0' and jsonl:11 '1'; jsonl:2 '1' and jsonl:12 '2'; jsonl:3 '2' and jsonl:13 '3'" in warning
    )


def test_two_answers_of_questions_that_differ_in_case_and_white_space(tmp_path: Path) -> None:
    config = _task(tmp_path, [*range(12), 12, 5], "last_number", questions=12)
    rows = Path(config.name).read_text().splitlines()
    rows[12] = json.dumps({"question": " q0\n", "answer": 12})
    Path(config.name).write_text("\n".join(rows) + "\n")
    (warning,) = load_task(config, 0).warnings()
    assert warning.endswith(
        "2 questions occur with two answers, of which the shuffle keeps one where they are written alike: "
        "jsonl:1 '0' and jsonl:13 '12'; jsonl:2 '1' and jsonl:14 '5'"
    )


def test_answers_of_later_rounds_are_looked_at_too(tmp_path: Path) -> None:
    config = _task(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "last_number")
    config = config.model_copy(update={"splits": config.splits.model_copy(update={"train": 2})})
    (item, _) = load_task(config, 0, 3).later[1]["select"]
    rows = Path(config.name).read_text().splitlines()
    number = int(item.id.rpartition(":")[2])
    rows[number - 1] = rows[number - 1].replace(f'"answer": {number}', f'"answer": "{number} apples"')
    Path(config.name).write_text("\n".join(rows) + "\n")
    (doubt,) = load_task(config, 0, 3).doubts
    assert f"jsonl:{number} '{number} apples' is read as '{number}'" in doubt

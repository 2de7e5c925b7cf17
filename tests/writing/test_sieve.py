"""Written questions as text: what is shown, read and dropped, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.errors import TaskError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.writing.sieve import Kind, as_list, kind_of, normal, read_json, read_list, shown

PROMPT = "Answer with one number."
SPLITS = ("train", "pareto", "select", "test")


def lab_of(folder: Path, questions: list[object], *sets: str) -> Lab:
    """Four splits of one item each, in order, and the rest of `questions` in `train`."""
    file = folder / "q.jsonl"
    rest = [*SPLITS, *["train"] * (len(questions) - 4)]
    rows = [{"question": q, "split": split} for q, split in zip(questions, rest, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = f"task.splits={{train={len(questions) - 3}, pareto=1, select=1, test=1}}"
    return open_lab(load_config("smoke", (f"task.name={file}", "task.kind=jsonl", sizes, *sets), env={}))


def kind(lab: Lab, room: int = 200) -> Kind:
    return kind_of(lab.task, lab.rollouts.renderer, PROMPT, room)


@pytest.mark.parametrize(
    ("text", "lines", "ended", "expected"),
    [
        (" What is 8?\n4. What is 9?\n5. What", False, False, ["What is 8?", "What is 9?"]),
        (" What is 8?\n4. What is 9?\n5. What", False, True, ["What is 8?", "What is 9?", "What"]),
        (" What is 8?", False, False, []),
        (" What is 8?\n", False, False, ["What is 8?"]),
        # The list ends where something else follows.
        (" What is 8?\nIt is 8.\n4. What is 9?\n", False, True, ["What is 8?"]),
        (" What is 8?\n\n4. What is 9?\n", False, False, ["What is 8?", "What is 9?"]),
        (" What is 8?\n9. What is 9?\n", False, True, ["What is 8?"]),
        # Of several lines, only the next number ends one.
        (" Dear all,\nwhat is 8?\n4. Hi.\nWhat", True, False, ["Dear all,\nwhat is 8?"]),
        (" Dear all,\nwhat is 8?\n4. Hi.\nWhat", True, True, ["Dear all,\nwhat is 8?", "Hi.\nWhat"]),
        ("", False, True, [""]),
        ("", False, False, []),
    ],
)
def test_a_list_is_read_up_to_where_it_was_cut(
    text: str, lines: bool, ended: bool, expected: list[str]
) -> None:
    assert as_list(["What is 6?", "What is 7?"]) == "1. What is 6?\n2. What is 7?\n3."
    assert read_list(text, 3, lines=lines, ended=ended) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('"What is 8?"\n"Two\\nlines"', ["What is 8?", "Two\nlines"]),
        ('```json\n["What is 8?",\n "What is 9?"]\n```', ["What is 8?", "What is 9?"]),
        ('["What is 8?",\n"What is 9?",\n"What is', ["What is 8?", "What is 9?"]),
        ('Here are some:\n"What is [8]?"\n{"question": "no"}\n7', ["What is [8]?"]),
        ("What is 8?", []),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_json_is_read_as_a_list_or_line_by_line(reply: str, expected: list[str]) -> None:
    assert read_json(reply) == expected


def test_what_may_not_be_trained_on_is_refused_in_words(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, [f"What is {n}, exactly, and why?" for n in range(6)])
    own = kind(lab, 400)
    by_split = {lab.task.splits[split][0].question: split for split in SPLITS}
    assert sorted(by_split.values()) == sorted(SPLITS)
    for question, split in by_split.items():
        assert own.refusal(question, {}) == f"a question of {split}"
    leak = lab.task.splits["test"][0].question
    stem = leak.rstrip("?")
    for variant in (
        f'  "{leak.upper().replace(" ", "  ")}" \n',
        f"\u201c{leak}\u201d",
        f"\xab\xa0{leak}\xa0\xbb",
        f"**{stem}**",
        f"- {stem}\u2026",
        f"{stem}\uff1f",
        leak.replace("W", "\uff37"),
        leak.replace(" ", " \u200b").replace("What", "Wh\xadat"),
    ):
        assert own.refusal(variant, {}) == "a question of test"
    assert normal("Wo ist das Caf\xe9?") == normal("Wo ist das Cafe\u0301?") != normal("Wo ist das Cafe?")
    assert normal("\U0001f600") and not normal("\u2026\u3002 \u2014")
    assert own.refusal("What is 8?", {}) == ""
    assert own.refusal("What is 8?", {normal("what is  8"): "it"}) == "written before"
    assert own.refusal(" \n", {}) == own.refusal("?!", {}) == "empty"
    assert own.longest == 28
    assert own.refusal("x" * 112, {}) != own.refusal("x" * 113, {})
    assert own.refusal("x" * 113, {}) == "over 4 times as long as the longest of train"
    for text in ("What is \ufffd?", "What\x07?", "What\r\nis 8?", read_json('"What is \\ud800?"')[0]):
        assert own.refusal(text, {}) == "broken characters"
    assert own.refusal("What\tis\n8, not 9?", {}) == ""
    assert own.refusal("What is <|im_end|>?", {}) == "a special token inside"
    tokens = len(lab.rollouts.renderer.tokens(PROMPT, own.item("", "What is 8?")))
    assert kind(lab, tokens).refusal("What is 8?", {}) == ""
    assert kind(lab, tokens - 1).refusal("What is 8?", {}) == "too long for the model's context"


def test_items_of_later_rounds_are_known_too(tmp_path: Path) -> None:
    lab = open_lab(load_config("smoke", ("loop.rounds=2",), env={}))
    [later] = lab.task.later
    for split in ("race", "select"):
        assert kind(lab).refusal(later[split][0].question, {}) == f"a question of a later round's {split}"


def test_a_written_question_follows_the_turns_that_all_items_begin_with(tmp_path: Path) -> None:
    def turns(n: int, said: str = "Be kind.") -> list[dict[str, str]]:
        return [{"role": "system", "content": said}, {"role": "user", "content": f"What is {n}?"}]

    own = kind(lab_of(tmp_path, [turns(n) for n in range(6)]))
    item = own.item("written:3", "What is 8?")
    assert item.messages == (("system", "Be kind."), ("user", "What is 8?"))
    assert (item.id, item.answer, item.question) == ("written:3", "", "What is 8?")
    with pytest.raises(
        TaskError, match=r"the turns before the question differ between items jsonl:\d and jsonl:\d"
    ):
        kind(lab_of(tmp_path, [turns(n, "Be kind." if n < 5 else "Be rude.") for n in range(6)]))


def test_lines_are_allowed_where_questions_have_some(tmp_path: Path) -> None:
    assert not kind(lab_of(tmp_path, [f"What is {n}?\n" for n in range(6)])).lines
    assert kind(lab_of(tmp_path, [f"Hi.\nWhat is {n}?" for n in range(6)])).lines


def test_what_is_shown_is_a_function_of_the_seed(tmp_path: Path) -> None:
    items = lab_of(tmp_path, [f"What is {n}?" for n in range(20)]).task.splits["train"]
    assert shown(items, 1, 5) == shown(items, 1, 5) != shown(items, 2, 5)
    assert len(set(shown(items, 1, 5))) == 5 and len(shown(items, 1, 99)) == len(items)
    assert set(shown(items, 1, 99)) == {item.question for item in items}

"""The rows of the table, and the groups above it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.errors import RunDirectoryError
from gepa_loop.show.report.groups import group
from gepa_loop.show.report.items import few_labels, items_json, marks, read_shown
from gepa_loop.show.report.read import Told

ROWS = {
    # item: bare, prompted, student, answer
    "a": (0.0, 1.0, 1.0, "x"),
    "b": (0.0, 1.0, 0.0, "y"),
    "c": (1.0, 0.5, 0.25, "x"),
    "d": (0.0, 0.0, 1.0, "y"),
    "e": (0.0, 0.0, 0.0, "x"),
}


def row(item: str, score: float, completion: str, student: str | None = None) -> dict[str, Any]:
    rest = {"sample": 0, "raw": score, "tokens": 2, "finish_reason": "stop", "feedback": "f"}
    return {
        "item": item,
        "score": score,
        "extracted": None,
        "completion": completion,
        "student": student,
        **rest,
    }


class Run(Told):
    """Rows that no file holds."""

    def rows(self, subject: Any, way: Any) -> Any:
        place = ("base", "prompted", "student").index(subject.key)
        own = {item: row(item, values[place], f"{subject.key} {item}") for item, values in ROWS.items()}
        for one in own.values():
            one["student"] = "cafe" if subject.key == "student" else None
        if way == "greedy":
            return list(own.values())
        return [{**one, "score": one["score"] / 2} for one in own.values()]

    def items(self) -> Any:
        return [
            {
                "item": item,
                "turns": [{"role": "user", "content": f"<{item}>?"}],
                "answer": values[3],
                "student": "cafe",
                "pieces": ["student", f" {item}", ""],
                "nats": [0.1 * n, 0.01, 0.002],
            }
            for n, (item, values) in enumerate(ROWS.items())
        ]


@pytest.fixture
def told() -> Told:
    from gepa_loop.show.report.read import Subject

    subjects = tuple(Subject(key, f"the {key}", key) for key in ("base", "prompted", "student"))  # type: ignore[arg-type]
    return Run(Path("r"), "distill", {}, {}, {}, {}, "greedy", subjects, Path("p"), "a", {})


def test_the_worst_come_first(told: Told) -> None:
    # Behind by 1 and .25; then level ones by their own score; then ahead.
    assert [one.id for one in read_shown(told)] == ["b", "c", "e", "a", "d"]


def test_what_the_script_reads(told: Told) -> None:
    shown = read_shown(told)
    text = items_json(told, shown, ["x", "y"], marks(shown))
    assert not set("<>&\u2028\u2029") & set(text)
    value = json.loads(text)
    assert value["subjects"] == ["the base", "the prompted", "the student"] and value["labels"] == ["x", "y"]
    first = value["items"][0]
    assert first["id"] == "b" and first["turns"] == [["user", "<b>?"]] and first["answer"] == "y"
    assert [one["score"] for one in first["replies"]] == [".000", "1.000", ".000"]
    assert [one["full"] for one in first["replies"]] == [False, True, False]
    assert (
        first["replies"][1] | {"sampled": ".500", "read": None, "cut": False, "feedback": "f"}
        == first["replies"][1]
    )
    kinds = {one["id"]: set(one["kinds"]) for one in value["items"]}
    assert kinds == {
        "a": {"differ"},
        "b": {"lost", "differ"},
        "c": {"lost", "broke", "both", "differ"},
        "d": {"beyond", "differ"},
        "e": {"both", "differ"},
    }


def test_the_tenth_of_all_tokens_is_marked(told: Told) -> None:
    found = marks(read_shown(told))
    # Of 15 tokens 2 are: 0.4 and 0.3.
    assert found is not None and found.items == 5
    assert (found.least, found.most) == (pytest.approx(0.3), pytest.approx(0.4))


def test_tokens_of_another_reply_are_not_shown(told: Told) -> None:
    class Other(Run):
        def items(self) -> Any:
            rows = super().items()
            rows[0]["student"] = "beef"
            rows[1]["pieces"][1] = " elsewhere"
            return rows

    other = Other(**{key: getattr(told, key) for key in Told.__dataclass_fields__})
    tokens = {one.id: one.row["pieces"] for one in read_shown(other) if one.row}
    assert tokens["a"] == tokens["b"] == [] and tokens["c"]


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_a_reply_that_is_not_there_is_no_score(told: Told, way: str) -> None:
    class Torn(Run):
        def rows(self, subject: Any, drawn: Any) -> Any:
            rows = super().rows(subject, drawn)
            return rows[1:] if (subject.key, drawn) == ("prompted", way) else rows

    torn = Torn(**{key: getattr(told, key) for key in Told.__dataclass_fields__})
    end = "_greedy" if way == "greedy" else ""
    with pytest.raises(RunDirectoryError, match=rf"prompted{end}\.jsonl.*e\.g\. a"):
        read_shown(torn)


def test_a_run_without_questions_has_its_replies(told: Told) -> None:
    class Old(Run):
        def items(self) -> Any:
            return []

    shown = read_shown(Old(**{key: getattr(told, key) for key in Told.__dataclass_fields__}))
    assert [one.id for one in shown] == ["b", "c", "e", "a", "d"] and marks(shown) is None
    value = json.loads(items_json(told, shown, [], None))
    assert value["marks"] is None and value["items"][0]["turns"] == [] and value["items"][0]["answer"] == ""
    assert few_labels(shown) == []


def test_groups_by_label(told: Told) -> None:
    shown = read_shown(told)
    found = group(told, shown)
    assert found.by == "label" and found.labels == ("x", "y")
    x, y = found.rows
    assert (x.name, x.count, [text for _, text in x.means], x.behind) == (
        "x",
        3,
        [".333", ".500", ".417"],
        "-.083",
    )
    assert (y.count, [percent for percent, _ in y.means], y.behind) == (2, [0.0, 50.0, 50.0], "+.000")
    assert few_labels(shown, each=3) == [] and few_labels(shown, most=1) == []


def test_groups_by_band(told: Told) -> None:
    class Free(Run):
        def items(self) -> Any:
            return [{**one, "answer": one["item"]} for one in super().items()]

    free = Free(**{key: getattr(told, key) for key in Told.__dataclass_fields__})
    found = group(free, read_shown(free))
    assert found.by == "band" and found.labels == ()
    named = {one.name: (one.count, [text for _, text in one.means]) for one in found.rows}
    assert named == {
        "0": (2, [".000", ".000", ".500"]),
        "up to .5": (1, ["1.000", ".500", ".250"]),
        "1": (2, [".000", "1.000", ".500"]),
    }

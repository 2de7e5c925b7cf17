"""Entries that are made once: the same with and without the file, whatever became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from gepa_loop.config.tables import TaskConfig
from gepa_loop.run.files import read_jsonl
from gepa_loop.task.entries import BLOCK, FORM, Kept, entries, kept, packed, unpacked
from gepa_loop.task.items import load_task


class Clock:
    """A clock that each entry moves on by some seconds."""

    def __init__(self, each: float) -> None:
        self.time, self.each = 0.0, each
        self.made: list[int] = []

    def now(self) -> float:
        return self.time

    def stream(self, skip: int) -> Iterator[dict[str, Any]]:
        for number in range(skip, 100):
            self.time += self.each
            self.made.append(number)
            yield {"question": f"Q{number}", "answer": None, "metadata": {"size": (number, 2)}}


def take(file: Path, clock: Clock, count: int) -> list[dict[str, Any]]:
    stream = Kept(file, clock.stream, clock.now)
    found = list(islice(stream, count))
    stream.save()
    return found


def test_what_was_slow_to_make_is_made_once_and_gone_on_with(tmp_path: Path) -> None:
    file, clock = tmp_path / "items" / "t.jsonl", Clock(0.5)
    whole = take(tmp_path / "other.jsonl", Clock(0.5), 8)
    assert take(file, clock, 5) == whole[:5] and clock.made == [0, 1, 2, 3, 4]
    assert take(file, clock, 3) == whole[:3] and len(clock.made) == 5
    assert take(file, clock, 8) == whole and clock.made == list(range(8))
    assert len(read_jsonl(file)) == 8


def test_what_is_quick_to_make_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    assert len(take(file, Clock(0.125), 7)) == 7 and not file.exists()
    assert len(take(file, Clock(0.125), 8)) == 8 and file.exists()


def test_a_process_that_is_killed_loses_a_few_seconds(tmp_path: Path) -> None:
    file, clock = tmp_path / "t.jsonl", Clock(4)
    stream = iter(Kept(file, clock.stream, clock.now))
    for _ in range(5):
        next(stream)
    # 12 seconds, then 8 more.
    assert len(read_jsonl(file)) == 3


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace("Q1", "Q7"),
        lambda text: "\n".join(reversed(text.splitlines())) + "\n",
        lambda text: "no JSON\n" + text,
        lambda text: "",
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_made_again(
    tmp_path: Path, harm: Callable[[str], str]
) -> None:
    file, clock = tmp_path / "t.jsonl", Clock(1)
    whole = take(file, clock, 4)
    file.write_text(harm(file.read_text()))
    assert take(file, clock, 4) == whole and clock.made == [0, 1, 2, 3] * 2
    assert take(file, clock, 4) == whole and len(clock.made) == 8


def test_a_row_that_was_half_written_is_made_again(tmp_path: Path) -> None:
    file, clock = tmp_path / "t.jsonl", Clock(1)
    whole = take(file, clock, 4)
    file.write_bytes(file.read_bytes()[:-9])
    assert take(file, clock, 4) == whole and clock.made == [0, 1, 2, 3, 3]


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "items").write_text("a file")
    assert len(take(tmp_path / "items" / "t.jsonl", Clock(20), 4)) == 4


def test_what_json_has_no_form_for_is_not_kept(tmp_path: Path) -> None:
    def stream(skip: int) -> Iterator[dict[str, Any]]:
        yield from ({"question": "Q", "extra": {1, 2}} for _ in range(3))

    seconds = count(0, 20)
    made = Kept(tmp_path / "t.jsonl", stream, lambda: float(next(seconds)))
    assert len(list(islice(made, 3))) == 3
    made.save()
    assert not (tmp_path / "t.jsonl").exists()


def same(a: Any, b: Any) -> bool:
    """Equal, with equal types and the same order of keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_every_tasks_entries_are_the_same_out_of_a_file() -> None:
    not_kept = []
    for name in sorted(set(DATASETS) - {"composite"}):
        for entry in reasoning_gym.create_dataset(name, size=2, seed=1):
            try:
                text = json.dumps(packed(entry))
            except TypeError:
                not_kept.append(name)
                continue
            assert same(unpacked(json.loads(text)), entry), name
    # numpy's texts
    assert set(not_kept) == {"knights_knaves"}


def test_a_stream_without_its_beginning_is_the_rest_of_it() -> None:
    whole = list(islice(entries("lcm", {"max_value": 50}, 10**7, 0), 3 * BLOCK + 5))
    for skip in (1, BLOCK - 1, BLOCK, BLOCK + 3, 3 * BLOCK, 3 * BLOCK + 2):
        rest = list(islice(entries("lcm", {"max_value": 50}, 10**7, skip), len(whole) - skip))
        assert rest == whole[skip:], skip


def test_what_a_file_is_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    asked = [("lcm", {}, 1), ("gcd", {}, 1), ("lcm", {"max_value": 9}, 1), ("lcm", {}, 2)]
    files = {kept(name, options, start, "0.1.25")._file for name, options, start in asked}
    assert len(files) == 4 and {file.parent for file in files} == {tmp_path / "items"}
    # What is written in a file of this form, and under which name: either may only change with `FORM`.
    assert FORM == 1
    assert kept("lcm", {}, 1, "0.1.25")._file.name == "lcm-f60b3688ed53387a.jsonl"
    assert packed({"a": (1, [None])}) == {"dict": [["a", {"tuple": [1, [None]]}]]}


def test_another_release_makes_entries_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    for release, question in (("0.1.25", "old"), ("0.1.26", "new")):
        seconds = count(0, 20)
        made = ({"question": question} for _ in range(3))
        stream = Kept(
            kept("lcm", {}, 1, release)._file,
            lambda _, m=made: m,
            lambda s=seconds: float(next(s)),
        )
        assert [entry["question"] for entry in islice(stream, 3)] == [question] * 3
        stream.save()
    assert next(iter(kept("lcm", {}, 1, "0.1.25")))["question"] == "old"
    assert "question" in next(iter(kept("lcm", {}, 1, "0.1.27")))


def test_a_task_out_of_its_files_is_the_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    sizes = {"train": 4, "pareto": 2, "race": 1, "select": 1, "test": 2}
    config = TaskConfig(name="sokoban", extract="tags", splits=sizes)
    told: list[tuple[int, int]] = []
    first = load_task(config, 0, 2, making=lambda *made: told.append(made))
    assert told == [(n, 12) for n in range(1, 13)]  # two rounds of race and select
    for split, items in first.splits.items():
        start = int(items[0].id.rpartition(":")[2])
        marked = ({**entry, "mark": split} for entry in entries("sokoban", {}, start, 0))
        seconds = count(0, 20)
        file = kept("sokoban", {}, start, version("reasoning-gym"))._file
        file.unlink(missing_ok=True)  # it is there where making them took a second
        stream = Kept(file, lambda _, m=marked: m, lambda s=seconds: float(next(s)))
        list(islice(stream, 3))
        stream.save()
    again = load_task(config, 0, 2)
    assert again.fingerprint == first.fingerprint and again.items == first.items
    assert [item.entry.get("mark") for item in again.splits["train"]] == ["train"] * 3 + [None]
    for one, other in zip(first.items, again.items, strict=True):
        assert same(dict(one.entry), {key: own for key, own in other.entry.items() if key != "mark"})
        assert again.score(other, f"<answer>{other.answer}</answer>").value == 1

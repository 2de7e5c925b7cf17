"""Sizes that are shares, and groups that no two splits share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.dealing import SPLITS
from gepa_loop.task.items import Task, load_task
from gepa_loop.task.sources import settle

SHARES = {"train": 0.4, "pareto": 0.2, "select": 0.1, "test": 0.3}


def _rows(count: int, group: int = 1) -> list[dict[str, Any]]:
    return [{"question": f"Q{n}", "answer": f"A{n}", "who": n // group} for n in range(count)]


def _loaded(path: Path, rows: list[dict[str, Any]], rounds: int = 1, **more: Any) -> Task:
    """The task, its shares settled as a command settles them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sizes = more.pop("splits", SHARES)
    config = load_config("smoke", [f"loop.rounds={rounds}"], env={}, cwd=path.parent)
    task = TaskConfig(kind="jsonl", name=str(path), extract="whole", splits=sizes, **more)
    settled = settle(config.model_copy(update={"task": task}))
    assert not settled.task.splits.shares
    return load_task(settled.task, settled.seed, rounds)


def _counts(task: Task) -> list[int]:
    return [len(task.splits[split]) for split in SPLITS]


def test_shares_are_of_the_distinct_questions(tmp_path: Path) -> None:
    task = _loaded(tmp_path / "a.jsonl", [*_rows(40), *_rows(40)])
    assert _counts(task) == [16, 8, 0, 4, 12]
    assert len({item.question for item in task.items}) == 40
    # A number beside shares stays what it is, and each round has items of its own.
    two = _loaded(tmp_path / "a.jsonl", _rows(41), 2, splits={**SHARES, "train": 9, "race": 0.05})
    assert _counts(two) == [9, 8, 2, 4, 12] and len(two.later[0]["select"]) == 4
    assert _counts(_loaded(tmp_path / "a.jsonl", _rows(10), splits={**SHARES, "select": 0.01}))[3] == 1


def test_more_than_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"the shares of train, pareto, select, test are 1\.1 together"
    ) as caught:
        _loaded(tmp_path / "a.jsonl", _rows(40), 2)
    assert "as often as there are rounds" in caught.value.hint
    with pytest.raises(TaskError, match=r"task\.splits\.train = 0\.4: nothing is left"):
        _loaded(tmp_path / "a.jsonl", _rows(3), splits={**SHARES, "select": 1, "pareto": 1})


def test_items_without_end_have_no_shares(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.splits\.test=0\.3: .*splits\.test is a share"):
        load_config("desk", ["task.splits.test=0.3"], env={}, cwd=tmp_path)
    with pytest.raises(ConfigError, match="group is there"):
        load_config("desk", ["task.group=who"], env={}, cwd=tmp_path)
    with pytest.raises(ConfigError, match="fields is there"):
        load_config("desk", ["task.fields.question=body"], env={}, cwd=tmp_path)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize(
    "sizes", [{**SHARES, "train": 0.3}, {"train": 30, "pareto": 16, "select": 5, "test": 20}]
)
def test_no_two_splits_or_rounds_share_a_group(tmp_path: Path, rounds: int, sizes: dict[str, Any]) -> None:
    task = _loaded(tmp_path / "a.jsonl", _rows(120, group=6), rounds, group="who", splits=sizes)
    parts = [task.splits, *task.later]
    owners: dict[object, set[tuple[int, str]]] = {}
    for number, part in enumerate(parts):
        for split, items in part.items():
            for item in items:
                owners.setdefault(item.entry["who"], set()).add((number, split))
    assert all(len(found) == 1 for found in owners.values())
    asked = sizes if sizes["train"] == 30 else {"train": 36, "pareto": 24, "select": 12, "test": 36}
    assert {split: len(task.splits[split]) for split in asked} == asked
    assert all(len(part["select"]) == asked["select"] for part in parts)


def test_a_share_takes_what_groups_leave(tmp_path: Path) -> None:
    # Groups of 7 among 42: test is cut at 12 of 14, pareto at 8 of 14, select at 4 of 7, and one group is left for train.
    task = _loaded(tmp_path / "a.jsonl", _rows(42, group=7), group="who")
    assert _counts(task) == [7, 8, 0, 4, 12]


def test_groups_and_splits_by_hand(tmp_path: Path) -> None:
    rows = [{**row, "part": SPLITS[row["who"] % 5]} for row in _rows(40, group=2)]
    sizes = dict.fromkeys(SPLITS, 8)
    task = _loaded(tmp_path / "a.jsonl", rows, group="who", fields={"split": "part"}, splits=sizes)
    assert all(item.entry["part"] == split for split in SPLITS for item in task.splits[split])
    rows[0]["part"] = "test"
    with pytest.raises(
        TaskError, match=r"task\.group = 'who': records of '0' say that they are of test and train"
    ):
        _loaded(tmp_path / "a.jsonl", rows, group="who", fields={"split": "part"}, splits=sizes)


def test_a_group_that_a_record_lacks(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="item jsonl:1 has no field 'customer'"):
        _loaded(tmp_path / "a.jsonl", _rows(40), group="customer")


def test_a_file_that_is_too_short_names_shares(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"only \d+ questions were found") as caught:
        _loaded(
            tmp_path / "a.jsonl",
            _rows(40, 2),
            group="who",
            splits={"train": 99, "pareto": 2, "select": 2, "test": 2},
        )
    assert "sizes may be shares" in caught.value.hint and "no who either" in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "items"),
    [
        ("smoke", "9979d9facba79f65"),
        ("sums", "365a8fa33a7cb924"),
        ("desk", "0771259b6020b6a3"),
    ],
)
def test_the_items_of_presets_stay_what_they_are(preset: str, items: str) -> None:
    config = load_config(preset, env={})
    task = load_task(config.task, config.seed, 2)
    parts = (task.splits, *task.later)
    assert (
        fingerprint(
            [[[i.id, i.messages, i.answer] for i in part.get(s, ())] for part in parts for s in SPLITS]
        )
        == items
    )


@pytest.mark.parametrize(("marked", "ids"), [(False, "04001762010a76e5"), (True, "e8dcabee87c339d6")])
def test_records_without_near_duplicates_are_dealt_as_ever(tmp_path: Path, marked: bool, ids: str) -> None:
    # Equal ones are none: the first that comes is taken.
    rows = [*_rows(40), *_rows(8)]
    sizes: dict[str, Any] = {"train": 0.3, "pareto": 0.2, "select": 0.1, "test": 0.3}
    if marked:
        rows = [{**row, "split": SPLITS[n % 5]} for n, row in enumerate(rows)]
        sizes = {"train": 6, "pareto": 6, "select": 3, "test": 6}
    task = _loaded(tmp_path / "a.jsonl", rows, 2, splits=sizes)
    assert fingerprint([[i.id for i in part[s]] for part in (task.splits, *task.later) for s in part]) == ids


def test_questions_that_differ_in_case_and_white_space_are_in_one_split(tmp_path: Path) -> None:
    rows = _rows(60)
    rows += [{**row, "question": f" q{n}\n"} for n, row in enumerate(rows[:30])]
    sizes = {"train": 20, "pareto": 12, "select": 8, "test": 20}
    for seed_of_file in range(3):
        task = _loaded(tmp_path / f"{seed_of_file}.jsonl", rows[seed_of_file:], 2, splits=sizes)
        owners: dict[str, set[tuple[int, str]]] = {}
        for number, part in enumerate([task.splits, *task.later]):
            for split, items in part.items():
                for item in items:
                    owners.setdefault(item.question.strip().casefold(), set()).add((number, split))
        assert all(len(found) == 1 for found in owners.values())
        # Both spellings are there; what a split's end cuts off nobody takes.
        train = task.splits["train"]
        assert len({item.question.strip().casefold() for item in train}) < len(train) == 20


def test_near_duplicates_join_groups(tmp_path: Path) -> None:
    # Customers 0 and 1 are joined by Q1 and q1, 1 and 2 by Q3 and q3, and so on to the last: one group of 13.
    rows = [{"question": f"Q{n}", "answer": "A", "who": n // 2} for n in range(12)]
    rows += [{"question": f"q{2 * n + 1}", "answer": "A", "who": n + 1} for n in range(5)]
    rows += [{"question": f"R{n}", "answer": "A", "who": 9} for n in range(4)]
    sizes = {"train": 1, "pareto": 1, "select": 1, "test": 1}
    with pytest.raises(TaskError, match=r"task\.splits\.pareto = 1: only 0 questions"):
        _loaded(tmp_path / "a.jsonl", rows, group="who", splits=sizes)
    whole = _loaded(tmp_path / "b.jsonl", rows[:12], group="who", splits=sizes)
    assert _counts(whole) == [1, 1, 0, 1, 1]


def test_marked_records_of_two_splits_that_ask_the_same(tmp_path: Path) -> None:
    rows = [{**row, "split": split} for split in ("train", "pareto", "select", "test") for row in _rows(4)]
    for n, row in enumerate(rows):
        row["question"] = f"{row['split']} {n}"
    rows[0]["question"] = "TEST  13 "  # of train
    rows[5]["question"] = rows[9]["question"]  # of pareto, to the byte as of select
    sizes = {"train": 3, "pareto": 3, "select": 4, "test": 4}
    task = _loaded(tmp_path / "a.jsonl", rows, splits=sizes)
    assert _counts(task) == [3, 3, 0, 4, 4]
    assert {item.id for item in task.splits["train"]} == {"jsonl:2", "jsonl:3", "jsonl:4"}
    (warning,) = [one for one in task.warnings() if "left out" in one]
    assert warning.endswith(
        "2 records are left out, as they ask what one of another split asks, case and white space aside: "
        "jsonl:1 of train, jsonl:14 of test; jsonl:6 of pareto, jsonl:10 of select"
    )


def test_marked_records_that_no_size_takes_are_said_with_what_takes_them(tmp_path: Path) -> None:
    counts = {"train": 4, "pareto": 4, "race": 7, "select": 9, "test": 20}
    names = [split for split, count in counts.items() for _ in range(count)]
    rows = [{**row, "split": name} for row, name in zip(_rows(len(names)), names, strict=True)]
    rows.append(rows[-1])  # repeats are not counted
    sizes = {"train": 4, "pareto": 4, "select": 3, "test": 10}
    said = [one.partition(": ")[2] for one in _loaded(tmp_path / "a.jsonl", rows, 2, splits=sizes).warnings()]
    assert said == [
        "7 records are left out of 7 that say they are of race, of which 0 are taken in each of 2 rounds; "
        "--set task.splits.race=3 takes as many as it can",
        "3 records are left out of 9 that say they are of select, of which 3 are taken in each of 2 rounds; "
        "--set task.splits.select=4 takes as many as it can",
        "10 records are left out of 20 that say they are of test, of which 10 are taken; "
        "--set task.splits.test=20 takes all",
    ]
    more = {**sizes, "race": 7, "select": 9, "test": 20}
    assert _loaded(tmp_path / "a.jsonl", rows, splits=more).warnings() == ()


def test_rounds_of_marked_records_share_no_group(tmp_path: Path) -> None:
    names = {"select": 18, "train": 6, "pareto": 6, "test": 6}
    marks = [split for split, count in names.items() for _ in range(count)]
    rows = [{**row, "split": mark} for row, mark in zip(_rows(36, group=3), marks, strict=True)]
    sizes = {"train": 6, "pareto": 6, "select": 4, "test": 6}
    task = _loaded(tmp_path / "a.jsonl", rows, 3, group="who", splits=sizes)
    owners = [{item.entry["who"] for item in part["select"]} for part in (task.splits, *task.later)]
    assert [len(own) for own in owners] == [2, 2, 2] and len(set.union(*owners)) == 6

"""Sizes that are shares, and groups that no two splits share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, TaskError
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

"""Datasets that `datasets` reads, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.hub import dataset_rows
from gepa_loop.task.items import load_task

datasets = pytest.importorskip("datasets")


def _saved(folder: Path) -> Path:
    labels = datasets.ClassLabel(names=["late", "broken"])
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": labels,
            "photo": datasets.Image(),
            "tags": datasets.List(datasets.Value("string")),
        }
    )

    def part(name: str, count: int) -> Any:
        rows = [
            {"text": f"{name} {n}", "label": -1 if n == 3 else n % 2, "photo": None, "tags": ["a"]}
            for n in range(count)
        ]
        return datasets.Dataset.from_list(rows, features=features)

    datasets.DatasetDict({"train": part("train", 8), "test": part("test", 4)}).save_to_disk(folder)
    return folder


def test_a_saved_dataset_with_labels_and_photos(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "tickets")
    rows = list(dataset_rows(str(folder), {}))
    assert rows[0] == (
        "hf:train:0",
        f"{folder}, train row 0",
        {"text": "train 0", "label": "late", "tags": ["a"]},
    )
    assert [id for id, _, _ in rows] == [f"hf:train:{n}" for n in range(8)] + [
        f"hf:test:{n}" for n in range(4)
    ]
    assert [id for id, _, _ in dataset_rows(str(folder), {"split": "test"})] == [
        f"hf:test:{n}" for n in range(4)
    ]
    # Labels that a dataset keeps to itself are -1 in it.
    assert [record["label"] for _, _, record in rows[1:5]] == ["broken", "late", None, "late"]  # type: ignore[index]
    with pytest.raises(TaskError, match=r"task\.options\.split = 'dev': .* has train, test"):
        list(dataset_rows(str(folder), {"split": "dev"}))


def test_a_folder_of_files(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("test", 3)):
        lines = [json.dumps({"body": f"{name} {n}", "queue": f"Q{n % 2}"}) + "\n" for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    fields = {"question": "body", "answer": "queue"}
    sizes = {"train": 4, "pareto": 2, "select": 2, "test": 4}
    config = TaskConfig(
        kind="hf", name=str(tmp_path), extract="whole", scorer="choice", fields=fields, splits=sizes
    )
    task = load_task(config, 0)
    assert task.distinct == 12 and task.commonest[0] in ("Q0", "Q1")
    one = task.splits["test"][0]
    assert one.question == one.entry["body"] and task.score(one, one.entry["queue"]).value == 1


def test_datasets_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task\.name = .*none"):
        list(dataset_rows(str(tmp_path / "none"), {}))
    with pytest.raises(TaskError, match=r"task\.options\.split = 3: not a text"):
        list(dataset_rows(str(tmp_path), {"split": 3}))
    (tmp_path / "a.jsonl").write_text('{"q": "Q"}\n')
    (tmp_path / "b.jsonl").write_text('{"q": [1, {"x": 2}], "other": 1}\n{torn')
    with pytest.raises(TaskError, match=r"task\.name = "):
        list(dataset_rows(str(tmp_path), {}))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(TaskError, match="dev"):
        list(dataset_rows(str(tmp_path), {"split": "dev"}))


def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_config(tmp_path: Path) -> None:
    code = (
        "from gepa_loop.task.hub import dataset_rows\nfrom gepa_loop.errors import EnvironmentFault\n"
        "try: list(dataset_rows('owner/tickets', {}))\nexcept EnvironmentFault as error: print(error, '|', error.hint)"
    )
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": "/usr/bin", "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert "task.name = 'owner/tickets': the dataset cannot be had" in done.stdout, (
        done.stdout + done.stderr[-2000:]
    )
    assert "Without a network" in done.stdout

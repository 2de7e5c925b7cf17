"""Datasets that `datasets` reads, without a network."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_hub import COMMIT, hub
from places import ROOT

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.start.reach import find_task, is_of_hub
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


def test_a_file_is_said_to_be_one_and_nobody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    file.write_text('{"question": "Q", "answer": "A"}\n')
    config = TaskConfig(kind="hf", name=str(file))
    said = r"tickets\.jsonl': that is a file"
    with pytest.raises(TaskError, match=said) as caught:
        list(dataset_rows(str(file), {}))
    assert "task.kind = jsonl, json, csv or parquet, or name its folder" in caught.value.hint
    assert not is_of_hub(config)

    def ask(name: str) -> None:
        raise AssertionError(f"{name} was asked for")

    with pytest.raises(TaskError, match=said):
        find_task(config, ask)


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


def asked_of(url: str, home: Path, code: str, **env: str) -> str:
    """What a process prints that takes this address for the hub; the library reads it when it is imported."""
    before = "from gepa_loop.task.hub import dataset_rows\nfrom gepa_loop.errors import GepaLoopError\n"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "*", "PYTHONPATH": str(ROOT), **env}
    argv = [sys.executable, "-c", before + code]
    done = subprocess.run(argv, capture_output=True, text=True, env={**kept, **own}, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


ROWS = "for row in dataset_rows('owner/tickets', OPTIONS): print(row)"
FAULT = "try: list(dataset_rows('owner/tickets', OPTIONS))\nexcept GepaLoopError as e: print(type(e).__name__, e, e.hint)"


def lines(name: str, count: int) -> bytes:
    return "".join(json.dumps({"body": f"{name} {n}", "queue": n % 2}) + "\n" for n in range(count)).encode()


def test_a_dataset_of_the_hub(tmp_path: Path) -> None:
    with hub({"train.jsonl": lines("train", 3), "test.jsonl": lines("test", 2)}) as (url, _):
        said = asked_of(url, tmp_path, ROWS.replace("OPTIONS", "{}")).splitlines()
        assert len(said) == 5
        row = "('hf:train:1', 'owner/tickets, train row 1', {'body': 'train 1', 'queue': 1})"
        assert said[1] == row and said[4].startswith("('hf:test:1', 'owner/tickets, test row 1'")
        one = asked_of(url, tmp_path, ROWS.replace("OPTIONS", "{'split': 'test[:1]'}")).splitlines()
        assert one == ["('hf:test[:1]:0', 'owner/tickets, test[:1] row 0', {'body': 'test 0', 'queue': 0})"]
        found = asked_of(url, tmp_path, FAULT.replace("OPTIONS", "{'split': 'dev'}"))
        assert found.startswith("TaskError task.name = 'owner/tickets'") and "dev" in found
    # What was read once can be had without a network, from the library's own cache.
    again = asked_of(url, tmp_path, ROWS.replace("OPTIONS", "{}")).splitlines()
    assert again == said


def test_a_revision_and_parquet(tmp_path: Path) -> None:
    file = io.BytesIO()
    labels = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    datasets.Dataset.from_list([{"text": "t", "label": 1}], features=labels).to_parquet(file)
    with hub({"data/train-00000-of-00001.parquet": file.getvalue()}) as (url, asked):
        said = asked_of(url, tmp_path, ROWS.replace("OPTIONS", f"{{'revision': '{COMMIT}'}}"))
        assert said == "('hf:train:0', 'owner/tickets, train row 0', {'text': 't', 'label': 'b'})\n"
        assert not any("resolve/main" in one for one in asked)


def test_configurations_of_a_dataset(tmp_path: Path) -> None:
    card = b"---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n- config_name: de\n  data_files: de.jsonl\n---\n"
    with hub({"README.md": card, "en.jsonl": lines("en", 1), "de.jsonl": lines("de", 1)}) as (url, _):
        said = asked_of(url, tmp_path, ROWS.replace("OPTIONS", "{'config': 'de'}"))
        assert "'body': 'de 0'" in said
        found = asked_of(url, tmp_path, FAULT.replace("OPTIONS", "{}"))
        assert found.startswith("TaskError task.name = 'owner/tickets': Config name is missing")
        assert "['en', 'de']" in found and "task.options.config" in found


def test_a_private_dataset_needs_its_key(tmp_path: Path) -> None:
    with hub({"train.jsonl": lines("train", 1)}, token="hf_sesame") as (url, _):
        found = asked_of(url, tmp_path, FAULT.replace("OPTIONS", "{}"))
        assert found.startswith("TaskError task.name = 'owner/tickets': ") and "HF_TOKEN" in found
        said = asked_of(url, tmp_path, ROWS.replace("OPTIONS", "{}"), HF_TOKEN="hf_sesame")
        assert "'body': 'train 0'" in said


def test_whether_it_is_there_is_asked_of_the_hub_alone(tmp_path: Path) -> None:
    code = (
        "from gepa_loop.start.reach import find_task\nfrom gepa_loop.config.tables import TaskConfig\n"
        "for name in ('owner/tickets', 'owner/none'):\n"
        "    try: print(find_task(TaskConfig(kind='hf', name=name)))\n"
        "    except GepaLoopError as error: print(type(error).__name__, error)"
    )
    with hub({"train.jsonl": lines("train", 1)}) as (url, asked):
        there, none = asked_of(url, tmp_path, code).splitlines()
        assert there == "['owner/tickets: it is there']"
        assert none.startswith("TaskError task.name = 'owner/none': neither a folder nor a dataset")
        assert not any(one.startswith("GET") and "train.jsonl" in one for one in asked)


def test_a_run_on_a_dataset_of_the_hub(tmp_path: Path) -> None:
    sets = [
        "task.kind=hf",
        "task.name=owner/tickets",
        "task.fields={question='body', answer='queue'}",
        "task.splits={train=0.4, pareto=0.2, select=0.2, test=0.2}",
    ]
    (tmp_path / "p.txt").write_text("Name the queue.")
    argv = ["distill", "--config", "smoke", "--prompt", "p.txt", "--run-name", "r"]
    argv += [word for one in sets for word in ("--set", one)]
    code = f"import os\nos.chdir({str(tmp_path)!r})\nfrom gepa_loop.cli import run\nprint(run({argv!r}))"
    with hub({"train.jsonl": lines("ticket", 40)}) as (url, _):
        said = asked_of(url, tmp_path, code)
    assert said.endswith("0\n") and "task owner/tickets: train 16, pareto 8, race 0, select 8, test 8" in said

"""The trackers that come with gepa-loop, against their own libraries, which write into a folder; those that are not installed are left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from gepa_loop.tracking.base import NOTHING, Opening, Point
from gepa_loop.tracking.choose import tracker_of

CONFIG = {"seed": 3.0, "model.name": "random:tiny"}
STUDENT = "low=1 seed0/aa11"
Found = dict[str, list[tuple[int, float]]]
"""Name of a number -> (step, value) as they were kept."""


def _steps(first: int, last: int) -> list[Point]:
    return [Point(STUDENT, n, {"loss": n / 8, "halved": "why", "step": n}) for n in range(first, last + 1)]


def _opening(folder: Path, id: str | None = None) -> Opening:
    return Opening(folder, "a project", "my run", CONFIG, id)


def _of_tensorboard(folder: Path, _: str) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = EventAccumulator(str(folder / "tensorboard"))
    kept.Reload()
    assert "config/text_summary" in kept.Tags()["tensors"]
    assert f"{STUDENT}/halved/text_summary" in kept.Tags()["tensors"]
    return {tag: [(one.step, one.value) for one in kept.Scalars(tag)] for tag in kept.Tags()["scalars"]}


def _of_wandb(folder: Path, id: str) -> Found:
    from wandb_file import rows

    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {file.stem for file in files} == {f"run-{id}"}
    assert {"seed", "model.name"} <= {key for row in rows(folder / "wandb", "run") for key in row}
    history = [row for row in rows(folder / "wandb") if f"{STUDENT}/step" in row]
    # Its number in the tracked run, over all processes.
    assert [row["_step"] for row in history] == [0, 1, 2, 3]
    assert all(row[f"{STUDENT}/halved"] == "why" for row in history)
    found: Found = {}
    for row in history:
        for key in (f"{STUDENT}/loss", f"{STUDENT}/step"):
            found.setdefault(key, []).append((row[f"{STUDENT}/step"], row[key]))
    last = [row for row in rows(folder / "wandb", "summary") if "result/test/mean" in row]
    found["result/test/mean"] = [(0, last[-1]["result/test/mean"])]
    return found


def _of_mlflow(_: Path, id: str) -> Found:
    from mlflow import MlflowClient

    client = MlflowClient()
    kept = client.get_run(id)
    assert kept.info.status == "FINISHED" and kept.info.run_name == "my run"
    assert kept.data.params == {"seed": "3.0", "model.name": "random:tiny"}
    assert client.get_experiment_by_name("a project").experiment_id == kept.info.experiment_id
    # "=" is no character of its names.
    student = STUDENT.replace("=", "_")
    assert kept.data.tags[f"{student}/halved"] == "why"
    assert [file.path for file in client.list_artifacts(id)] == ["report.html"]
    return {
        key.replace(student, STUDENT): [(m.step, m.value) for m in client.get_metric_history(id, key)]
        for key in kept.data.metrics
    }


def _of_trackio(_: Path, id: str) -> Found:
    from trackio.sqlite_storage import SQLiteStorage

    found: Found = {}
    for row in SQLiteStorage.get_logs("a project", id):
        for key in row:
            if key.startswith(STUDENT) and not key.endswith("halved"):
                found.setdefault(key, []).append((row[f"{STUDENT}/step"], row[key]))
            if key.startswith("result/"):
                found.setdefault(key, []).append((0, row[key]))
    assert id.startswith("my run-")
    return found


READERS: dict[str, Callable[[Path, str], Found]] = {
    "tensorboard": _of_tensorboard,
    "wandb": _of_wandb,
    "mlflow": _of_mlflow,
    "trackio": _of_trackio,
}


@pytest.mark.parametrize("kind", READERS)
def test_a_tracked_run_is_begun_and_gone_on_with(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(kind)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    open_: Any = tracker_of(kind)
    first = open_(_opening(tmp_path))
    assert first.held(STUDENT) in (NOTHING, None)
    first.log(_steps(1, 2), 0)
    first.close("stopped")
    second = open_(_opening(tmp_path, first.id))
    assert second.id == first.id
    assert second.held(STUDENT) == 2
    assert second.held("another") == NOTHING
    second.log(_steps(3, 4), 2)
    second.summary({"test/mean": 0.5, "reason": "because"})
    second.artifact("report.html", "<p>done</p>")
    second.close("done")
    kept = READERS[kind](tmp_path, first.id)
    assert kept[f"{STUDENT}/loss"] == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert [step for step, _ in kept[f"{STUDENT}/step"]] == [1, 2, 3, 4]
    assert [value for _, value in kept["result/test/mean"]] == [0.5]
    assert capsys.readouterr().out == "", "standard output is the command's own"


TOLD = """
import sys
from pathlib import Path
from gepa_loop.tracking.base import Opening, Point
from gepa_loop.tracking.to_wandb import Wandb
tracker = Wandb(Opening(Path(sys.argv[1]), "p", "n", {}, None))
print("something with sk-printed")
tracker.log([Point("a", 1, {"loss": 1.0, "step": 1})], 0)
tracker.close("done")
"""


def test_weights_and_biases_is_told_neither_the_command_nor_the_output(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb_file import written

    argv = [sys.executable, "-c", TOLD, str(tmp_path), "--set", "task.options.api_key=sk-in-a-flag"]
    env = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, check=True, env=env, cwd=tmp_path, timeout=120)
    (sent,) = written(tmp_path / "wandb")
    assert b"a/loss" in sent
    for told in (b"sk-in-a-flag", b"sk-printed", str(tmp_path).encode()):
        assert told not in sent
    assert not list(tmp_path.glob("wandb/offline-run-*/files/*"))


def test_tensorboards_folder_that_was_deleted_is_filled_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = tracker_of("tensorboard")(_opening(tmp_path, "tensorboard"))
    assert tracker.held(STUDENT) == NOTHING
    tracker.close("done")

"""W&B offline: what a killed process had kept in memory is sent again, and nothing twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from observers import Watch
from places import ROOT

from gepa_loop.config.track import TrackConfig
from gepa_loop.run.files import append_jsonl, read_json, write_json, write_jsonl
from gepa_loop.tracking.follow import followed
from gepa_loop.tracking.wandb_file import steps_in

pytest.importorskip("wandb")

STUDENT = "1a2b3c4d"
SETTINGS = TrackConfig(kind="wandb")
KILLED = """
import sys
from pathlib import Path
from gepa_loop.config.track import TrackConfig
from gepa_loop.tracking.outbox import open_outbox
open_outbox(TrackConfig(kind="wandb"), {}, Path(sys.argv[1])).send()
print("sent", flush=True)
sys.stdin.read()
"""


def _rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"step": n, "loss": n / 8, "halved": False} for n in range(first, last + 1)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (folder := tmp_path / "r").mkdir()
    return folder


def _killed(run: Path) -> None:
    """A process that has sent all there is, and is killed before W&B has written it."""
    argv = [sys.executable, "-c", KILLED, str(run)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "sent\n"
        process.send_signal(signal.SIGKILL)


def _history(run: Path) -> list[dict[str, Any]]:
    from wandb_file import rows

    return [row for row in rows(run / "wandb") if f"{STUDENT}/step" in row]


def test_steps_that_a_killed_process_had_not_written_come_again(run: Path) -> None:
    metrics = run / "distill" / STUDENT / "metrics.jsonl"
    write_jsonl(metrics, _rows(1, 40))
    _killed(run)
    record = run / "track" / "wandb.json"
    assert read_json(record, dict[str, Any])["sent"][STUDENT] == 40
    assert len(_history(run)) < 40, "W&B has written all: the test shows nothing"
    append_jsonl(metrics, _rows(41, 42))
    # The second process was on its way with step 41, and was killed as well.
    kept = read_json(record, dict[str, Any])
    write_json(record, {**kept, "pending": [{"series": STUDENT, "step": 41}]})
    with followed(SETTINGS, {}, run, watching := Watch()):
        pass
    found = _history(run)
    assert [row[f"{STUDENT}/step"] for row in found] == list(range(1, 43))
    numbers = [row["_step"] for row in found]
    assert numbers == sorted(set(numbers))
    # All folders of the tracked run, the first one first.
    (told,) = (note for note in watching.notes if note.startswith("tracked: "))
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and told == f"tracked: wandb sync {' '.join(map(str, folders))}"


def test_what_was_written_is_read_to_where_a_kill_has_cut_it(run: Path) -> None:
    write_jsonl(run / "distill" / STUDENT / "metrics.jsonl", _rows(1, 900))
    with followed(SETTINGS, {}, run, Watch()):
        pass
    assert len(_history(run)) == 900
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert steps_in([file]) == {f"{STUDENT}/step": 900}
    whole = file.read_bytes()
    assert len(whole) > 2 * 32_768, "its records go over no edge of a block"
    file.write_bytes(whole[: len(whole) // 2])
    cut = steps_in([file])
    assert cut is not None and 300 < cut[f"{STUDENT}/step"] < 600
    # The numbers begin with 0 in the first process's file alone.
    assert steps_in([]) is None


def test_nothing_comes_again_where_the_first_folder_was_synced_and_deleted(run: Path) -> None:
    from wandb_file import rows

    metrics = run / "distill" / STUDENT / "metrics.jsonl"

    def tracked(last: int) -> None:
        write_jsonl(metrics, _rows(1, last))
        with followed(SETTINGS, {}, run, Watch()):
            pass

    append_jsonl(run / "events.jsonl", [{"event": "start"}])
    tracked(2)
    (first,) = run.glob("wandb/offline-run-*")
    tracked(4)
    assert len(_history(run)) == 4
    shutil.rmtree(first)
    tracked(5)
    # Folders that are begun within a second have no order.
    assert sorted(row[f"{STUDENT}/step"] for row in _history(run)) == [3, 4, 5]
    assert not [row for row in rows(run / "wandb") if "events/step" in row]

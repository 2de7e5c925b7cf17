"""Folders of students that are trained elsewhere: whatever part of the news is written, training goes on from what is there."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gepa_loop.errors import EnvironmentFault
from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter
from gepa_loop.model.origin import Origin
from gepa_loop.run.files import append_jsonl, write_json
from gepa_loop.training.checkpoint import Checkpoint, at_one_step, load_checkpoint, save_checkpoint, thin_out
from gepa_loop.training.checks import Check
from gepa_loop.workers.mirror import (
    COPIES,
    Files,
    Mirror,
    actions,
    contents,
    lay_out,
    scratch,
    sweep_copies,
    take_over,
)

ORIGIN = Origin("model", "weights")


def at(step: int, value: float) -> Checkpoint:
    tensors = {
        f"{PREFIX}m{LORA_A}": torch.full((1, 2), value),
        f"{PREFIX}m{LORA_B}": torch.full((2, 1), value),
    }
    checks = tuple(Check(n, {"item": 0.5}) for n in range(0, step + 1, 2))
    moments = {"0.exp_avg": torch.full((4,), value)}
    return Checkpoint(
        step, Adapter(1, 1.0, ("m",), tensors), moments, checks, {"metrics.jsonl": step, "samples.jsonl": 0}
    )


def saved(folders: Sequence[Path], step: int, value: float = 1.0) -> None:
    """As training saves students that share their steps: all, and then what earlier checkpoints need no more goes."""
    for folder in folders:
        append_jsonl(folder / "metrics.jsonl", [{"step": n} for n in (step - 1, step)])
        save_checkpoint(folder / "checkpoints", at(step, value), ORIGIN)
    for folder in folders:
        thin_out(folder / "checkpoints", step)


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Two students of step 2, in a worker's folders."""
    folders = [tmp_path / "there" / name for name in "ab"]
    saved(folders, 2)
    return folders


def homes(copies: Sequence[Path], tmp_path: Path, name: str) -> list[Path]:
    """The run's folders, which hold the same."""
    found = [tmp_path / name / folder.name for folder in copies]
    for home, folder in zip(found, copies, strict=True):
        lay_out(home, contents(folder))
    return found


def test_a_folder_is_what_its_copy_is_once_the_news_were_taken_over(
    copies: list[Path], tmp_path: Path
) -> None:
    here, mirrors = homes(copies, tmp_path, "here"), [Mirror.of(folder) for folder in copies]
    assert [mirror.news() for mirror in mirrors] == [{}, {}]
    saved(copies, 4, 2.0)
    take_over([(home, mirror.news()) for home, mirror in zip(here, mirrors, strict=True)])
    assert [contents(home) for home in here] == [contents(folder) for folder in copies]
    # A distillation that has ended: its record, its adapter, and no checkpoints.
    for folder in copies:
        shutil.rmtree(folder / "checkpoints")
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_bytes(b"w")
        write_json(folder / "result.json", {"done": True})
    take_over([(home, mirror.news()) for home, mirror in zip(here, mirrors, strict=True)])
    assert [contents(home) for home in here] == [contents(folder) for folder in copies]
    assert not (here[0] / "checkpoints").exists(), "no empty folders stay"


def cut_off(copies: list[Path], tmp_path: Path, news: Sequence[Files]) -> list[list[Path]]:
    """What is there after each number of actions, as a kill leaves it."""
    whole = homes(copies, tmp_path, "whole")
    count = len(list(actions(list(zip(whole, news, strict=True)))))
    found = []
    for done in range(count + 1):
        here = homes(copies, tmp_path, f"cut{done}")
        for _, action in zip(range(done), actions(list(zip(here, news, strict=True))), strict=False):
            action()
        found.append(here)
    assert count > 10
    return found


def test_wherever_it_is_cut_off_all_go_on_from_one_step(copies: list[Path], tmp_path: Path) -> None:
    before = tmp_path / "before"
    kept = homes(copies, tmp_path, before.name)
    mirrors = [Mirror.of(folder) for folder in copies]
    saved(copies, 4, 2.0)
    steps = []
    for here in cut_off(kept, tmp_path, [mirror.news() for mirror in mirrors]):
        folders = [home / "checkpoints" for home in here]
        first = [load_checkpoint(folder) for folder in folders]
        at_one_step(folders, min(one.step for one in first if one is not None))
        found = [load_checkpoint(folder) for folder in folders]
        [step] = {one.step for one in found if one is not None}
        assert all(
            one is not None and one.adapter.fingerprint == at(step, step / 2).adapter.fingerprint
            for one in found
        )
        steps.append(step)
    assert steps[0] == 2 and steps[-1] == 4 and sorted(steps) == steps


def test_wherever_a_step_is_written_over_there_is_no_mixture_of_two(
    copies: list[Path], tmp_path: Path
) -> None:
    saved(copies, 4, 2.0)
    kept = homes(copies, tmp_path, "before")
    mirrors = [Mirror.of(folder) for folder in copies]
    for folder in copies:  # a worker that was lost had got there by other sums
        shutil.rmtree(folder / "checkpoints" / "step_000004")
        save_checkpoint(folder / "checkpoints", at(4, 3.0), ORIGIN)
    own = {at(4, value).adapter.fingerprint for value in (2.0, 3.0)}
    for here in cut_off(kept, tmp_path, [mirror.news() for mirror in mirrors]):
        for home in here:
            if (home / "checkpoints" / "step_000004" / "state.json").exists():
                found = load_checkpoint(home / "checkpoints")
                assert found is not None and found.step == 4 and found.adapter.fingerprint in own


def test_a_stretch_that_was_taken_back_changes_a_record_alone(copies: list[Path], tmp_path: Path) -> None:
    here, mirrors = homes(copies, tmp_path, "here"), [Mirror.of(folder) for folder in copies]
    save_checkpoint(copies[0] / "checkpoints", replace(at(2, 1.0), halved="it was worse"), ORIGIN)
    news = [mirror.news() for mirror in mirrors]
    assert list(news[0]) == ["checkpoints/step_000002/state.json"] and news[1] == {}
    take_over(list(zip(here, news, strict=True)))
    found = load_checkpoint(here[0] / "checkpoints")
    assert found is not None and found.halved == "it was worse"


def test_copies_of_ended_processes_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(["true"])
    process.wait()
    left = tmp_path / f"{COPIES}{process.pid}-x"
    left.mkdir()
    (left / "file").touch()
    with scratch() as own:
        of_another_machine = tmp_path / f"gepa-loop-worker-{platform.node()}-2_{process.pid}-x"
        of_another_machine.mkdir()
        sweep_copies()
        assert own.exists() and not left.exists() and of_another_machine.exists()
    assert not own.exists()


def test_a_disk_without_room_for_copies_is_the_environments_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentFault, match=f"cannot write {tmp_path}/copy: "):
        lay_out(tmp_path / "copy", {"a": b"", "a/b": b""})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFault, match="nowhere: No such file"), scratch():
        pass

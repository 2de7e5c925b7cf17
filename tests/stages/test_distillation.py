"""What a distillation tells of its steps."""

import math
import zlib
from collections import Counter
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from observers import Killed, Watch

from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import read_jsonl
from gepa_loop.stages.distillation import Below, distill_candidate
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import Reading, each
from gepa_loop.training.collect import items_of_step

REWARD = ("objective.adv_tau=1", "objective.teacher_tau=0", "distill.rollouts=8", "distill.group=4")
"""Two items a step, whose reward alone is trained."""


@pytest.fixture(scope="module")
def plain() -> Lab:
    sets = (*REWARD, "distill.steps=6", "distill.check_every=3")
    return open_lab(load_config("smoke", sets, env={})).for_training()


def scored(lab: Lab, broken: Set[int], equal: Set[int] = frozenset(), times: float = math.inf) -> Lab:
    """The lab whose rewards of the second item are no numbers in the steps `broken`, the first `times` times, and all equal in
    the steps `equal`."""
    ids = [item.id for item in items_of_step(lab.task.splits["train"], 0, 12, lab.rollouts.seed)]
    seen = Counter[str]()

    def score(one: Reading) -> tuple[float, str]:
        seen[one.item.id] += 1
        place = ids.index(one.item.id) if one.item.id in ids else -2
        step = place // 2 + 1
        if step in broken and place % 2 and seen[one.item.id] <= 4 * times:
            return math.nan, ""
        return 0.5 if step in equal else zlib.crc32(one.reply.encode()) / 2**32, ""

    task = replace(lab.task, scorer=each(score), full_marks=False)
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


class KilledAfter(Watch):
    """Kills when a step has been taken."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def progress(self, done: int, total: int, **facts: Any) -> None:
        super().progress(done, total, **facts)
        if facts and done == self.step:
            raise Killed


def told(lab: Lab, folder: Path, watch: Watch | None = None) -> list[str]:
    """The notes, and `[stage]` where one begins."""
    watch, before = watch or Watch(), dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    distill_candidate(lab, Candidate("Answer."), folder, watch, Below(None, before))
    return [text if kind == "note" else f"[{text}]" for kind, text, *_ in watch.said if kind != "progress"]


def of_steps(notes: list[str]) -> list[str]:
    return [note for note in notes if " of 6 steps " in note]


def test_steps_that_move_nothing_are_counted_over_all_processes(plain: Lab, tmp_path: Path) -> None:
    lab = scored(plain, {2, 4}, {1, 3, 5})
    notes = of_steps(told(lab, tmp_path / "whole"))
    assert notes == [
        "3 of 6 steps had no gradient: no trained token had an advantage or a divergence",
        "2 of 6 steps were left out: their loss or gradient was not finite",
    ]
    with pytest.raises(Killed):
        told(lab, tmp_path / "killed", KilledAfter(4))
    again = told(lab, tmp_path / "killed")
    assert "continuing after step 3" in again and of_steps(again) == notes
    finished = told(lab, tmp_path / "killed")
    assert "finished earlier" in finished and of_steps(finished) == notes
    assert of_steps(told(scored(plain, set()), tmp_path / "fine")) == []


def test_what_comes_after_the_last_step_is_a_stage_of_its_own(plain: Lab, tmp_path: Path) -> None:
    notes = told(plain, tmp_path)
    kept = next(place for place, note in enumerate(notes) if "kept step" in note)
    assert notes[kept - 1] == "[distilled]"  # not behind a bar that is full


def test_steps_that_were_taken_back_are_not_counted(plain: Lab, tmp_path: Path) -> None:
    notes = told(scored(plain, {1, 2, 3}, times=1), tmp_path)
    assert any(note.endswith("back at step 0, with half of distill.lr from here on") for note in notes)
    assert not any(row["skipped"] for row in read_jsonl(tmp_path / "metrics.jsonl"))
    assert of_steps(notes) == []

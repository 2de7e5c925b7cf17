"""A search as the commands run it."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import open_lab, seed_prompt
from gepa_loop.stages.search import search
from gepa_loop.task.scorers import each

SETS = ("optimize.reflection.model=offline", "optimize.accept=gepa", "optimize.max_rollouts=80")


class Watch:
    """Keeps the names of the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        self.stages.append(name)

    def progress(self, done: int, total: int, **facts: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def test_another_process_reads_the_front_that_the_first_returned(tmp_path: Path) -> None:
    lab = open_lab(load_config("smoke", SETS, env={}))
    task = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    prompt, folder = seed_prompt(lab.config.optimize), tmp_path / "round_00" / "optimize"
    first, later = Watch(), Watch()
    front = search(lab, prompt, folder, first, number=0, stack=None)
    assert len(front.rows) > 1 and first.stages[:2] == ["optimize", "front"]
    assert search(lab, prompt, folder, later, number=0, stack=None) == front
    assert later.stages == []
    (folder / "front.jsonl").write_text((folder / "front.jsonl").read_text().replace("0.5", "0.6", 1))
    with pytest.raises(RunDirectoryError, match=r"front\.jsonl"):
        search(lab, prompt, folder, later, number=0, stack=None)

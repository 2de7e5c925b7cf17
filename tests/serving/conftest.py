"""A finished distillation of a tiny model, which nothing may change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gepa_loop.cli import run

PROMPT = "Answer with one number.\n"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished `distill` named `d`."""
    cwd = tmp_path_factory.mktemp("distilled")
    (cwd / "p.txt").write_text(PROMPT)
    before = Path.cwd()
    os.chdir(cwd)
    try:
        sets = [
            "distill.steps=4",
            "distill.check_every=2",
            "lora.rank=3",
            "distill.lr=0.05",
            "task.splits.test=8",
        ]
        flags = [word for one in sets for word in ("--set", one)]
        assert run(["distill", "--config", "smoke", "--prompt", "p.txt", "--run-name", "d", *flags]) == 0
    finally:
        os.chdir(before)
    return cwd

"""A finished distillation that a Python program has made, which nothing may change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gepa_loop

SMALL = {"distill__steps": 2, "task__splits__test": 8}


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> gepa_loop.Run:
    """The run `d` of a folder of its own."""
    cwd, before = tmp_path_factory.mktemp("called"), Path.cwd()
    os.chdir(cwd)
    try:
        return gepa_loop.distill("smoke", prompt="Answer with one number.", run_name="d", quiet=True, **SMALL)
    finally:
        os.chdir(before)

"""Finished runs of a tiny model, which nothing may change, and a browser for their pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import ladder
import pytest
from browser import chromium
from places import HELPERS

from gepa_loop.cli import run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/d`, a distillation with eight labels, and `runs/l`, a loop of two rounds with a race and two winners."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "p.txt").write_text("Answer with letters.\nMany of them.\n")
    sets = [word for one in (*ladder.SETS, "distill.steps=4") for word in ("--set", one)]
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.syspath_prepend(str(HELPERS))
        assert run(["distill", "--config", "smoke", "--prompt", "p.txt", "--run-name", "d", *sets]) == 0
        assert run([*ladder.COMMAND, "--run-name", "l", "--rounds", "2"]) == 0
    return folder / "runs"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found

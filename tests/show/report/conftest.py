"""Finished runs whose pages say something else than the two of `made`, which nothing may change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import ladder
import pytest
from places import HELPERS

from gepa_loop.cli import run

SHORT = "distill.steps=4"


def words(*sets: str) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, and beside each what the terminal said of it.

    `sampled` decides by sampled replies; `unanswered` has a task without answers; of `excluded`, a loop, no student was tested; `single`
    has one item of test; `reward` read no prompt.
    """
    folder = tmp_path_factory.mktemp("odd")
    (folder / "p.txt").write_text("Answer with letters.\nMany of them.\n")
    rows = [json.dumps({"question": f"Ticket {n} says"}) for n in range(60)]
    (folder / "t.jsonl").write_text("\n".join(rows))
    distill = ["distill", "--config", "smoke", "--prompt", "p.txt"]
    free = ["task.kind=jsonl", "task.name=t.jsonl", "task.splits={train=16, pareto=8, select=8, test=8}"]
    alone = [one for one in ladder.SETS if not one.startswith("objective.teacher_tau")]
    commands: dict[str, Sequence[str]] = {
        "sampled": [*distill, *words(*ladder.SETS, SHORT, "evaluate.temperature=1")],
        "unanswered": [*distill, *words(*free, SHORT)],
        "excluded": [*ladder.COMMAND, *words("distill.steps=2", "loop.max_forgetting=1e-4")],
        "single": [*distill, *words(*ladder.SETS, SHORT, "task.splits.test=1")],
        # After 10 steps its gain depends on the processor; after 20 it was .63 and more for five seeds.
        "reward": [*distill, *words(*alone, "objective.type=grpo", "distill.steps=20")],
    }
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.syspath_prepend(str(HELPERS))
        patch.setenv("COLUMNS", "200")
        for name, command in commands.items():
            said = StringIO()
            with redirect_stdout(said):
                assert run([*command, "--run-name", name]) == 0
            (folder / f"{name}.txt").write_text(said.getvalue())
    return folder / "runs"

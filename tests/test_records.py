"""What runs write is what the records say, key by key."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import ladder
import pytest
from observers import Silent
from places import HELPERS
from pydantic import ValidationError
from recorded import check_row, recorded
from runs_readme import FILES

from gepa_loop.cli import run
from gepa_loop.config.load import load_config
from gepa_loop.lab import open_lab
from gepa_loop.run.directory import open_run
from gepa_loop.stages.distillation import distill_alone
from gepa_loop.task.prompts import Candidate

ELSEWHERE = {
    "questions/written.jsonl",
    "questions/calls.jsonl",
    "questions/result.json",
    "judge.jsonl",
    "judge.json",
    ".jobs/NAME/job.json",
}
"""Checked where their writers are faked."""

GRID = """
config = "smoke"
baseline = "low"

[cells]
low = ["distill.steps=1"]
high = ["distill.steps=1", "distill.lr=1e-2"]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of every command: two rounds with a winner, a warm start, a control task."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "p.txt").write_text("Answer with one number.")
    (folder / "grid.toml").write_text(GRID)
    control = 'distill.control={name="gcd", splits={train=1, pareto=2, select=1, test=1}}'
    more = ("distill.warm_start=0.1", "distill.steps=4", "distill.pass_at=2", control)
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.syspath_prepend(str(HELPERS))
        assert run([*ladder.COMMAND, "--rounds", "2"]) == 0
        prompt = ("--config", "smoke", "--prompt", "p.txt")
        assert (
            run(
                [
                    "distill",
                    "--track",
                    "tensorboard",
                    *prompt,
                    *(word for one in more for word in ("--set", one)),
                ]
            )
            == 0
        )
        assert run(["evaluate", *prompt, "--against", ":", "--split", "test"]) == 0
        assert run(["optimize", "--config", "smoke"]) == 0
        assert run(["sweep", "--preset", "grid.toml", "--prompt", "p.txt"]) == 0
        yield folder / "runs"


def test_every_file_is_as_its_record_says(runs: Path) -> None:
    seen = recorded(runs)
    assert seen == {file.title for file in FILES} - ELSEWHERE - {"checkpoints/step_N/state.json"}


class Stops(Silent):
    """Stops a distillation after its second step."""

    def progress(self, done: int, total: int, **facts: Any) -> None:
        if "kl" in facts and done == 2:
            raise KeyboardInterrupt


def test_a_checkpoint_is_as_its_record_says(tmp_path: Path) -> None:
    lab = open_lab(load_config("smoke", ("distill.average=0.5",), env={})).for_training()
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "r", lab.identity()) as opened:
        distill_alone(lab, Candidate("Answer with one number."), opened, Stops())
    assert "checkpoints/step_N/state.json" in recorded(tmp_path)


def test_a_key_too_many_or_too_few_or_of_another_type_is_found() -> None:
    looks = next(file for file in FILES if file.title == "looks.json")
    row = {"look": "distill", "items": 4, "seen": 0, "looks": 0, "scorings": 0, "unknown": None}
    check_row(looks, row)
    for wrong in ({**row, "more": 1}, {**row, "items": "4"}, {k: v for k, v in row.items() if k != "look"}):
        with pytest.raises(ValidationError):
            check_row(looks, wrong)

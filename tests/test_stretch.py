"""Going back to a checkpoint with half of the learning rate, on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config import Config, load_config
from gepa_loop.distill.trainer import Distilled, distill
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab, open_lab
from gepa_loop.prompts import Candidate
from gepa_loop.runs import read_json, read_jsonl

STEPS = ("distill.steps=4", "distill.check_every=2")
FALL = "the held-out score was 1.000 at step 0 and is 0.000 at step 2"


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


def train(lab: Lab, folder: Path, *sets: str, before: float, progress: Any = None) -> Distilled:
    """A random model scores 0 at every check, so `before` says whether that is a fall."""
    return distill(
        lab.under(smoke(*STEPS, *sets)),
        Candidate("Answer with one number."),
        folder,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), before),
        progress=progress or (lambda row: None),
    )


@pytest.mark.parametrize("sets", [(), ("distill.warm_start=0.1",), ("teacher.kind=ema",)], ids=" ".join)
def test_after_a_fall_it_is_as_if_it_had_begun_with_half_of_the_rate(
    lab: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    shown: list[dict[str, Any]] = []
    train(lab, tmp_path / "fallen", "distill.lr=0.02", *sets, before=1.0, progress=shown.append)
    train(lab, tmp_path / "half", "distill.lr=0.01", *sets, before=0.0)
    rows, half = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("fallen", "half"))
    assert [row["loss"] for row in rows] == [row["loss"] for row in half]
    assert [row["lr"] for row in rows] == [0.01] * 4 and {row["halved"] for row in rows} == {FALL}
    samples = (read_jsonl(tmp_path / name / "samples.jsonl") for name in ("fallen", "half"))
    assert next(samples) == next(samples)
    # What was taken back was shown while it went on; the step that spoilt it was not.
    assert [(row["step"], row["lr"]) for row in shown] == [(1, 0.02), *((n, 0.01) for n in (1, 2, 3, 4))]


def test_a_second_fall_is_not_taken_back(lab: Lab, tmp_path: Path) -> None:
    """The score is 0 at all checks, below the 1 of step 0."""
    done = train(lab, tmp_path, "distill.lr=0.02", "distill.steps=8", before=1.0)
    assert done.last_step == 8 and done.kept.step == 0
    assert [row["lr"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0.01] * 8


def test_a_run_that_is_killed_after_it_went_back_goes_on_with_half_of_the_rate(
    lab: Lab, tmp_path: Path
) -> None:
    whole = train(lab, tmp_path / "whole", "distill.lr=0.02", before=1.0)

    class Killed(Exception):
        pass

    def watch(row: dict[str, Any]) -> None:
        if row["halved"] and row["step"] == at:
            raise Killed

    for at in (1, 2, 3):
        with pytest.raises(Killed):
            train(lab, tmp_path / str(at), "distill.lr=0.02", before=1.0, progress=watch)
        resumed = train(lab, tmp_path / str(at), "distill.lr=0.02", before=1.0)
        assert resumed.adapter.fingerprint == whole.adapter.fingerprint
        assert len(read_jsonl(tmp_path / str(at) / "metrics.jsonl")) == 4


def test_what_is_not_finite_at_half_of_the_rate_either_ends_it(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step \d: .*; step 0 is kept in .*checkpoints"):
        train(lab, tmp_path, "distill.lr=1e30", before=0.0)
    state = read_json(tmp_path / "checkpoints" / "step_000000" / "state.json")
    assert state["halved"].startswith("step ") and "finite" in state["halved"]

"""Going back to a checkpoint with half of the learning rate, on the tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.checkpoint import adapter_at, load_checkpoint, save_checkpoint
from gepa_loop.training.distilled import Distilled
from gepa_loop.training.trainer import distill

STEPS = ("distill.steps=4", "distill.check_every=2")
KINDS = [(), ("distill.warm_start=0.1", "distill.average=0.4"), ("teacher.kind=ema",)]


class Killed(Exception):
    pass


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


def train(lab: Lab, folder: Path, *sets: str, progress: Any = None) -> Distilled:
    return distill(
        lab.under(smoke(*STEPS, *sets)),
        Candidate("Answer with one number."),
        folder,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
        progress=progress or (lambda row: None),
    )


def half_way(lab: Lab, folder: Path, *sets: str) -> None:
    """The first two steps."""

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train(lab, folder, *sets, progress=stop)


def falling(lab: Lab, folder: Path, *sets: str) -> Lab:
    """The same lab, whose replies score where the student of step 2 gives them at its check, and nowhere else."""
    half_way(lab, folder, *sets)
    rollouts = lab.rollouts.by(adapter_at(folder / "checkpoints", 2))
    sampling = Sampling(lab.config.evaluate.temperature, lab.config.sampling.max_tokens)
    items = lab.task.splits["pareto"]
    rows = rollouts.rows(NO_PROMPT, items, lab.config.evaluate.samples, sampling, "evaluate")
    known = {row.completion for row in rows}
    task = replace(lab.task, scorer=each(lambda one: (float(one.reply in known), "")), full_marks=False)
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


def moves(folder: Path) -> list[tuple[float | None, ...]]:
    keys = "loss", "grad_norm", "held_out_kl", "lr"
    return [tuple(row.get(key) for key in keys) for row in read_jsonl(folder / "metrics.jsonl")]


def from_the_average(lab: Lab, folder: Path) -> None:
    """Let training go on from what the last check judged."""
    checkpoint = load_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    averaged = replace(checkpoint, weights=None)
    save_checkpoint(folder / "checkpoints", averaged, lab.base.origin)


@pytest.mark.parametrize("sets", KINDS, ids=" ".join)
def test_after_a_fall_it_goes_on_from_the_check_before_with_half_of_the_rate(
    lab: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    shown: list[dict[str, Any]] = []
    worse = falling(lab, tmp_path / "first", "distill.lr=0.1", *sets)
    train(worse, tmp_path / "fallen", "distill.lr=0.1", *sets, progress=shown.append)
    half_way(lab, tmp_path / "half", "distill.lr=0.1", *sets)
    if "distill.average=0.4" in sets:
        from_the_average(lab, tmp_path / "half")
    train(lab, tmp_path / "half", "distill.lr=0.05", *sets)
    assert moves(tmp_path / "fallen") == moves(tmp_path / "half")
    assert [lr for *_, lr in moves(tmp_path / "fallen")] == [0.1, 0.1, 0.05, 0.05]
    rows = read_jsonl(tmp_path / "fallen" / "metrics.jsonl")
    assert [bool(row["halved"]) for row in rows] == [False, False, True, True]
    assert rows[-1]["halved"].startswith("the held-out score was 1.000 at step 2 and is 0.")
    samples = (read_jsonl(tmp_path / name / "samples.jsonl") for name in ("fallen", "half"))
    for one, other in zip(*samples, strict=True):
        assert one["token_ids"] == other["token_ids"]
    # What was taken back was shown while it went on; the step that spoilt it was not.
    assert [(row["step"], row["lr"]) for row in shown] == [(1, 0.1), (2, 0.1), (3, 0.1), (3, 0.05), (4, 0.05)]


def test_a_second_fall_is_not_taken_back(lab: Lab, tmp_path: Path) -> None:
    worse = falling(lab, tmp_path / "first", "distill.lr=0.2")
    done = train(worse, tmp_path / "r", "distill.lr=0.2", "distill.steps=8")
    assert done.last_step == 8 and done.kept.step == 2
    assert [lr for *_, lr in moves(tmp_path / "r")] == [0.2] * 2 + [0.1] * 6


@pytest.mark.parametrize("average", [0, 0.4])
def test_a_run_that_is_killed_after_it_went_back_goes_on_with_half_of_the_rate(
    lab: Lab, tmp_path: Path, average: float
) -> None:
    sets = "distill.lr=0.1", f"distill.average={average}"
    worse = falling(lab, tmp_path / "first", *sets)
    train(worse, tmp_path / "whole", *sets)

    def watch(row: dict[str, Any]) -> None:
        if row["halved"] and row["step"] == at:
            raise Killed

    for at in (3, 4):
        with pytest.raises(Killed):
            train(worse, tmp_path / str(at), *sets, progress=watch)
        train(worse, tmp_path / str(at), *sets)
        assert moves(tmp_path / str(at)) == moves(tmp_path / "whole")


def test_a_rate_that_leads_away_from_the_teachers_replies_is_halved_at_the_first_check(
    lab: Lab, tmp_path: Path
) -> None:
    """Also where no score can fall yet and nobody has read the student before."""
    train(lab, tmp_path, "distill.lr=3", "distill.warm_start=1e-6", "distill.average=0")
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["lr"] for row in rows] == [1.5] * 4
    assert rows[0]["halved"].startswith("KL(teacher || student) of the teacher's own replies was ")


def test_going_back_leaves_what_a_checkpoint_lists_as_it_is(lab: Lab, tmp_path: Path) -> None:
    """A process that ends while it is saved leaves the old state.json beside the files that it lists: they are not touched."""
    half_way(lab, tmp_path, "distill.average=0.4")
    folder = tmp_path / "checkpoints" / "step_000002"

    def files() -> dict[str, tuple[bytes, int]]:
        found = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_ino) for path in found}

    before, checkpoint = files(), load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None and checkpoint.weights is not None
    save_checkpoint(tmp_path / "checkpoints", checkpoint.at_half_the_rate("it fell"), lab.base.origin)
    state = str(folder / "state.json")
    assert {**files(), state: (b"", 0)} == {**before, state: (b"", 0)}
    back = load_checkpoint(tmp_path / "checkpoints")
    assert back is not None and back.weights is None and back.halved == "it fell"


def test_what_reads_no_teacher_is_not_compared_with_one(lab: Lab, tmp_path: Path) -> None:
    """grpo with kl_tau reads the base without a prompt."""
    done = train(lab, tmp_path / "grpo", "objective.type=grpo", "objective.kl_tau=0.1")
    assert done.kl is None and "held_out_kl" not in read_jsonl(tmp_path / "grpo" / "metrics.jsonl")[-1]
    assert (train(lab, tmp_path / "kl").kl or 0) > 0


def test_a_reward_may_take_the_student_away_from_the_teacher_and_one_that_follows_says_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    """A divergence that rises is harm only where it is all that is trained, and towards what stays; it is shown in any case."""
    for name, sets in (
        ("kl", ()),
        ("reward", ("objective.adv_tau=1",)),
        ("live", ("teacher.kind=live",)),
        ("ema", ("teacher.kind=ema",)),
    ):
        half_way(lab, tmp_path / name, *sets)
        last = read_jsonl(tmp_path / name / "metrics.jsonl")[-1]
        checkpoint = load_checkpoint(tmp_path / name / "checkpoints")
        assert checkpoint is not None and last["held_out_kl"] > 0
        assert bool(checkpoint.checks[-1].kl) == (name == "kl")


def test_what_is_not_finite_at_half_of_the_rate_either_ends_it(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step \d: .*; step 0 is kept in .*checkpoints"):
        train(lab, tmp_path, "distill.lr=1e30")
    state = read_json(tmp_path / "checkpoints" / "step_000000" / "state.json")
    assert state["halved"].startswith("step ") and "finite" in state["halved"]

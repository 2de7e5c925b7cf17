"""`distill.stale`: a step's rollouts are those of the student before the update before it, and never from beyond a held-out check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import read_jsonl
from gepa_loop.sampling.base import Completion, Request, Sampler, Sampling, SelfMeasured, Waiting
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.trainer import Pupil, train

PROMPTS = "Answer with one number.", "Say a word."
SETS = ("seed=4", "distill.steps=6", "distill.check_every=3", "distill.stale=1")


class Beside:
    """A sampler that works beside this process: it notes when it is asked, by whom, and when that is read."""

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner
        self.noted: list[tuple[str, str | None]] = []
        self.elsewhere: list[bool] = []
        """Of what it was asked."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        return self.inner.generate(prompts, sampling, seeds, adapter)

    def begin(self, wanted: Request, sampling: Sampling) -> Waiting:
        who = None if wanted.adapter is None else wanted.adapter.fingerprint
        self.noted.append(("asked", who))
        self.elsewhere.append(wanted.elsewhere)
        done = (
            []
            if not wanted.prompts
            else self.generate(wanted.prompts, sampling, wanted.seeds, wanted.adapter)
        )

        def read() -> list[Completion]:
            self.noted.append(("read", who))
            return done

        return read

    def send(self) -> None:
        """Nothing was held back."""

    def sleep(self) -> SelfMeasured:
        return {}

    def close(self) -> None:
        self.inner.close()


def opened(*sets: str) -> Lab:
    return open_lab(load_config("smoke", (*SETS, *sets), env={}))


def trained(lab: Lab, folder: Path, count: int = 1, until: int | None = None) -> list[dict[str, Any]]:
    pupils = [
        Pupil(Candidate(text), folder / str(n), lambda row: None) for n, text in enumerate(PROMPTS[:count])
    ]
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    train(lab, pupils, stack=None, before=before, until=until)
    return read_jsonl(folder / "0" / "metrics.jsonl", dict[str, Any])


def sums(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in rows]


def test_the_next_step_is_asked_for_behind_this_one_and_read_after_its_update(tmp_path: Path) -> None:
    lab = opened()
    sampler = Beside(lab.rollouts.sampler)
    trained(replace(lab, rollouts=replace(lab.rollouts, sampler=sampler)), tmp_path)
    half = len(sampler.noted) // 2
    for noted in (sampler.noted[:half], sampler.noted[half:]):
        # Steps 1 and 2, by the student as it is; with step 2 read only after the update, and asked for step 3 before that. Then the check.
        kinds, students = [kind for kind, _ in noted], [who for _, who in noted]
        assert kinds == ["asked", "asked", "read", "asked", "read", "read", "asked", "read"]
        assert students[0] == students[1] and len({students[0], students[3], students[6]}) == 3
        assert students[2:6] == [students[0], students[3], students[0], students[3]]
    assert sampler.noted[half][1] == sampler.noted[half - 1][1], "the student that was checked goes on"
    # The command waits for the first step's and for a check, and computes beside what is between them.
    assert sampler.elsewhere == [False, True, True, False] * 2


def test_what_a_step_draws_again_is_not_kept_waiting_by_the_next_step(tmp_path: Path) -> None:
    lab = opened("objective.type=grpo", "objective.redraw=1", "distill.steps=2", "distill.check_every=2")
    sampler = Beside(lab.rollouts.sampler)
    trained(replace(lab, rollouts=replace(lab.rollouts, sampler=sampler)), tmp_path)
    kinds = [kind for kind, _ in sampler.noted]
    assert kinds == ["asked", "read", "asked", "read", "asked", "read"], "two steps, and the check"
    assert sampler.elsewhere == [False, True, False]


def test_where_nothing_samples_beside_it_the_sums_are_the_same(tmp_path: Path) -> None:
    lab = opened()
    beside = replace(lab, rollouts=replace(lab.rollouts, sampler=Beside(lab.rollouts.sampler)))
    here, there = trained(lab, tmp_path / "here"), trained(beside, tmp_path / "there")
    assert sums(here) == sums(there)
    prompt = trained(opened("distill.stale=0"), tmp_path / "prompt")
    assert [a == b for a, b in zip(sums(here), sums(prompt), strict=True)][:2] == [True, False]


def test_a_run_that_rests_at_a_check_goes_on_as_one_that_does_not(tmp_path: Path) -> None:
    lab = opened()
    trained(lab, tmp_path / "rested", until=3)
    assert sums(trained(lab, tmp_path / "rested")) == sums(trained(lab, tmp_path / "whole"))


@pytest.mark.parametrize("nats", ["0.1", "1e6"])
def test_who_ends_its_warm_start_is_asked_anew(tmp_path: Path, nats: str) -> None:
    # At 1e6 the warm start ends after its first step: nothing was asked for the second, which the student answers.
    lab = opened(f"distill.warm_start={nats}")
    rows = trained(lab, tmp_path)
    warm = [row["warm"] for row in rows]
    assert warm == ([True, False] if nats == "1e6" else [True, True]) + warm[2:] and not warm[-1]
    assert all(row["completion_tokens_mean"] for row in rows)


def test_students_that_share_their_steps_are_stale_alike(tmp_path: Path) -> None:
    lab = opened("distill.together=2")
    two, one = trained(lab, tmp_path / "two", count=2), trained(lab, tmp_path / "one")
    for a, b in zip(sums(two), sums(one), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_ratios_over_another_student_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"distill\.stale = 1: ratios are to be over the student that sampled"
    ):
        opened("objective.type=grpo", "objective.old=trainer")
    opened("objective.type=grpo")

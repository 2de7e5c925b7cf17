"""A beginning with the teacher's samples."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.recipe import on_policy_share
from gepa_loop.config.tables import SamplingConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, Diverged, RunDirectoryError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.sampling.base import Completion
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.collect import collect, items_of_step
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.trainer import distill
from gepa_loop.training.warm import by_teacher, imitating

PROMPT = Candidate("Answer with one number.")


def smoke(*sets: str) -> Config:
    return load_config("smoke", ("distill.check_every=2", *sets), env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


def train(lab: Lab, folder: Path, *sets: str, progress: Any = None) -> list[dict[str, Any]]:
    """Distils and gives the steps' rows."""
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    inside = lab.under(smoke(*sets))
    distill(inside, PROMPT, folder, stack=None, before=before, progress=progress or (lambda row: None))
    return read_jsonl(folder / "metrics.jsonl")


def test_after_it_half_of_the_groups_are_the_teachers(lab: Lab, tmp_path: Path) -> None:
    train(lab, tmp_path / "a", "distill.warm_start=0.05", "distill.steps=4", "distill.group=1")
    by: dict[int, set[str]] = {}
    for row in read_jsonl(tmp_path / "a" / "samples.jsonl"):
        by.setdefault(row["step"], set()).add(row["by"])
    assert by == {1: {"teacher"}, 2: {"teacher"}, 3: {"student", "teacher"}, 4: {"student", "teacher"}}

    def share(*sets: str) -> float:
        config = load_config("sums", ("distill.warm_start=0.05", *sets), env={})
        return on_policy_share(config.distill, config.objective, config.teacher)

    assert share() == 0.5
    assert (
        share("distill.on_policy=1") == share("distill.warm_start=0") == share("objective.type=token_kl") == 1
    )
    assert share("objective.adv_tau=0.5") == 1, (
        "a reward of what the student did not draw is no policy gradient"
    )
    assert share("objective.type=sft") == 0


def test_it_changes_over_where_the_teachers_replies_are_likely_enough(lab: Lab, tmp_path: Path) -> None:
    always = train(lab, tmp_path / "a", "distill.warm_start=1e-6", "distill.steps=9", "distill.lr=0.01")
    assert [row["warm"] for row in always] == [True] * 5 + [False] * 4, "it takes half of the steps at most"
    losses = [row["loss"] for row in always if row["warm"]]
    assert losses[-1] < losses[1] < losses[0]
    # The step that reaches the limit is the last one, so the next is the student's.
    limit = losses[1] + 1e-6
    some = train(lab, tmp_path / "b", f"distill.warm_start={limit}", "distill.steps=4", "distill.lr=0.01")
    assert [row["warm"] for row in some] == [True, True, False, False]
    assert [row["loss"] for row in some[:2]] == losses[:2]
    # The teacher's samples by KL(teacher || student), the student's own by the objective's KL(student || teacher).
    assert [row["loss"] == pytest.approx(row["reverse_kl"]) for row in some] == [False, False, True, True]
    none = train(lab, tmp_path / "c", "distill.steps=1")
    assert [row["warm"] for row in none] == [False]
    assert not (tmp_path / "c" / "teacher.jsonl").exists()


def test_the_teachers_samples_are_made_once_and_taken_in_turn(lab: Lab, tmp_path: Path) -> None:
    sets = ("distill.warm_start=1e-6", "distill.teacher_samples=4", "distill.rollouts=32", "distill.group=2")
    items = len(lab.task.splits["train"])
    assert items == 16, "an epoch is one step"
    train(lab, tmp_path, *sets, "distill.steps=6")
    made = read_jsonl(tmp_path / "teacher.jsonl")
    assert [row["item"] for row in made] == [i.id for i in lab.task.splits["train"] for _ in range(4)]
    shown = read_jsonl(tmp_path / "samples.jsonl")
    for step, places in ((1, [0, 1]), (2, [2, 3]), (3, [0, 1])):
        rows = [row for row in shown if row["step"] == step]
        own = [row["token_ids"] for row in made if row["item"] == rows[0]["item"]]
        assert [row["by"] for row in rows] == ["teacher", "teacher"]
        assert [row["token_ids"] for row in rows] == [own[place] for place in places]


def test_an_item_that_comes_twice_in_a_step_gives_other_samples_the_second_time(lab: Lab) -> None:
    """32 groups of 2 from 16 items, four samples each: both epochs of the step together hold every sample once."""
    config = imitating(smoke("distill.rollouts=64", "distill.group=2"))
    items = lab.task.splits["train"]
    made = {
        item.id: [Completion((100 * n + k,), (0.0,), "stop") for k in range(4)]
        for n, item in enumerate(items)
    }
    model = with_lora(lab.base, config.lora, 0, None)
    try:
        teacher = open_teacher(lab, model, PROMPT.text)
        found = collect(config, lab.rollouts.by(student_adapter(model)), teacher, None, 0, made)
    finally:
        remove_lora(model)
    assert len(found.completions) == 64
    assert {c.token_ids for c in found.completions} == {c.token_ids for own in made.values() for c in own}


def test_another_process_reads_the_samples_that_were_made(lab: Lab, tmp_path: Path) -> None:
    sets = ("distill.warm_start=1.45", "distill.steps=6", "distill.lr=0.01")
    whole = train(lab, tmp_path / "whole", *sets)
    assert {row["warm"] for row in whole} == {True, False}

    class Killed(Exception):
        pass

    for at in (1, 3, 5):
        folder, deaf = tmp_path / f"killed-{at}", replace(lab)

        def watch(row: dict[str, Any], at: int = at) -> None:
            if row["step"] == at:
                raise Killed

        with pytest.raises(Killed):
            train(deaf, folder, *sets, progress=watch)
        sampled = (folder / "teacher.jsonl").read_bytes()
        again = train(deaf, folder, *sets)
        assert (
            (folder / "teacher.jsonl").read_bytes()
            == sampled
            == (tmp_path / "whole" / "teacher.jsonl").read_bytes()
        )
        assert [row["loss"] for row in again] == [row["loss"] for row in whole]
    assert "teacher.jsonl" in read_json(tmp_path / "whole" / "result.json")["files"]


def test_a_damaged_sample_is_named(lab: Lab, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def watch(row: dict[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(lab, tmp_path, "distill.warm_start=1e-6", progress=watch)
    file = tmp_path / "teacher.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"finish_reason": "length"', b'"finish_reason": "stop"', 1))
    with pytest.raises(RunDirectoryError, match=r"teacher\.jsonl: row \d+"):
        train(lab, tmp_path, "distill.warm_start=1e-6")


def failing(lab: Lab, places: set[int]) -> Lab:
    """The same lab, whose rewards of the second item of some steps are no numbers."""
    order = items_of_step(lab.task.splits["train"], 0, 16, lab.rollouts.seed)
    bad = {order[2 * place + 1].id for place in places}
    task = replace(
        lab.task,
        scorer=each(lambda one: (math.nan if one.item.id in bad else float(len(one.reply) % 2), "")),
        full_marks=False,
    )
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


def test_one_step_that_is_not_finite_is_left_out_and_three_in_a_row_end_it(lab: Lab, tmp_path: Path) -> None:
    sets = ("objective.adv_tau=1", "distill.rollouts=8", "distill.group=4", "distill.steps=6")
    rows = train(failing(lab, {1, 3, 4}), tmp_path / "a", *sets, "distill.check_every=6")
    assert [row["skipped"] for row in rows] == [False, True, False, True, True, False]
    assert [row["loss"] is None for row in rows] == [row["skipped"] for row in rows]
    assert all(map(math.isfinite, (rows[-1]["loss"], rows[-1]["grad_norm"])))
    with pytest.raises(Diverged, match=r"step 5: .* not finite in 3 steps in a row; step 0 is kept"):
        train(failing(lab, {2, 3, 4}), tmp_path / "b", *sets, "distill.check_every=6")

    # Counted over processes, too: the check after the fourth step is what the second one goes on from.
    class Killed(Exception):
        pass

    def watch(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        train(failing(lab, {2, 3, 4}), tmp_path / "c", *sets, "distill.check_every=4", progress=watch)
    with pytest.raises(Diverged, match=r"step 5: .* in 3 steps in a row; step 4 is kept"):
        train(failing(lab, {2, 3, 4}), tmp_path / "c", *sets, "distill.check_every=4")


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        (("objective.type=grpo",), "objective grpo reads no teacher"),
        (("teacher.kind=live",), "teacher.kind = 'live'"),
    ],
)
def test_a_warm_start_needs_a_teacher_that_stays(sets: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=f"distill.warm_start = 0.1: its samples are made once, and {why}"):
        smoke("distill.warm_start=0.1", *sets)
    assert math.isclose(smoke("distill.warm_start=0.1").distill.warm_start, 0.1)


def test_the_likelihood_of_the_teachers_replies_is_the_geometric_mean(lab: Lab, tmp_path: Path) -> None:
    [row] = train(
        lab, tmp_path, "distill.warm_start=1e-6", "distill.steps=1", "distill.rollouts=2", "distill.group=2"
    )
    shown = [x for sample in read_jsonl(tmp_path / "samples.jsonl") for x in sample["student_logprobs"]]
    assert row["teacher_likelihood"] == pytest.approx(math.exp(sum(shown) / len(shown)), rel=1e-3)
    [own] = train(lab, tmp_path / "own", "distill.steps=1")
    assert own["teacher_likelihood"] is None


def test_where_another_sampler_draws_for_the_teacher_one_of_the_two_sleeps() -> None:
    """Both in memory would be one engine too many on a card."""
    seen: list[str] = []

    def sampler(name: str) -> Any:
        return SimpleNamespace(sleep=lambda: seen.append(name))

    def awake(own: Any, theirs: Any) -> list[str]:
        seen.clear()
        teacher: Any = SimpleNamespace(answers=lambda *_: SimpleNamespace(sampler=theirs))
        rollouts: Any = SimpleNamespace(sampler=own)
        with by_teacher(rollouts, teacher, None, SamplingConfig()) as answered:
            seen.append("draws")
        assert answered.sampler is theirs
        return list(seen)

    own, other = sampler("own"), sampler("other")
    assert awake(own, own) == ["draws"]
    assert awake(own, other) == ["own", "draws", "other"]

"""Students that share their steps, beside each on its own, on the tiny model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.forward import hidden_states
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.training import (
    load_student,
    remove_lora,
    student_adapter,
    student_parameters,
    with_lora,
)
from gepa_loop.run.files import read_jsonl
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each
from gepa_loop.training import trainer
from gepa_loop.training.checkpoint import (
    Checkpoint,
    at_one_step,
    load_checkpoint,
    save_checkpoint,
    thin_out,
)
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import Collected, collect
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import Passes
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.trainer import Pupil, at_once
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import Updated, update_together
from gepa_loop.training.warm import imitating

PROMPTS = "Answer with one number.", "Say a word, then a number.", "Count.\nThen add."
MANY = Passes(10**6)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SAME = 1e-5 if DEVICE == "cpu" else 2e-4
"""Relative. A GPU cuts its sums otherwise for other shapes: gradients then differ by up to 2e-5, losses by 3e-7."""


def smoke(*sets: str) -> Config:
    # With another seed a sampled token may turn over by rounding, and all that follows with it.
    return load_config("smoke", ("seed=4", f"model.device={DEVICE}", *sets), env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    """About half of a random model's replies score: those of even length."""
    own = open_lab(smoke())
    task = replace(own.task, scorer=each(lambda one: (float(len(one.reply) % 2 == 0), "")))
    return replace(own, task=task, rollouts=replace(own.rollouts, task=task))


def adapters(lab: Lab, count: int) -> list[Adapter]:
    """Students that differ."""
    model, made = with_lora(lab.base, lab.config.lora, 3, None), []
    blank = student_adapter(model)
    remove_lora(model)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        tensors = {n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in blank.tensors.items()}
        made.append(replace(blank, tensors=tensors))
    return made


@dataclass(frozen=True)
class Step:
    """What a step of some students came to."""

    done: list[Updated]
    grads: list[torch.Tensor]
    after: list[Adapter]


def rollouts_of(lab: Lab, config: Config, student: Adapter, prompt: str, stack: Adapter | None) -> Collected:
    model = with_lora(lab.base, config.lora, 0, stack)
    try:
        teacher = open_teacher(lab.under(config), model, prompt)
        whole = student if stack is None else stack_adapters([stack, student])
        return collect(config, lab.rollouts.by(whole), teacher, stack, 0)
    finally:
        remove_lora(model)


def step(
    lab: Lab,
    configs: Sequence[Config],
    students: Sequence[Adapter],
    batches: Sequence[Collected],
    which: Sequence[int],
    stack: Adapter | None = None,
    passes: Passes = MANY,
) -> Step:
    """One step of the students `which`, in a model that has these alone."""
    config = configs[0]
    model = with_lora(lab.base, config.lora, 0, stack, len(which))
    try:
        trained, turns = [], []
        for place, number in enumerate(which):
            load_student(model, students[number], place)
            teacher = open_teacher(lab.under(configs[number]), model, PROMPTS[number])
            parameters = student_parameters(model, place)
            optimizer = make_optimizer(config.distill, parameters)
            trained += parameters
            turns.append(Turn(configs[number], Trainee(optimizer, teacher, place), batches[number]))
        reader = Reader(lab.base, open_forward(lab.base.model, trained))
        done = update_together(turns, reader, passes, Clock(lab.base.device))
        grads = [turn.trainee.optimizer.param_groups[0]["params"][0].grad.clone() for turn in turns]
        return Step(done, grads, [student_adapter(model, number=place) for place in range(len(which))])
    finally:
        remove_lora(model)


def assert_same(one: Step, other: Step, place: int) -> None:
    """That student `place` of `one` came out as the only one of `other`."""
    mine, [theirs] = one.done[place], other.done
    # Sums of policy gradients are nearly 0 beside their terms.
    assert mine.loss == pytest.approx(theirs.loss, rel=SAME, abs=SAME / 3)
    assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=SAME, abs=SAME / 3)
    assert float((one.grads[place] - other.grads[0]).norm()) <= SAME * float(other.grads[0].norm())
    for name in ("logprob_N", "entropy_N", "reverse_kl_N", "teacher_logprob_N"):
        torch.testing.assert_close(
            getattr(mine.stats, name), getattr(theirs.stats, name), rtol=SAME, atol=SAME, equal_nan=True
        )
    assert torch.equal(mine.weight_N, theirs.weight_N)


OBJECTIVES: list[tuple[str, ...]] = [
    (),
    ("objective.type=full_kl", "objective.divergence=jsd"),
    ("objective.type=token_kl",),
    ("objective.type=sequence_kl",),
    ("objective.type=grpo",),
]


def sets_of(lab: Lab, names: tuple[str, ...]) -> Config:
    return smoke("distill.rollouts=6", "distill.group=2", "sampling.max_tokens=6", *names)


@pytest.mark.parametrize("names", OBJECTIVES, ids=lambda names: "-".join(names) or "default")
@pytest.mark.parametrize("passes", [MANY, Passes(40), Passes(10**6, recompute=True)], ids=str)
def test_a_shared_step_is_each_students_own(lab: Lab, names: tuple[str, ...], passes: Passes) -> None:
    config, students = sets_of(lab, names), adapters(lab, 3)
    batches = [rollouts_of(lab, config, s, prompt, None) for s, prompt in zip(students, PROMPTS, strict=True)]
    shared = step(lab, [config] * 3, students, batches, (0, 1, 2), passes=passes)
    for number in range(3):
        assert_same(shared, step(lab, [config] * 3, students, batches, (number,), passes=passes), number)
    moved = [one.fingerprint for one in shared.after]
    assert len(set(moved)) == 3 and moved != [one.fingerprint for one in students]


def stack_of(lab: Lab) -> Adapter:
    """Of another rank than the students', under fewer layers."""
    model = with_lora(
        lab.base, lab.config.lora.model_copy(update={"rank": 3, "targets": ("q_proj",)}), 9, None
    )
    stack = student_adapter(model)
    remove_lora(model)
    return replace(stack, tensors={n: torch.full_like(t, 0.02) for n, t in stack.tensors.items()})


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU computes with the ranks of all students in every pass")
@pytest.mark.parametrize("tokens", [10**6, 40])
def test_passes_of_one_student_each_are_to_the_byte_what_it_has_alone(lab: Lab, tokens: int) -> None:
    config, students, stack = sets_of(lab, ("distill.updates=2",)), adapters(lab, 3), stack_of(lab)
    batches = [
        rollouts_of(lab, config, s, prompt, stack) for s, prompt in zip(students, PROMPTS, strict=True)
    ]
    passes = Passes(tokens, shared=False)
    shared = step(lab, [config] * 3, students, batches, (0, 1, 2), stack, passes)
    for number in range(3):
        alone = step(lab, [config] * 3, students, batches, (number,), stack, passes)
        assert shared.after[number].fingerprint == alone.after[0].fingerprint
        assert shared.done[number].loss == alone.done[0].loss


def test_on_a_stack_of_another_rank_and_at_other_stages(lab: Lab) -> None:
    """One student still imitates its teacher, and makes two updates as the others do."""
    stack = stack_of(lab)
    config, students = sets_of(lab, ("distill.updates=2",)), adapters(lab, 3)
    configs = [config, imitating(config), config]
    batches = [rollouts_of(lab, *one, stack) for one in zip(configs, students, PROMPTS, strict=True)]
    shared = step(lab, configs, students, batches, (0, 1, 2), stack)
    for number in range(3):
        assert_same(shared, step(lab, configs, students, batches, (number,), stack), number)


def test_numbers_of_one_student_that_overflow_are_no_others(lab: Lab) -> None:
    config, students = sets_of(lab, ()), adapters(lab, 2)
    batches = [
        rollouts_of(lab, config, s, prompt, None) for s, prompt in zip(students, PROMPTS[:2], strict=True)
    ]
    spoilt = {n: t * 1e37 if "lora_A" in n else t for n, t in students[1].tensors.items()}
    students[1] = replace(students[1], tensors=spoilt)
    shared = step(lab, [config] * 2, students, batches, (0, 1))
    assert_same(shared, step(lab, [config] * 2, students, batches, (0,)), 0)
    assert not math.isfinite(shared.done[1].loss)
    assert shared.after[1].fingerprint == students[1].fingerprint
    assert shared.after[0].fingerprint != students[0].fingerprint


# Whole distillations


def pupils(folder: Path, progress: Any = None) -> list[Pupil]:
    return [
        Pupil(Candidate(prompt), folder / str(n), progress or (lambda row: None))
        for n, prompt in enumerate(PROMPTS)
    ]


def train(lab: Lab, those: Sequence[Pupil], *sets: str, until: int | None = None) -> list[Checkpoint]:
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    return trainer.train(lab.under(smoke(*STEPS, *sets)), those, stack=None, before=before, until=until)


STEPS = ("distill.steps=6", "distill.check_every=2", "distill.patience=0", "distill.lr=0.003")
KINDS: list[tuple[str, ...]] = [
    (),
    ("distill.warm_start=0.1", "distill.average=0.4"),
    ("distill.warm_start=1.74",),
    ("objective.type=grpo",),
]


@pytest.mark.parametrize("sets", KINDS, ids=lambda sets: "-".join(sets) or "default")
def test_students_that_share_their_steps_become_what_they_become_alone(
    lab: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    shared = train(lab, pupils(tmp_path / "shared"), *sets)
    alone = train(lab, pupils(tmp_path / "alone"), *sets, "distill.together=1")
    for number, (mine, theirs) in enumerate(zip(shared, alone, strict=True)):
        assert mine.step == theirs.step == 6
        for name, tensor in mine.adapter.tensors.items():
            torch.testing.assert_close(tensor, theirs.adapter.tensors[name], rtol=1e-3, atol=10 * SAME)
        assert [c.scores for c in mine.checks] == [c.scores for c in theirs.checks]
        rows = [read_jsonl(tmp_path / how / str(number) / "metrics.jsonl") for how in ("shared", "alone")]
        for one, other in zip(*rows, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
            assert (one["warm"], one["step"]) == (other["warm"], other["step"])
        samples = [(tmp_path / how / str(number) / "samples.jsonl") for how in ("shared", "alone")]
        tokens = [[row["token_ids"] for row in read_jsonl(path)] for path in samples]
        assert tokens[0] == tokens[1]
    if "distill.warm_start=1.74" in sets:
        rows = [read_jsonl(tmp_path / "shared" / str(number) / "metrics.jsonl") for number in range(3)]
        assert sorted(sum(row["warm"] for row in own) for own in rows) == [1, 2, 3]
    if "objective.type=grpo" not in sets:  # which reads no prompt
        assert len({one.adapter.fingerprint for one in shared}) == 3


class Killed(Exception):
    pass


def test_a_killed_race_goes_on_to_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    whole = train(lab, pupils(tmp_path / "whole"))

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(lab, pupils(tmp_path / "torn", stop))
    assert [len(read_jsonl(one.folder / "metrics.jsonl")) for one in pupils(tmp_path / "torn")] == [3, 3, 3]
    again = train(lab, pupils(tmp_path / "torn"))
    assert [one.adapter.fingerprint for one in again] == [one.adapter.fingerprint for one in whole]
    for number in range(3):
        old, new = (tmp_path / how / str(number) / "samples.jsonl" for how in ("whole", "torn"))
        assert old.read_bytes() == new.read_bytes()


def test_students_that_were_saved_alone_go_back_to_where_all_were(lab: Lab, tmp_path: Path) -> None:
    """A process ends when two of three have saved step 4, and again when two of three were thinned out."""
    train(lab, pupils(tmp_path), until=2)
    folders = [one.checkpoints for one in pupils(tmp_path)]
    at_2 = [load_checkpoint(folder) for folder in folders]
    for folder, one in zip(folders[:2], at_2, strict=False):
        assert one is not None
        save_checkpoint(folder, replace(one, step=4), lab.base.origin)
    assert at_one_step(folders, 2)
    assert [one.step for one in map(load_checkpoint, folders) if one] == [2, 2, 2]
    for folder, one in zip(folders, at_2, strict=True):
        assert one is not None
        save_checkpoint(folder, replace(one, step=4), lab.base.origin)
    thin_out(folders[0], 4)
    assert not at_one_step(folders, 4)
    assert [one.step for one in map(load_checkpoint, folders) if one] == [4, 4, 4]
    # One that goes over a stretch again is behind on purpose: nobody else goes back, nor where a process has ended while another
    # was thinned out, whose record is written before its files go.
    moments = (folders[1] / "step_000002" / "optimizer.safetensors").read_bytes()
    thin_out(folders[1], 4)
    shutil.rmtree(folders[2] / "step_000004")
    (folders[1] / "step_000002" / "optimizer.safetensors").write_bytes(moments)
    assert not at_one_step(folders, 2) and not at_one_step(folders[1:], 2)
    assert [one.step for one in map(load_checkpoint, folders) if one] == [4, 4, 2]


def test_a_race_that_is_killed_when_one_has_ended_goes_on_to_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    """The third student has ended by a plateau; of the others one has saved its last check, and the other has not."""
    sets = "distill.patience=3", "distill.check_every=1", "distill.steps=12", "distill.lr=0.005"
    whole = train(lab, pupils(tmp_path), *sets, until=6)
    assert [one.step for one in whole] == [6, 6, 6]
    folders = [one.checkpoints for one in pupils(tmp_path)]
    for folder in folders[:2]:
        shutil.copytree(folder / "step_000006", folder.parent / "kept")
    whole = train(lab, pupils(tmp_path), *sets)
    assert [one.step for one in whole] == [7, 7, 6]
    shutil.rmtree(folders[1] / "step_000007")
    for folder in folders[:2]:
        shutil.rmtree(folder / "step_000006")
        shutil.move(folder.parent / "kept", folder / "step_000006")
    again = train(lab, pupils(tmp_path), *sets)
    assert [one.step for one in again] == [7, 7, 6]
    assert [one.adapter.fingerprint for one in again] == [one.adapter.fingerprint for one in whole]
    for one in pupils(tmp_path)[:2]:
        assert [row["step"] for row in read_jsonl(one.folder / "metrics.jsonl")] == list(range(1, 8))


def test_students_answer_and_are_read_together(lab: Lab, tmp_path: Path) -> None:
    """Otherwise all that is compared here would be the slow way twice."""
    calls: list[int] = []

    class Counts:
        """The run's sampler, which counts the students of a call."""

        joins = True

        def generate_together(self, wanted: Any, sampling: Any) -> Any:
            calls.append(len(wanted))
            return [c for one in wanted for c in own.generate(one.prompts, sampling, one.seeds, one.adapter)]

        def generate(self, prompts: Any, sampling: Any, seeds: Any, adapter: Any) -> Any:
            calls.append(1)
            return own.generate(prompts, sampling, seeds, adapter)

        def sleep(self) -> Any:
            return own.sleep()

    own = lab.rollouts.sampler
    watched = replace(lab, rollouts=replace(lab.rollouts, sampler=Counts()))
    train(watched, pupils(tmp_path), "distill.warm_start=0", until=2)
    assert calls == [3, 3, 3]  # two steps and a check

    config, students = sets_of(lab, ()), adapters(lab, 3)
    batches = [rollouts_of(lab, config, s, prompt, None) for s, prompt in zip(students, PROMPTS, strict=True)]
    model = with_lora(lab.base, config.lora, 0, None, 3)
    try:
        plain, rows = open_forward(lab.base.model), list[int]()

        class Reads:
            """The model's forward, which counts the rows of a pass."""

            def __call__(self, packed: Any, prefix: Any) -> torch.Tensor:
                rows.append(len(set(packed.students_B.tolist())))
                return hidden_states(lab.base.model, packed, prefix)

            def release(self) -> None:
                plain.release()

        turns = [
            Turn(
                config,
                Trainee(
                    make_optimizer(config.distill, student_parameters(model, n)),
                    open_teacher(lab.under(config), model, PROMPTS[n]),
                    n,
                ),
                batches[n],
            )
            for n in range(3)
        ]
        update_together(turns, Reader(lab.base, Reads()), MANY, Clock(lab.base.device))
    finally:
        remove_lora(model)
    assert rows == [3]


def test_a_student_whose_stretch_is_taken_back_lets_the_others_wait(lab: Lab, tmp_path: Path) -> None:
    """The first student's logits are not finite at its second step; it goes over the stretch again with half of the rate, and the
    others do not."""
    own, broken = lab.rollouts.sampler, []

    class Breaks:
        """The run's sampler, which once finds a student broken."""

        def generate(self, prompts: Any, sampling: Any, seeds: Any, adapter: Any) -> Any:
            from gepa_loop.errors import Diverged

            calls.append(len(prompts))
            if len(calls) == 4 and not broken:
                broken.append(True)
                raise Diverged("the model's logits are not finite")
            return own.generate(prompts, sampling, seeds, adapter)

        def sleep(self) -> Any:
            return own.sleep()

    calls: list[int] = []
    odd = replace(lab, rollouts=replace(lab.rollouts, sampler=Breaks()))
    found = train(odd, pupils(tmp_path / "odd"), "distill.warm_start=0")
    assert [bool(one.halved) for one in found].count(True) == 1 and broken
    assert [one.step for one in found] == [6, 6, 6] and found[0].halved
    for one in pupils(tmp_path / "odd"):
        steps = [row["step"] for row in read_jsonl(one.folder / "metrics.jsonl")]
        assert steps == [1, 2, 3, 4, 5, 6]
    plain = train(lab, pupils(tmp_path / "plain"), "distill.warm_start=0")
    for mine, theirs in zip(found, plain, strict=True):
        assert mine.halved or mine.checks[-1].scores == theirs.checks[-1].scores


def test_who_may_share() -> None:
    assert at_once(smoke()) == 8 and at_once(smoke("distill.together=1")) == 1
    # As many as have 256 rollouts a step between them.
    assert [at_once(smoke(f"distill.rollouts={n}")) for n in (16, 64, 100, 256, 512)] == [8, 4, 2, 1, 1]
    assert at_once(smoke("teacher.kind=ema")) == at_once(smoke("teacher.kind=live")) == 1

"""Passes that fit in memory: what is planned, what follows when memory runs out, and that the gradient stays the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow import Narrow

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ModelError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Forward, Prefix, hidden_states, recomputed_states
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.model.packed import pack
from gepa_loop.training.batch import Group, micro_batches, positions
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import collect
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import Passes, parts_of, plan_passes, smaller
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.teacher.local import LocalTeacher
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import Updated, update

CONFIG = load_config("smoke", ["distill.rollouts=8", "sampling.max_tokens=6"], env={})
GROUPS = [Group((1, 2, 3), (1,), ((4, 5), (6, 7, 8, 9))), Group((1,), (2, 3), ((4,), (5,)))]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(CONFIG)


def step(
    lab: Lab, forward: Forward, passes: Passes, reading: Forward | None = None, config: Config = CONFIG
) -> tuple[Updated, torch.Tensor]:
    """One update, and the gradient that it leaves."""
    model = with_lora(lab.base, config.lora, 0, None)
    try:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(config.distill, trained)
        teacher = open_teacher(lab, model, "Say a number.")
        assert isinstance(teacher, LocalTeacher)
        teacher = replace(teacher, _forward=reading)
        collected = collect(config, lab.rollouts.by(student_adapter(model)), teacher, None, 0)
        clock = Clock(lab.base.device)
        turn = Turn(config, Trainee(optimizer, teacher), collected)
        done = update(turn, Reader(lab.base, forward), passes, clock)
        (whole,) = optimizer.param_groups[0]["params"]
        return done, whole.grad.clone()
    finally:
        remove_lora(model)


def test_running_out_of_memory_halves_the_passes_and_changes_nothing(lab: Lab) -> None:
    large, small, reading = (Narrow(lab.base, most) for most in (10**6, 100, 10**6))
    whole, expected = step(lab, large, Passes(10**6))
    parts, found = step(lab, small, Passes(10**6), reading)
    # What is held for the size that did not fit is given back, the teacher's too.
    assert large.released == 0 < small.released == reading.released
    assert whole.passes == Passes(10**6)
    # A part counts the longer of both prompts, so a little over 100 may fit.
    assert 50 < parts.passes.tokens < 150 and not parts.passes.recompute
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-4
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert len(parts.weight_N) == len(whole.weight_N)


def test_single_completions_are_recomputed_before_giving_up(lab: Lab) -> None:
    whole, expected = step(lab, Narrow(lab.base, 10**6), Passes(10**6))
    parts, found = step(lab, Narrow(lab.base, 0), Passes(10**6))
    assert parts.passes.recompute
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_what_is_read_before_training_is_halved_as_well(lab: Lab) -> None:
    config = load_config(
        "smoke", ["distill.rollouts=8", "sampling.max_tokens=6", "objective.type=token_kl"], env={}
    )
    whole, expected = step(lab, Narrow(lab.base, 10**6), Passes(10**6), config=config)
    parts, found = step(
        lab, Narrow(lab.base, 10**6), Passes(10**6), reading=Narrow(lab.base, 40), config=config
    )
    assert parts.passes.tokens < 150 < whole.passes.tokens
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    with pytest.raises(ModelError, match="does not fit in memory"):
        step(lab, Narrow(lab.base, 10**6), Passes(10**6), reading=Narrow(lab.base, 0), config=config)


def test_a_completion_that_never_fits_is_an_error_that_says_what_to_lower(lab: Lab) -> None:
    with pytest.raises(ModelError, match=r"one completion of \d+ tokens does not fit") as caught:
        step(lab, Narrow(lab.base, 0), Passes(1), reading=Narrow(lab.base, 0))
    assert "max_tokens" in caught.value.hint


def test_recomputed_layers_give_the_same_states_and_gradients(tiny: Base) -> None:
    model = with_lora(tiny, CONFIG.lora, 0, None)
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for number, parameter in enumerate(trained):
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 10
            )
    packed = pack([[9, 8, 7], [9]], [[(1, 2, 3), (4,)], [(5, 6)]], 0, tiny.device)
    saved: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[-1] += tensor.numel()
        return tensor

    found = []
    try:
        for run in (
            lambda: hidden_states(tiny.model, packed, Prefix()),
            lambda: recomputed_states(tiny.model, packed),
        ):
            saved.append(0)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                states = run()
            found.append([states, *torch.autograd.grad(states.square().sum(), trained)])
    finally:
        remove_lora(model)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert saved[1] < saved[0] / 2
    assert not any(module.training for module in tiny.model.modules())


def test_smaller_halves_what_is_used_then_recomputes_then_gives_up() -> None:
    largest = max(positions(part) for part in micro_batches(GROUPS, 10**6))
    assert smaller(Passes(10**6), GROUPS) == Passes(largest // 2)
    assert smaller(Passes(1), GROUPS) == Passes(1, recompute=True)
    assert smaller(Passes(1, recompute=True), GROUPS) is None
    assert smaller(Passes(10**6, recompute=True), GROUPS) == Passes(largest // 2, recompute=True)


def test_a_pass_holds_one_student_or_several() -> None:
    rows = [
        Group((1, 2), (1,), ((number, number),), student) for number, student in enumerate((0, 0, 0, 2, 2))
    ]
    assert parts_of(rows, Passes(8)) == [rows[:2], rows[2:4], rows[4:]]
    assert parts_of(rows, Passes(100)) == [rows]
    assert parts_of(rows, Passes(8, shared=False)) == [rows[:2], rows[2:3], rows[3:]]
    assert smaller(Passes(100, shared=False), rows) == Passes(6, shared=False)


def test_passes_are_the_configs_or_what_fits(tiny: Base) -> None:
    assert plan_passes(CONFIG.distill, tiny, 100) == Passes(2048, shared=False)
    own = load_config("smoke", ["distill.micro_tokens=77"], env={})
    assert plan_passes(own.distill, tiny, 100) == Passes(77, shared=False)

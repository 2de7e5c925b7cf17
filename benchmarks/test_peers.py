"""Our losses and LoRA gradients against TRL 1.16's on the same rollouts (`make check-peers`).

TRL's own loss functions get dense logits of padded sequences; ours is the trainer's update: packed rows, the chunked
output layer, and micro-batches. Float32, the random two-layer model, a student that has moved since it sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.sdft.sdft_trainer import DistillationLogits, SDFTTrainer

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.training import as_teacher, remove_lora, student_adapter, with_lora
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import Collected, collect
from gepa_loop.training.head.divergence import divergence
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import plan_passes
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import update

PROMPT = "Answer with one number."


@dataclass(frozen=True)
class Outcome:
    loss: float
    gradients: dict[str, Tensor]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", env={}))


def both(lab: Lab, config: Config, peer: Any) -> tuple[Outcome, Outcome]:
    """Loss and gradients of our update and of `peer(logits, collected, padded logprobs)` on the same rollouts."""
    model = with_lora(lab.base, config.lora, 1, None)
    try:
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        disturb(trained, 0.3, seed=2)
        teacher = open_teacher(lab.under(config), model, PROMPT)
        collected = collect(config, lab.rollouts.by(student_adapter(model)), teacher, None, 0)
        disturb(trained, 0.02, seed=3)  # the student moves on, so that importance ratios are not 1
        start = {name: p.detach().clone() for name, p in trained.items()}

        optimizer = make_optimizer(config.distill, list(trained.values()))
        forward = open_forward(lab.base.model, list(trained.values()))
        turn, passes = (
            Turn(config, Trainee(optimizer, teacher), collected),
            plan_passes(config.distill, lab.base, 0),
        )
        done = update(turn, Reader(lab.base, forward), passes, Clock(lab.base.device))
        ours = Outcome(done.loss, {n: p.grad.clone() for n, p in trained.items() if p.grad is not None})

        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(start[name])
        # The parameters' gradients are parts of the optimiser's one, and would stay if that were dropped.
        optimizer.zero_grad(set_to_none=False)
        student = padded_logits(lab, collected, NO_PROMPT)
        with torch.no_grad(), as_teacher(model):
            prompted = padded_logits(lab, collected, PROMPT)
        loss = peer(student, prompted, collected)
        loss.backward()
        theirs = Outcome(loss.item(), {n: p.grad.clone() for n, p in trained.items() if p.grad is not None})
    finally:
        remove_lora(model)
    return ours, theirs


def disturb(parameters: dict[str, torch.nn.Parameter], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def padded_logits(lab: Lab, collected: Collected, prompt: str) -> Tensor:
    """Logits [C, T, V] at the completion's positions: prompts padded on the left, completions on the right."""
    rows = [
        (lab.rollouts.renderer.tokens(prompt, one.item), list(completion.token_ids))
        for one in collected.drawn
        for completion in one.completions
    ]
    before, after = max(len(p) for p, _ in rows), max(len(c) for _, c in rows)
    ids = torch.zeros(len(rows), before + after, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (head, tail) in enumerate(rows):
        ids[row, before - len(head) : before + len(tail)] = torch.tensor(head + tail)
        mask[row, before - len(head) : before + len(tail)] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits: Tensor = lab.base.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return logits[:, before - 1 : -1]


def padded(lengths: Sequence[int], values: Sequence[float]) -> Tensor:
    """Values of all tokens as [C, T], 0 behind a completion's end."""
    out, flat = torch.zeros(len(lengths), max(lengths)), iter(values)
    for row, length in enumerate(lengths):
        for column in range(length):
            out[row, column] = next(flat)
    return out


def sdft(args: dict[str, Any]) -> Any:
    """TRL's SDFTTrainer loss with these settings."""

    def loss(student: Tensor, teacher: Tensor, collected: Collected) -> Tensor:
        lengths = collected.batch.lengths_C.tolist()
        ids = padded(lengths, [t for c in collected.completions for t in c.token_ids]).long()
        mask = padded(lengths, [1.0] * sum(lengths))
        mask[:, : args["num_loss_tokens_to_skip"]] = 0
        trainer = SimpleNamespace(
            args=SimpleNamespace(**args),
            accelerator=SimpleNamespace(gather=lambda tensor: tensor),
            _log_self_distillation_metric=lambda mode, value: None,
        )
        inputs = {"old_per_token_logps": padded(lengths, collected.batch.old_logprob_N.tolist())}
        model = SimpleNamespace(training=True)
        found: Tensor = SDFTTrainer._compute_self_distillation_loss(
            trainer, model, inputs, DistillationLogits(ids, mask, student, teacher)
        )
        return found

    return loss


def same(ours: Outcome, theirs: Outcome) -> None:
    print(f"loss {ours.loss:.7f} {theirs.loss:.7f}", end="  ")
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert ours.gradients.keys() == theirs.gradients.keys()
    largest = max(g.abs().max().item() for g in theirs.gradients.values())
    gap = max((ours.gradients[n] - g).abs().max().item() for n, g in theirs.gradients.items())
    print(f"largest gradient {largest:.3e}, largest difference {gap:.1e}")
    assert largest > 1e-4 and gap < 1e-4 * largest


COMMON = "distill.max_norm=1e9", "distill.micro_tokens=200", "objective.normalise=sequence"
SETTINGS: dict[str, Any] = {
    "distillation_topk": None,
    "distillation_add_tail": True,
    "distillation_is_clip": None,
    "num_loss_tokens_to_skip": 0,
}


@pytest.mark.parametrize("clip", [None, 0.98])
@pytest.mark.parametrize(
    ("kind", "alpha"), [("reverse_kl", 1.0), ("forward_kl", 0.0), ("jsd", 0.5), ("jsd", 0.1)]
)
@pytest.mark.parametrize("top_k", [None, 20])
def test_sdft_full_and_top_k(
    lab: Lab, kind: str, alpha: float, top_k: int | None, clip: float | None
) -> None:
    sets = [*COMMON, f"objective.divergence={kind}", f"objective.beta={alpha}", "objective.skip_tokens=1"]
    sets += [f"objective.top_k={top_k}"] * bool(top_k) + [f"objective.ratio_cap={clip}"] * bool(clip)
    args = {
        **SETTINGS,
        "distillation_mode": "topk_logits" if top_k else "full_logits",
        "distillation_topk": top_k,
        "distillation_alpha": alpha,
        "distillation_is_clip": clip,
        "num_loss_tokens_to_skip": 1,
    }
    same(*both(lab, load_config("smoke", sets, env={}), sdft(args)))


@pytest.mark.parametrize("clip", [1e6, 0.98])
def test_sdft_sampled_token(lab: Lab, clip: float) -> None:
    sets = [*COMMON, "objective.type=token_kl", "objective.student=trainer", f"objective.ratio_cap={clip}"]
    config = load_config("smoke", ["objective.type=token_kl", *sets], env={})
    args = {
        **SETTINGS,
        "distillation_mode": "sampled_token",
        "distillation_alpha": 1.0,
        "distillation_is_clip": clip,
    }
    same(*both(lab, config, sdft(args)))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gkd_jsd(lab: Lab, beta: float) -> None:
    sets = [
        "distill.max_norm=1e9",
        "distill.micro_tokens=200",
        "objective.divergence=jsd",
        f"objective.beta={beta}",
    ]

    def peer(student: Tensor, teacher: Tensor, collected: Collected) -> Tensor:
        lengths = collected.batch.lengths_C.tolist()
        labels = (padded(lengths, [1.0] * sum(lengths)) - 1).long() * 100  # -100 where nothing is
        loss: Tensor = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta)
        return loss

    same(*both(lab, load_config("smoke", sets, env={}), peer))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_divergence_equals_gkds(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 50, generator=generator, dtype=torch.float64)
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(student, teacher, "jsd", beta), theirs, rtol=1e-6, atol=1e-9)
    assert math.isfinite(theirs.sum().item())

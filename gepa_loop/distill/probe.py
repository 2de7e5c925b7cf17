"""How distillable a prompt is, without training: one reading of the student's own completions with the prompt.

The final gain of a distillation is close to linear in the teacher's initial lead (arXiv 2605.30070), and what on-policy
distillation can move at first is what the student does already. So two numbers of the model's completions without a
prompt: how far the prompted model's distribution is from the one that made them, and how much better they would score
if they came as often as the prompted model would write them. Probabilities are those at temperature 1, also where the
completions are sampled at another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gepa_loop.distill.batch import Group, completion_tokens, micro_batches
from gepa_loop.distill.collect import items_of_step
from gepa_loop.distill.head.chunked import Dense, token_stats
from gepa_loop.distill.passes import plan_passes
from gepa_loop.lab import Lab
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import as_teacher, remove_lora, with_lora
from gepa_loop.model.packed import pack
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.batches import shared_length
from gepa_loop.task.prompts import NO_PROMPT

PER_ITEM = 4
"""Completions of each item, among which the prompted model may prefer some."""


@dataclass(frozen=True)
class Distillability:
    """The prompted model against the bare one, on the bare one's completions."""

    divergence: float
    """KL(bare || prompted) in nats, mean over completion tokens."""
    gain: float
    """Score of the completions weighted by the prompted model's likelihood within each item, less their plain mean."""


def probe_size(rollouts: int) -> int:
    """Completions that prompts are measured on where `optimize.probe_rollouts` is `rollouts`: whole items, one at least."""
    return max(1, rollouts // PER_ITEM) * PER_ITEM


def open_probe(lab: Lab, stack: Adapter | None) -> Callable[[str], Distillability]:
    """What measures prompts for base + `stack`; its completions are sampled when it is first called.

    The teacher is the same model with the prompt, whatever `teacher.kind` is.
    """
    config, rollouts = lab.config, lab.rollouts.by(stack)
    items = items_of_step(
        lab.task.splits["train"],
        rollouts.round,
        probe_size(config.optimize.probe_rollouts) // PER_ITEM,
        config.seed,
    )
    # Greedily an item's completions would be one and the same, and nothing could be preferred.
    sampling = Sampling(config.sampling.temperature or 1.0, config.sampling.max_tokens)
    bare = [tuple(tokens) for tokens in rollouts.renderer.all_tokens(NO_PROMPT, items)]
    drawn: list[tuple[tuple[int, ...], ...]] = []
    scores: list[float] = []

    def probe(prompt: str) -> Distillability:
        if not drawn:
            flat = rollouts.sample(bare, items, PER_ITEM, sampling, "probe")
            drawn.extend(
                tuple(c.token_ids for c in flat[n : n + PER_ITEM]) for n in range(0, len(flat), PER_ITEM)
            )
            scores.extend(row.score for row in rollouts.scored(items, flat))
        # What follows are forward passes of the size of training, which need the memory.
        rollouts.sampler.sleep()
        prompted = [tuple(tokens) for tokens in rollouts.renderer.all_tokens(prompt, items)]
        shared = shared_length(prompted)
        groups = [
            Group(own, read[shared:], completions)
            for own, read, completions in zip(bare, prompted, drawn, strict=True)
        ]
        with _stacked(lab, stack):
            kl_N, ratio_N = _read(lab, groups, prompted[0][:shared])
        lengths = [len(completion) for completions in drawn for completion in completions]
        ratio_C = torch.stack([part.sum() for part in torch.split(ratio_N, lengths)])
        return Distillability(float(kl_N.mean()), likelihood_gain(ratio_C, torch.tensor(scores), PER_ITEM))

    return probe


def likelihood_gain(ratio_C: Tensor, score_C: Tensor, group: int) -> float:
    """By how much a reweighting of each group's completions raises their mean score.

    Args:
        ratio_C: Log of how much likelier each completion is after than before.
        score_C: Its score.
        group: Completions of each item, one after the other.
    """
    # Importance weights normalised over the few completions of an item: no more than the best of them can be gained.
    weight_IG = ratio_C.view(-1, group).softmax(-1)
    score_IG = score_C.view(-1, group)
    return float(((weight_IG * score_IG).sum(-1) - score_IG.mean(-1)).mean())


@torch.no_grad()
def _read(lab: Lab, groups: Sequence[Group], shared: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of each completion token, on the CPU: KL(bare || prompted), and the log of how much likelier the prompt makes it."""
    model, device = lab.base.model, lab.base.device
    head = model.get_output_embeddings().weight
    prefix = read_prefix(model, shared)
    longest = len(shared) + max(len(g.student_prompt) + len(g.teacher_prompt) + g.tokens for g in groups)
    kl, ratio = [], []
    for part in micro_batches(groups, plan_passes(lab.config.distill, lab.base, longest).tokens):
        completions = [group.completions for group in part]
        asks = pack([group.teacher_prompt for group in part], completions, prefix.length, device)
        plain = pack([group.student_prompt for group in part], completions, 0, device)
        stats = token_stats(
            hidden_states(model, plain, Prefix()),
            head,
            completion_tokens(part, device),
            Dense(hidden_states(model, asks, prefix), head),
        )
        kl.append(stats.reverse_kl_N.cpu())
        ratio.append((stats.teacher_logprob_N - stats.logprob_N).cpu())
    return torch.cat(kl), torch.cat(ratio)


@contextmanager
def _stacked(lab: Lab, stack: Adapter | None) -> Iterator[None]:
    """Within the block the base computes with the earlier rounds' adapters."""
    if stack is None:
        yield
        return
    # Any seed: `as_teacher` leaves the new student out.
    model = with_lora(lab.base, lab.config.lora, 0, stack)
    try:
        with as_teacher(model):
            yield
    finally:
        remove_lora(model)

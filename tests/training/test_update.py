"""One step's updates against plain forward passes: which distribution is trained, and from when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.training import as_teacher, remove_lora, student_adapter, teacher_adapter, with_lora
from gepa_loop.run.files import read_jsonl
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import Collected, collect
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import plan_passes
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.trainer import distill
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import Updated, update

PROMPT = "Answer with one number."


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    """About half of the random model's replies score."""
    plain = open_lab(smoke())
    task = replace(plain.task, scorer=each(lambda one: (float(sum(map(ord, one.reply)) % 2), "")))
    return replace(plain, task=task, rollouts=replace(plain.rollouts, task=task))


@dataclass(frozen=True)
class Stage:
    """A student that has sampled and then moved, before its update."""

    lab: Lab
    config: Config
    model: Any
    teacher: Any
    trained: list[Any]
    collected: Collected

    def update(self, updates: int = 0) -> Updated:
        config, base = self.config, self.lab.base
        forward, passes = open_forward(base.model, self.trained), plan_passes(config.distill, base, 0)
        optimizer = make_optimizer(config.distill, self.trained)
        clock = Clock(base.device)
        turn = Turn(config, Trainee(optimizer, self.teacher), self.collected, updates)
        return update(turn, Reader(base, forward), passes, clock)

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.trained])

    def logits(self, prompt: str) -> list[Tensor]:
        """Of each completion [T, V], one plain forward for each."""
        found = []
        for drawn in self.collected.drawn:
            start = self.lab.rollouts.renderer.tokens(prompt, drawn.item)
            for completion in drawn.completions:
                ids = torch.tensor([[*start, *completion.token_ids]])
                found.append(self.lab.base.model(input_ids=ids).logits[0, len(start) - 1 : -1])
        return found

    def logprobs(self, prompt: str, temperature: float) -> Tensor:
        """Of each sampled token, [N]."""
        picked = [
            (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
            for logits, c in zip(self.logits(prompt), self.collected.completions, strict=True)
        ]
        return torch.cat(picked)


@pytest.fixture
def stage(lab: Lab) -> Iterator[Callable[..., Stage]]:
    models = []

    def make(*sets: str, moved: float = 0.0) -> Stage:
        config = smoke("distill.max_norm=1e9", "distill.micro_tokens=200", "distill.lr=0.01", *sets)
        under = replace(lab, config=config)
        model = with_lora(lab.base, config.lora, 1, None)
        models.append(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        disturb(trained, 0.3, 2)
        teacher = open_teacher(under, model, PROMPT)
        collected = collect(config, lab.rollouts.by(student_adapter(model)), teacher, None, 0)
        disturb(trained, moved, 3)
        return Stage(under, config, model, teacher, trained, collected)

    yield make
    for model in models:
        remove_lora(model)


def disturb(parameters: list[Any], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def task_advantage(stage: Stage) -> Tensor:
    """Reward minus its group's mean, token by token; some of it is not 0."""
    batch = stage.collected.batch
    mean_C = batch.reward_C.view(-1, stage.config.distill.group).mean(1)[batch.groups_C]
    advantage = (batch.reward_C - mean_C)[batch.owner_N]
    assert advantage.abs().max() > 0.2
    return advantage


def token_kl(stage: Stage, own: Tensor, teacher: Tensor) -> Tensor:
    return -((teacher - own.detach()) * own).mean()


def sequence_kl(stage: Stage, own: Tensor, teacher: Tensor) -> Tensor:
    batch, group = stage.collected.batch, stage.config.distill.group
    gap = teacher - own.detach()
    sums = torch.stack([gap[batch.owner_N == c].sum() for c in range(len(batch.lengths_C))])
    centred = sums - sums.view(-1, group).mean(1)[batch.groups_C]
    return -(centred[batch.owner_N] * own).mean()


def grpo(stage: Stage, own: Tensor, teacher: Tensor) -> Tensor:
    """The reference is the base without a prompt."""
    with torch.no_grad(), as_teacher(stage.model):
        base = stage.logprobs(NO_PROMPT, stage.config.sampling.temperature)
    gap = base - own
    ratio = (own - own.detach()).exp()
    return (0.2 * (gap.exp() - gap - 1) - task_advantage(stage) * ratio).mean()


def hybrid(stage: Stage, own: Tensor, teacher: Tensor) -> Tensor:
    """The divergence at a temperature of its own."""
    with torch.no_grad(), as_teacher(stage.model):
        theirs = [logits.div(1.3).log_softmax(-1) for logits in stage.logits(PROMPT)]
    mine = [logits.div(1.3).log_softmax(-1) for logits in stage.logits(NO_PROMPT)]
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(mine, theirs, strict=True)])
    return (kl - task_advantage(stage) * own).mean()


def minillm(stage: Stage, own: Tensor, teacher: Tensor) -> Tensor:
    """The mean log-ratio of what follows a token, whitened; the token's own over the whole vocabulary."""
    batch, temperature = stage.collected.batch, stage.config.sampling.temperature
    gap, after = (teacher - own).detach(), []
    for c in range(len(batch.lengths_C)):
        mine = gap[batch.owner_N == c]
        after += [mine[n + 1 :].mean() if n + 1 < len(mine) else torch.zeros(()) for n in range(len(mine))]
    advantage = torch.stack(after)
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    with torch.no_grad(), as_teacher(stage.model):
        theirs = [logits.div(temperature).log_softmax(-1) for logits in stage.logits(PROMPT)]
    mine_V = [logits.div(temperature).log_softmax(-1) for logits in stage.logits(NO_PROMPT)]
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(mine_V, theirs, strict=True)])
    return (kl - advantage * own).mean()


MINILLM = (
    "objective.type=token_kl",
    "objective.discount=1",
    "objective.length_normalise=true",
    "objective.single_step=true",
    "objective.centre=whiten",
)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(
    ("sets", "formula"),
    [
        (MINILLM, minillm),
        (("objective.type=token_kl",), token_kl),
        (("objective.type=sequence_kl",), sequence_kl),
        (("objective.type=grpo", "objective.reward_std=false", "objective.kl_tau=0.2"), grpo),
        (("objective.adv_tau=1", "objective.temperature=1.3"), hybrid),
    ],
)
def test_gradients_are_of_the_distribution_that_was_sampled_from(
    stage: Callable[..., Stage], sets: tuple[str, ...], formula: Callable[..., Tensor], temperature: float
) -> None:
    here = stage(*sets, f"sampling.temperature={temperature}")
    with torch.no_grad(), as_teacher(here.model):
        teacher = here.logprobs(PROMPT, temperature)
    expected = formula(here, here.logprobs(NO_PROMPT, temperature), teacher)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(expected, here.trained)])
    done = here.update()
    assert done.loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(here.gradient(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert done.found.log_ratio_N.abs().max() < 1e-4


def test_at_another_temperature_the_gradient_would_be_another(stage: Callable[..., Stage]) -> None:
    """The mistake that the test above is about: log-probabilities at temperature 1 of tokens sampled at .5."""
    gradients = []
    for temperature in (0.5, 1.0):
        here = stage("objective.type=token_kl", "sampling.temperature=0.5")
        with torch.no_grad(), as_teacher(here.model):
            teacher = here.logprobs(PROMPT, temperature)
        value = token_kl(here, here.logprobs(NO_PROMPT, temperature), teacher)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, here.trained)]))
        remove_lora(here.model)
    assert torch.cosine_similarity(*gradients, dim=0) < 0.95


def test_what_the_ratio_is_over(stage: Callable[..., Stage]) -> None:
    """A student that moved between sampling and training: the sampler's ratio sees it, the trainer's does not (SkyRL)."""
    plain = "objective.type=token_kl"
    sampler = stage(plain, moved=0.05)
    done = sampler.update()
    present = sampler.collected.batch.old_logprob_N + done.found.log_ratio_N
    torch.testing.assert_close(present, done.stats.logprob_N, atol=1e-4, rtol=1e-4)
    assert done.found.log_ratio_N.abs().max() > 0.01
    remove_lora(sampler.model)

    trainer = stage(plain, "objective.old=trainer", moved=0.05)
    with torch.no_grad(), as_teacher(trainer.model):
        teacher = trainer.logprobs(PROMPT, 1.0)
    own = trainer.logprobs(NO_PROMPT, 1.0).detach()
    done = trainer.update()
    assert done.found.log_ratio_N.abs().max() < 1e-4
    torch.testing.assert_close(done.advantage_N, teacher - own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sets", [("objective.old=trainer",), ("sampling.temperature=0.5",)], ids=str)
def test_the_ratio_of_a_later_update_is_over_the_student_before_the_step(
    stage: Callable[..., Stage], sets: tuple[str, ...]
) -> None:
    here = stage("objective.type=token_kl", "distill.updates=2", *sets)
    temperature = here.config.sampling.temperature
    before = here.logprobs(NO_PROMPT, temperature).detach()
    done = here.update()
    # What the second update saw is the student after the first; what the first saw, the one before it.
    half = sum(group.tokens for group in here.collected.groups[:1])
    assert done.found.log_ratio_N[:half].abs().max() < 1e-4 < done.found.log_ratio_N[half:].abs().max()
    torch.testing.assert_close(
        before + done.found.log_ratio_N, done.stats.policy_logprob_N, atol=1e-4, rtol=1e-4
    )


def test_the_mismatch_is_measured_at_temperature_1(lab: Lab, tmp_path: Path) -> None:
    """Where the sampler's log-probabilities are, whatever the ratios are made of."""
    for objective in ("token_kl", "full_kl"):
        config = smoke(
            f"objective.type={objective}", "sampling.temperature=0.5", "distill.steps=1", "distill.rollouts=8"
        )
        distill(
            lab.under(config),
            Candidate(PROMPT),
            tmp_path / objective,
            stack=None,
            before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
            progress=lambda row: None,
        )
        (row,) = read_jsonl(tmp_path / objective / "metrics.jsonl")
        assert 0 <= row["mismatch_kl"] < 1e-9 and row["geo_ratio"] == pytest.approx(1, abs=1e-4)


def test_a_following_teacher_moves_once_a_step(stage: Callable[..., Stage]) -> None:
    here = stage("teacher.kind=ema", "teacher.rate=0.25", "distill.updates=2")
    before = teacher_adapter(here.model).tensors
    here.update()
    after, student = teacher_adapter(here.model).tensors, student_adapter(here.model).tensors
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, 0.25 * student[name] + 0.75 * before[name])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_the_rate_goes_on_where_the_steps_before_ended(stage: Callable[..., Stage]) -> None:
    """The first step of a fresh AdamW is as long as its rate is high; in a warm-up the fifth is five times the first."""
    here, lengths = stage("distill.warmup=10"), []
    before = [p.detach().clone() for p in here.trained]
    for taken in (0, 4):
        here.update(taken)
        moves = [p.detach() - old for p, old in zip(here.trained, before, strict=True)]
        lengths.append(float(torch.cat([move.flatten() for move in moves]).norm()))
        with torch.no_grad():
            for parameter, old in zip(here.trained, before, strict=True):
                parameter.copy_(old)
    assert lengths[1] == pytest.approx(5 * lengths[0], rel=1e-3)


def test_a_live_teacher_is_the_student_of_this_update(stage: Callable[..., Stage]) -> None:
    """Its cached prompt is read anew after each update, not once a step."""
    here = stage("teacher.kind=live", "distill.updates=2", "distill.lr=0.05")
    here.teacher.read(here.collected.groups[:1], here.lab.base.device)  # caches the prompt's past
    optimizer_moves = here.update()
    assert optimizer_moves.grad_norm > 0
    found = here.teacher.logprobs(here.collected.groups, here.lab.base.device, 1.0)
    torch.testing.assert_close(found, here.logprobs(PROMPT, 1.0).detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["objective.type=token_kl", "distill.group=1", "distill.rollouts=4"],
            "greedy completions have none",
        ),
        (["objective.token_mask=[0.5, 2]", "distill.group=1"], "greedy completions have none"),
    ],
)
def test_a_policy_gradient_needs_samples(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        smoke("sampling.temperature=0", *sets)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["objective.type=token_kl", "objective.old=sampler"], "its log-probabilities are of temperature 1"),
        (["objective.type=token_kl", *["teacher.kind=server"]], "sampling.temperature = 0.5: teacher.kind"),
        (["objective.temperature=1.1", "teacher.kind=server"], "objective.temperature = 1.1: teacher.kind"),
        (["objective.type=token_kl", "objective.single_step=true"], "set discount above 0"),
        (
            [
                "objective.type=token_kl",
                "objective.single_step=true",
                "objective.discount=1",
                "objective.student_tau=2",
            ],
            "to be equal",
        ),
        (["objective.type=grpo", "objective.reward=[1, 0]"], "must be the higher one"),
    ],
)
def test_what_contradicts_itself_is_refused(sets: list[str], message: str) -> None:
    server = ["teacher.url=http://127.0.0.1:1", "teacher.name=x"] * ("teacher.kind=server" in sets)
    with pytest.raises(ConfigError) as caught:
        smoke("sampling.temperature=0.5", *sets, *server)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "objective", "more"),
    [
        (
            "opsd",
            {"divergence": "forward_kl", "clip": 0.05, "temperature": 1.1, "top_k": None},
            ("sampling.temperature=1.1", "distill.lr=5e-6", "distill.max_norm=0.1"),
        ),
        (
            "minillm",
            {"discount": 1.0, "length_normalise": True, "single_step": True, "centre": "whiten"},
            ("distill.lr=5e-6", "objective.normalise=token"),
        ),
        ("dapo", {"reward": (-1.0, 1.0), "clip": (0.2, 0.28), "overlong": 3}, ("distill.weight_decay=0.1",)),
        ("skyrl", {"old": "trainer", "student": "sampler", "discount": 0.0}, ("distill.updates=1",)),
        ("gkd", {"divergence": "jsd", "beta": 0.5, "temperature": 1.0}, ("sampling.temperature=0.9",)),
        (
            "grpo-deepseek",
            {"clip": (1.0, 10.0), "kl_tau": 0.001, "normalise": "sequence"},
            # Below 16 updates of one step's rollouts the ratio would be 1, and the clip nothing.
            ("distill.rollouts=8192", "distill.group=16", "distill.updates=16", "distill.lr=3e-6"),
        ),
        (
            "justrl",
            {"clip": (0.2, 0.28), "kl_tau": 0.0, "overlong": 0},
            ("distill.rollouts=2048", "distill.updates=4", "distill.weight_decay=0.1", "distill.warmup=40"),
        ),
        ("opcd", {"divergence": "reverse_kl", "top_k": 256}, ("distill.rollouts=128", "distill.lr=5e-6")),
        (
            "sdft",
            {"divergence": "jsd", "top_k": 100, "ratio_cap": 2.0, "normalise": "sequence"},
            ("teacher.kind=ema", "teacher.rate=0.05"),
        ),
        ("tinker", {"student": "sampler", "discount": 0.0}, ("lora.rank=128", "distill.rollouts=4096")),
    ],
)
def test_presets_are_what_their_sources_are(
    preset: str, objective: dict[str, Any], more: tuple[str, ...]
) -> None:
    config = load_config(preset, env={})
    found = config.objective.model_dump()
    assert {key: found[key] for key in objective} == objective
    assert config == load_config(preset, more, env={})  # those are its values already


def test_rewards_of_dapo(lab: Lab) -> None:
    """A wrong reply is worth -1, so that a whole penalty is half of what a right one is above it."""
    sets = "objective.type=grpo", "objective.reward=[-1, 1]", "objective.overlong=4", "sampling.max_tokens=8"
    model = with_lora(lab.base, smoke().lora, 0, None)
    try:
        found = collect(smoke(*sets), lab.rollouts.by(student_adapter(model)), None, None, 0)
    finally:
        remove_lora(model)
    scores = [score for drawn in found.drawn for score in drawn.scores]
    expected = [
        2 * score - 1 - max(0, length - 4) / 4
        for score, length in zip(scores, found.batch.lengths_C.tolist(), strict=True)
    ]
    assert found.batch.reward_C.tolist() == pytest.approx(expected)
    assert 0 < sum(scores) < len(scores)

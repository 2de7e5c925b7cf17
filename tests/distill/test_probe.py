"""Distillability against plain forward passes of the model, one sequence at a time."""

import zlib
from dataclasses import replace

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.distill.collect import items_of_step
from gepa_loop.distill.probe import PER_ITEM, likelihood_gain, open_probe
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Sampling
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.task.scorers import each

PROMPT = "Answer with one number, the least common multiple."


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", ["optimize.probe_rollouts=12"], env={}))


def logprobs(lab: Lab, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[T, V] of one sequence."""
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits = lab.base.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def by_hand(lab: Lab, prompt: str) -> tuple[float, torch.Tensor]:
    """The mean KL(bare || prompted) of a token, and each completion's log-likelihood ratio."""
    rollouts, items = lab.rollouts, items_of_step(lab.task.splits["train"], 0, 3, lab.config.seed)
    drawn = rollouts.completions(NO_PROMPT, items, PER_ITEM, Sampling(1.0, 8), "probe")
    kls, ratios = [], []
    for n, completion in enumerate(drawn):
        item, tokens = items[n // PER_ITEM], list(completion.token_ids)
        bare = logprobs(lab, rollouts.renderer.tokens(NO_PROMPT, item), tokens)
        asked = logprobs(lab, rollouts.renderer.tokens(prompt, item), tokens)
        kls += (bare.exp() * (bare - asked)).sum(-1).tolist()
        ratios.append(float((asked - bare)[range(len(tokens)), tokens].sum()))
    return sum(kls) / len(kls), torch.tensor(ratios)


def test_the_divergence_is_that_of_plain_forward_passes(lab: Lab) -> None:
    probe = open_probe(lab, None)
    expected, _ = by_hand(lab, PROMPT)
    found = probe(PROMPT)
    assert expected > 0.01 and found.divergence == pytest.approx(expected, rel=1e-4)
    assert probe(PROMPT) == found
    assert probe("Another one.").divergence != found.divergence


def test_no_prompt_no_divergence(lab: Lab) -> None:
    found = open_probe(lab, None)(NO_PROMPT)
    assert found.divergence == pytest.approx(0.0, abs=1e-6) and found.gain == pytest.approx(0.0, abs=1e-6)


def test_earlier_rounds_are_part_of_both_sides(lab: Lab) -> None:
    model = with_lora(lab.base, lab.config.lora, 0, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    stack: Adapter = student_adapter(model)
    remove_lora(model)
    without = open_probe(lab, None)(PROMPT)
    with_stack = open_probe(lab, stack)(PROMPT)
    assert with_stack.divergence != pytest.approx(without.divergence, rel=0.05)
    assert not hasattr(lab.base.model, "peft_config")
    assert open_probe(lab, None)(PROMPT) == without


def test_the_gain_is_what_the_teachers_preferences_make_of_the_scores() -> None:
    score = torch.tensor([1.0, 0.0, 0.0, 0.0])
    even = torch.zeros(4)
    assert likelihood_gain(even, score, 4) == pytest.approx(0.0)
    # The right one is three times likelier than before: 3 / 6 against 1 / 4.
    assert likelihood_gain(torch.tensor([3.0, 1.0, 1.0, 1.0]).log(), score, 4) == pytest.approx(0.25)
    assert likelihood_gain(torch.tensor([0.0, 50.0, 0.0, 0.0]), score, 4) == pytest.approx(-0.25)
    both = torch.cat([torch.tensor([3.0, 1.0, 1.0, 1.0]).log(), even])
    assert likelihood_gain(both, score.repeat(2), 4) == pytest.approx(0.125)
    # How likely a whole item has become does not matter.
    assert likelihood_gain(torch.full((4,), 7.0), score, 4) == pytest.approx(0.0)


def test_the_gain_is_of_the_bare_models_completions(lab: Lab) -> None:
    task = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    solved = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    found = open_probe(solved, None)(PROMPT)
    _, ratios = by_hand(lab, PROMPT)
    items = items_of_step(lab.task.splits["train"], 0, 3, lab.config.seed)
    drawn = lab.rollouts.completions(NO_PROMPT, items, PER_ITEM, Sampling(1.0, 8), "probe")
    scores = [row.score for row in solved.rollouts.scored(items, drawn)]
    assert 0 < sum(scores) < len(scores) and found.gain != 0
    assert found.gain == pytest.approx(likelihood_gain(ratios, torch.tensor(scores), PER_ITEM), abs=1e-4)

"""What a search may take, from measured prompt lengths and a timed sample, before anything is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gepa_loop.config.search import Aim, OptimizeConfig
from gepa_loop.config.tables import SamplingConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.batches import shared_length
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.search.propose.base import Example, Proposer, Quote
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate

SAMPLE_TOKENS = 64
"""Longest completion of the timed sample; longer ones are extrapolated."""

SAMPLE_READ = 4_096
"""Tokens to read in the timed sample, on the average: half a minute for a 135M model on two cores."""

FEEDBACK_TOKENS = 128
"""What the feedback on one example is taken to be at most."""


@dataclass(frozen=True)
class Plan:
    """Most that one search takes; `calls` is what it takes when every proposal is judged."""

    search_rollouts: int
    front_rollouts: int
    """Of the finalists on `select`, on top of `optimize.max_rollouts`; none where students decide."""
    question_tokens: float
    """Mean length of a rendered question without a prompt."""
    prompt_tokens: int
    """What the seed prompt adds to it."""
    completion_tokens: int
    """Longest completion."""
    calls: tuple[int, int]
    """Proposals when all are accepted, and when none is."""
    quote: Quote | None
    """The dearest proposal; None where proposals cost nothing."""
    seconds_each: float
    """Of one rollout, in a batch."""

    @property
    def rollouts(self) -> int:
        return self.search_rollouts + self.front_rollouts

    def lines(self, settings: OptimizeConfig) -> list[str]:
        """The plan for a person."""
        read = round(self.rollouts * (self.question_tokens + self.prompt_tokens))
        longest = round(self.rollouts * (self.question_tokens + settings.max_prompt_tokens))
        at_once = f", up to {settings.proposals} in an iteration" if settings.proposals > 1 else ""
        lines = [
            f"search: {read:,} tokens to read with the seed prompt's {self.prompt_tokens}, up to {longest:,} with prompts of "
            f"optimize.max_prompt_tokens = {settings.max_prompt_tokens:,}",
            f"proposals: {self.calls[0]} to {self.calls[1]}{at_once}, and more where some are refused unread",
        ]
        if self.quote is not None:
            each = f"up to {self.quote.input_tokens:,} tokens read and {self.quote.output_tokens:,} written"
            if self.quote.usd is None:
                cost = "litellm knows no price, so optimize.max_usd is not kept"
            else:
                cost = (
                    f"up to ${self.quote.usd:.2f}; {self.calls[1]} of them up to "
                    f"${self.calls[1] * self.quote.usd:.2f}, and the search ends before it passes "
                    f"optimize.max_usd = {settings.max_usd:g}"
                )
            lines.append(f"each proposal: {each}, {cost}")
        return lines


def plan_search(
    config: Config, rollouts: Rollouts, proposer: Proposer, seed_prompt: Candidate, aim: Aim
) -> Plan:
    """Measure what a search may take.

    Raises:
        ConfigError: `max_usd` is less than one proposal may cost, or `max_minutes` less than the rollouts take until
            one is judged.
        ProviderError: The reflection model cannot be used.
    """
    settings, splits = config.optimize, config.task.splits
    items = rollouts.task.splits["pareto"]
    full = rollouts.renderer.all_tokens(seed_prompt.text, items)
    prompt = rollouts.renderer.system_tokens(seed_prompt.text, items[0])
    quote = dearest_proposal(settings, rollouts, proposer, seed_prompt)
    left = settings.max_rollouts - splits.pareto * settings.samples
    judged = 2 * settings.minibatch * settings.samples
    accepted = judged + splits.pareto * settings.samples
    calls = max(1, left // accepted), max(1, left // judged)
    front = settings.max_front * splits.select * config.evaluate.samples if aim == "prompt" else 0
    each = seconds_a_rollout(settings, config.sampling, rollouts, seed_prompt)
    least = each * (splits.pareto + 2 * settings.minibatch) * settings.samples / 60
    if least > settings.max_minutes:
        raise ConfigError(
            f"optimize.max_minutes = {settings.max_minutes:g} allows no proposal: as a sample of rollouts ran, one is "
            f"judged after {least:.2g} minutes",
            f"Raise it to {least:.2g} or more, or lower task.splits.pareto, optimize.minibatch or optimize.samples.",
        )
    return Plan(
        search_rollouts=settings.max_rollouts,
        front_rollouts=front,
        question_tokens=sum(map(len, full)) / len(full) - prompt,
        prompt_tokens=prompt,
        completion_tokens=config.sampling.max_tokens,
        calls=calls,
        quote=quote,
        seconds_each=each,
    )


def seconds_a_rollout(
    settings: OptimizeConfig, sampling: SamplingConfig, rollouts: Rollouts, prompt: Candidate
) -> float:
    """Seconds that one completion of full length takes in a batch, from a timed sample after a warm-up."""
    tokens = min(SAMPLE_TOKENS, sampling.max_tokens)
    warm_up, timed = (Sampling(settings.temperature, most) for most in (min(2, tokens), tokens))
    items = sample_of(rollouts, prompt, sampling.batch)
    rollouts.completions(prompt.text, items, 1, warm_up, "plan")
    begun = time.perf_counter()
    found = rollouts.completions(prompt.text, items, 1, timed, "plan")
    seconds = time.perf_counter() - begun
    # Where all replies end early, they are taken to do so in the search as well.
    whole = all(one.finish_reason == "stop" for one in found)
    return seconds / len(items) * (1.0 if whole else sampling.max_tokens / tokens)


def sample_of(rollouts: Rollouts, prompt: Candidate, rows: int) -> list[Item]:
    """Items of `pareto` for a timed sample: all lengths in their shares, a batch at most, and few where they are long."""
    items = rollouts.task.splits["pareto"]
    lengths = rollouts.renderer.all_tokens(prompt.text, items)
    shared = shared_length(lengths)
    order = sorted(range(len(items)), key=lambda n: len(lengths[n]))
    mean = sum(len(one) - shared for one in lengths) / len(items)
    count = max(1, min(rows, len(items), int(SAMPLE_READ / mean)))
    # The middles of `count` equal stretches of the sorted items.
    return [items[order[(2 * n + 1) * len(items) // (2 * count)]] for n in range(count)]


def dearest_proposal(
    settings: OptimizeConfig, rollouts: Rollouts, proposer: Proposer, seed_prompt: Candidate
) -> Quote | None:
    """The dearest that a proposal may be: the longest prompt and questions, with excerpts of full length.

    Raises:
        ConfigError: It is more than `max_usd`.
        ProviderError: The reflection model cannot be used.
    """
    longest = sorted((item.question for item in rollouts.task.splits["train"]), key=len)
    longest_prompt = max(seed_prompt.text, "word " * settings.max_prompt_tokens, key=len)
    quote = proposer.quote(longest_prompt, _examples(longest[-settings.minibatch :], settings.excerpt_tokens))
    if quote is not None and quote.usd is not None and quote.usd > settings.max_usd:
        least = math.ceil(quote.usd * 100) / 100
        raise ConfigError(
            f"optimize.max_usd = {settings.max_usd:g} allows no proposal: one of {proposer.name} may cost ${quote.usd:.2f}",
            f"Raise it to {least:g} or more, or lower optimize.reflection.max_tokens, optimize.minibatch or "
            "optimize.excerpt_tokens.",
        )
    return quote


def _examples(questions: Sequence[str], tokens: int) -> list[Example]:
    return [
        {
            "Inputs": {"question": question},
            "Generated Outputs": {"answer": "word " * tokens},
            "Feedback": "word " * FEEDBACK_TOKENS,
        }
        for question in questions
    ]

"""A few items, answered without and with the prompt: what is read from each reply, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gepa_loop.config.tables import FILES, TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.lab import Lab
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import Row, mean_score
from gepa_loop.task.answers import open_thought
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.task.quantity import quantity
from gepa_loop.task.records import short
from gepa_loop.task.scorers import make_scorer

PURPOSE = "check"

LONGER = 8
"""Times `sampling.max_tokens` that cut replies are given to end."""
LONGEST = 1_024

EXTRACTS = ("tags", "boxed", "whole", "last_line", "last_number")
RULES = ("exact", "choice", "json", "includes")
"""What else is tried on the same replies: the strictest first, as the first of equals is suggested."""

LARGER = "model.name=NAME"
"""A larger one; which, a person says."""

BETTER = 0.2
"""By how much a mean must rise to be worth a suggestion: two items of ten."""


@dataclass(frozen=True)
class Tried:
    """An item and its two greedy replies."""

    item: Item
    bare: Row
    prompted: Row


@dataclass(frozen=True)
class Advice:
    """What a person may do, in words."""

    sentence: str
    sets: tuple[str, ...] = ()
    """Settings that it names."""


@dataclass(frozen=True)
class Trial:
    """What a few items showed."""

    tried: tuple[Tried, ...]
    scored: bool
    """Replies have scores, as the task has answers, or a scorer that needs none."""
    advice: tuple[Advice, ...]

    @property
    def suggestions(self) -> tuple[str, ...]:
        """All of the advice in words."""
        return tuple(one.sentence for one in self.advice)

    @property
    def sets(self) -> tuple[str, ...]:
        """Settings that are suggested; `LARGER`, for which a person names a model, where there is no other."""
        named = tuple(setting for one in self.advice for setting in one.sets)
        return tuple(setting for setting in named if setting != LARGER) or named

    @property
    def bare(self) -> float:
        """Mean score of the replies without a prompt."""
        return mean_score([one.bare for one in self.tried])

    @property
    def prompted(self) -> float:
        """Mean score of the replies with the prompt."""
        return mean_score([one.prompted for one in self.tried])


def try_items(lab: Lab, prompt: str, count: int) -> Trial:
    """Ask the first items of `train`, which decide nothing, without and with a prompt, greedily.

    Raises:
        ProviderError: The judge cannot be asked.
    """
    task, items = lab.task, lab.task.splits["train"][:count]
    scored = task.answers != "none"
    rollouts = lab.rollouts
    sampling = Sampling(0.0, lab.config.sampling.max_tokens)

    def rows(text: str) -> list[Row]:
        completions = rollouts.completions(text, items, 1, sampling, PURPOSE)
        if scored:
            return rollouts.scored(items, completions)
        return [
            Row(
                item.id,
                0,
                0.0,
                0.0,
                None,
                rollouts.renderer.reply(c.token_ids),
                len(c.token_ids),
                c.finish_reason,
                "",
            )
            for item, c in zip(items, completions, strict=True)
        ]

    bare, prompted = rows(NO_PROMPT), rows(prompt)
    tried = tuple(Tried(*one) for one in zip(items, bare, prompted, strict=True))
    trial = Trial(tried, scored, ())
    told = [*_cut(lab, prompt, tried, scored)]
    if scored:
        told += [*_read_otherwise(lab, trial)] or [*_headroom(lab, trial)]
    if len(tried) > 2 and len({one.prompted.completion for one in tried}) == 1:
        told.append(Advice(f"all {len(tried)} replies with the prompt are the same"))
    return replace(trial, advice=tuple(told))


def _cut(lab: Lab, prompt: str, tried: Sequence[Tried], scored: bool) -> Iterator[Advice]:
    """Where replies with the prompt are cut: how long they would be."""
    cut = [one for one in tried if one.prompted.finish_reason == "length"]
    if not cut:
        return
    now, renderer = lab.config.sampling.max_tokens, lab.rollouts.renderer
    said = f"{len(cut)} of {len(tried)} replies with the prompt are cut at sampling.max_tokens = {now}"
    thought = next(
        (m for one in cut if (m := open_thought(lab.rollouts.opening + one.prompted.completion))), ""
    )
    switch = "enable_thinking"
    if (
        thought
        and switch in str(renderer.tokenizer.chat_template)
        and switch not in lab.config.model.template
    ):
        setting = f"model.template.{switch}=false"
        yield Advice(f"{said}, inside a thought ({thought}): --set {setting}", (setting,))
        return
    items = [one.item for one in cut]
    longest = max(len(renderer.tokens(prompt, item)) for item in items)
    horizon = min(now * LONGER, LONGEST, renderer.context - longest)
    if horizon <= now:
        yield Advice(f"{said}, which is all that the context of {renderer.context:,} leaves")
        return
    again = lab.rollouts.completions(prompt, items, 1, Sampling(0.0, horizon), PURPOSE)
    ends = [len(one.token_ids) for one in again if one.finish_reason == "stop"]
    if not ends:
        yield Advice(
            f"{said}, and none ends within {horizon}: have the prompt ask for less, or see what they say"
        )
        return
    if scored:
        longer = mean_score(lab.rollouts.scored(items, again))
        if longer <= mean_score([one.prompted for one in cut]):
            yield Advice(
                f"{said}, and would be worth no more if they ended: the model does not give the answer alone"
            )
            return
    setting = f"sampling.max_tokens={8 * math.ceil(1.1 * max(ends) / 8)}"
    left = f"; {len(cut) - len(ends)} go on beyond {horizon}" if len(ends) < len(cut) else ""
    yield Advice(f"{said}; they end within {max(ends)} tokens{left}: --set {setting}", (setting,))


def _read_otherwise(lab: Lab, trial: Trial) -> Iterator[Advice]:
    """Whether the same replies are worth more, read or scored in another way."""
    config, task = lab.config.task, lab.task
    # Of files and datasets alone it is known that they bring no scorer.
    own = config.scorer is None and config.kind not in (*FILES, "hf")
    if task.judge is not None or own or ":" in (config.scorer or ""):
        return
    tried, now = trial.tried, trial.prompted
    found: list[tuple[float, int, TaskConfig]] = []
    # A reply that repeats the question, as `7 + 12 = ? 17`, may hold the right number by chance.
    numbers = all(quantity(item.answer) is not None for item in task.items if item.answer)
    for changed, update in _others(config):
        if numbers and update.scorer == "includes":
            continue
        try:
            scorer = make_scorer(update, task.items)
        except TaskError:  # answers that are no JSON, say
            continue
        other = replace(task, extract=update.extract, scorer=scorer)
        scores = other.score_all(
            [(one.item, one.prompted.completion, False) for one in tried], lab.rollouts.opening
        )
        found.append((sum(score.value for score in scores) / len(tried), -changed, update))
    if not found:
        return
    best, _, update = max(found, key=lambda one: one[:2])
    if best >= now + BETTER - 1e-9:
        sets = tuple(
            f"task.{key}={getattr(update, key)}"
            for key in ("extract", "scorer")
            if getattr(update, key) != (getattr(config, key) or "exact")
        )
        flags = " ".join(f"--set {one}" for one in sets)
        yield Advice(
            f"the same replies would have a mean of {best:.2f} instead of {now:.2f} with {flags}", sets
        )


def _others(config: TaskConfig) -> Iterator[tuple[int, TaskConfig]]:
    """(keys that differ, other settings): another way to read first, then another rule, then both."""
    now = config.scorer or "exact"
    for rule in (now, *RULES):
        for extract in (config.extract, *EXTRACTS):
            changed = (extract != config.extract) + (rule != now)
            if changed:
                yield changed, config.model_copy(update={"extract": extract, "scorer": rule})


def _headroom(lab: Lab, trial: Trial) -> Iterator[Advice]:
    """Whether the prompt changes anything that a student could learn."""
    tried = trial.tried
    answer, share = lab.task.commonest
    if trial.bare < trial.prompted < share:
        yield Advice(
            f"with the prompt these {len(tried)} items score {trial.prompted:.2f}, and always answering {short(answer, 40)!r} would score {share:.2f} of all: "
            f"the model hardly follows the prompt, and a student keeps no more than its prompt gives. A larger model follows better: --set {LARGER}",
            (LARGER,),
        )
        return
    if trial.prompted > trial.bare:
        return
    few = (
        f"on these {len(tried)} items the prompt scores {trial.prompted:.2f}, and no prompt {trial.bare:.2f}"
    )
    unread = sum(one.prompted.extracted is None for one in tried)
    if unread > len(tried) // 2:
        yield Advice(
            f"{few}: nothing can be read from {unread} of the replies with task.extract = {lab.config.task.extract}"
        )
    else:
        yield Advice(
            f"{few}: there is nothing to distil where that holds for all. Look at the replies: a larger model may follow the prompt "
            f"better (--set {LARGER}), and a search may find one that helps (`gepa-loop optimize`)",
            (LARGER,),
        )

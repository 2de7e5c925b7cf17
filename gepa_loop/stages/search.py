"""A search for prompts as the commands run it, and what it hands on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.search import Aim, ReflectionConfig
from gepa_loop.config.whole import set_aside
from gepa_loop.errors import ConfigError
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.seeds import derive_seed
from gepa_loop.scores.decision import best_prompt, level_of_round
from gepa_loop.scores.statistics import estimate, item_scores
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import scoring
from gepa_loop.task.prompts import Candidate

if TYPE_CHECKING:
    from gepa_loop.search.budget import Spent
    from gepa_loop.search.gepa import Found
    from gepa_loop.search.propose.base import Proposer
    from gepa_loop.search.record import Choice, Front
    from gepa_loop.search.records import FrontRow


@dataclass(frozen=True)
class Purpose:
    """What a search is for."""

    aim: Aim
    """For a prompt the front is scored afresh on `select`. For students it is not, as they are tested there."""
    number: int = 0
    """The round."""
    stack: Adapter | None = None
    """The earlier rounds' adapters, on top of which the prompts are to help."""

    @property
    def round(self) -> int | None:
        """As it is shown: a search for a prompt is of no round."""
        return self.number if self.aim == "student" else None


def search(lab: Lab, seed_prompt: Candidate, folder: Path, observer: Observer, purpose: Purpose) -> Front:
    """GEPA's search of a round, and what it hands on.

    `lab` is that of the round.

    For a prompt the finalists' rows on `select` go to `evaluate/<id>_prompted.jsonl` beside `folder`.
    """
    from gepa_loop.search.gepa import optimize
    from gepa_loop.search.plan import dearest_proposal
    from gepa_loop.search.programs import Aids
    from gepa_loop.search.record import pool_of, read_front, write_front

    number, stack = purpose.number, purpose.stack
    below = None if stack is None else stack.fingerprint
    if (folder / "result.json").exists():
        return read_front(folder, below)
    settings = lab.config.optimize
    observer.stage("optimize", round=purpose.round)
    proposer = open_proposer(lab, number)
    observer.note(f"reflection: {proposer.about}")
    quote = dearest_proposal(settings, lab.rollouts, proposer, seed_prompt)
    if quote is not None and quote.usd is None:
        observer.note(f"litellm knows no price of {proposer.name}: optimize.max_usd cannot be kept")

    def progress(spent: Spent) -> None:
        observer.progress(
            spent.rollouts, settings.max_rollouts, candidates=spent.proposals + 1, usd=spent.usd
        )

    dearest = 0.0 if quote is None else quote.usd or 0.0
    aids = Aids(proposer, progress, dearest)
    own_seed = derive_seed(lab.config.seed, "optimize", number)
    found = optimize(lab.config, lab.rollouts.by(stack), aids, seed_prompt, folder, own_seed)
    observer.note(f"stopped by {found.stop.reason}")
    if purpose.aim == "prompt":
        choice = _judged(lab, found, folder, observer, purpose)
    else:
        choice = pool_of(settings, lab.config.loop.front, found)
    return write_front(folder, found, choice, below)


def _judged(lab: Lab, found: Found, folder: Path, observer: Observer, purpose: Purpose) -> Choice:
    """Score the finalists on `select`, and compare them with the seed."""
    from gepa_loop.search.record import Choice, choose, finalists_of

    config, rows, by_item = lab.config, {}, {}
    final, asked = finalists_of(config.optimize, found), {}
    for row in final:
        path = folder.parent / "evaluate" / f"{row['id']}_prompted.jsonl"
        asked[row["id"]] = scoring(lab, "select", row["text"], purpose.stack, path)
    for row in final:
        observer.stage("front", round=purpose.round, candidate=row["id"])
        rows[row["id"]] = asked[row["id"]].rows(observer.progress)
        by_item[row["id"]] = item_scores(rows[row["id"]])
    first, *others = by_item
    level = level_of_round(config.loop.alpha, purpose.number)
    verdict = best_prompt(by_item[first], {id_: by_item[id_] for id_ in others}, level, config.seed)
    front: list[FrontRow] = [
        {
            **row,
            "select": estimate(by_item[row["id"]], config.seed).as_dict(),
            "against_seed": d.as_dict() if (d := verdict.differences.get(row["id"])) else None,
            "adjusted_p": verdict.adjusted_p.get(row["id"]),
        }
        for row in choose(config.optimize, final, rows, config.evaluate.samples, verdict.winner)
    ]
    return Choice(front, verdict.winner, verdict.reason, list(by_item))


def check_search(lab: Lab, seed_prompt: Candidate) -> None:
    """Find out, before anything is written or sampled, whether proposals can be asked for and paid.

    Raises:
        ProviderError: The key, the model or the network is missing or refused.
        ConfigError: `optimize.max_usd` is less than one proposal may cost.
    """
    from gepa_loop.search.plan import dearest_proposal

    text, settings = seed_prompt.text, lab.config.optimize
    if (tokens := lab.rollouts.renderer.prompt_tokens(text)) > settings.max_prompt_tokens:
        raise ConfigError(
            f"optimize.seed_prompt has {tokens} tokens, optimize.max_prompt_tokens is {settings.max_prompt_tokens}: "
            "hardly a proposal made from it could be accepted",
            f"Raise optimize.max_prompt_tokens to more than {tokens}, or shorten the seed prompt.",
        )
    proposer = open_proposer(lab, 0)
    proposer.check()
    dearest_proposal(lab.config.optimize, lab.rollouts, proposer, seed_prompt)


def open_proposer(lab: Lab, number: int) -> Proposer:
    """Who writes the prompts of round `number`."""
    from gepa_loop.search.propose.choose import make_proposer

    settings = lab.config.optimize
    return make_proposer(
        settings.reflection,
        proposer_name(settings.reflection),
        # A worked example shows an answer, which a task with a judge may lack.
        tuple(
            item
            for item in lab.task.splits["train"][: set_aside(settings, lab.config.task.splits)]
            if item.answer
        ),
        settings.max_prompt_tokens,
        derive_seed(lab.config.seed, "optimize", number),
    )


def proposer_name(settings: ReflectionConfig) -> str:
    """The reflection model, or `offline`; `auto` is resolved by whether ANTHROPIC_API_KEY is set."""
    if settings.model != "auto":
        return settings.model
    return settings.auto_model if os.environ.get("ANTHROPIC_API_KEY", "").strip() else "offline"

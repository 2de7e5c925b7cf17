"""Candidates' scores on items: sampled together, in few calls, and nothing twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from gepa_loop.config.whole import Config
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.joint import joint_begin, joint_parts
from gepa_loop.scores.rollouts import Rollouts, Row
from gepa_loop.search.frontier import Measured
from gepa_loop.search.journal import Journal
from gepa_loop.search.meter import Key, Meter
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate

PURPOSE = "gepa"
"""Names the random numbers of GEPA's rollouts, which all candidates share."""

Wanted = Sequence[tuple[Candidate, Sequence[Item]]]
"""Candidates and the items that they are asked; one may come several times, with other items or the same."""


class Scorer:
    """Has candidates answer items, and knows what came of it.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from.
        journal: What is paid for already.
    """

    def __init__(self, config: Config, rollouts: Rollouts, journal: Journal) -> None:
        self.settings = config.optimize
        self.sampling = Sampling(config.optimize.temperature, config.sampling.max_tokens)
        self.rollouts = rollouts
        self.journal = journal
        self.meter = Meter(journal)
        self._items_per_call = max(1, config.sampling.batch // config.optimize.samples)

    def score(self, wanted: Wanted) -> None:
        """Have a score of each candidate on each of its items, and count it."""
        self._sample(wanted, self.journal.scores)
        self.meter.count((prompt.id, item.id) for prompt, items in wanted for item in items)

    def read(self, wanted: Wanted) -> None:
        """Have the completions themselves, also where the scores are known and nothing else is left of them."""
        self._sample(wanted, self.journal.rows)

    def measured(self, prompt: Candidate, items: Sequence[Item]) -> Measured:
        """What is known of a prompt on items that it has been scored on."""
        return Measured(
            {item.id: self.mean(prompt, item) for item in items},
            {item.id: self.journal.tokens[prompt.id, item.id] for item in items},
            self.rollouts.renderer.prompt_tokens(prompt.text),
        )

    def mean(self, prompt: Candidate, item: Item) -> float:
        """Mean score of a candidate's samples of an item."""
        scores = self.journal.scores[prompt.id, item.id]
        return sum(scores) / len(scores)

    def _sample(self, wanted: Wanted, known: Mapping[Key, object]) -> None:
        """Sample and score what is not known, a part at a time, so that little is lost when the process dies."""
        missing: dict[str, dict[str, Item]] = {}
        for prompt, items in wanted:
            for item in items:
                if (prompt.id, item.id) not in known:
                    missing.setdefault(prompt.text, {})[item.id] = item
        grouped = {text: list(items.values()) for text, items in missing.items()}
        samples = self.settings.samples
        parts = joint_parts(self.rollouts, grouped, self._items_per_call, self.sampling.max_tokens)
        asked = [joint_begin(self.rollouts, pairs, samples, self.sampling, PURPOSE) for pairs in parts]
        for pairs, waiting in zip(parts, asked, strict=True):
            begun = time.perf_counter()
            rows = self.rollouts.scored([item for _, item in pairs], waiting())
            each = (time.perf_counter() - begun) / len(rows)
            own: dict[str, list[Row]] = {}
            for place, row in enumerate(rows):
                own.setdefault(pairs[place // samples][0], []).append(row)
            for text, theirs in own.items():
                self.journal.add_rows(Candidate(text).id, theirs, each * len(theirs))

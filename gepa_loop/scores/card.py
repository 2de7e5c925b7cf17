"""What rows say of a subject: its score, pass@k, the length of its replies, how many were cut; greedily and sampled.

A greedy reply is one of many that a served model may give, and the ranking of two students can be another among them. So
what is shown at the end is both; `evaluate.temperature` says which of the two decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gepa_loop.config.tables import EvaluateConfig
from gepa_loop.scores.records import CardRecord, ScoreRow
from gepa_loop.scores.statistics import ItemScores, estimate, item_scores

Way = Literal["greedy", "sampled"]
WAYS: tuple[Way, Way] = ("greedy", "sampled")


def ways(settings: EvaluateConfig) -> dict[Way, EvaluateConfig]:
    """How rows are drawn greedily and sampled: as `evaluate` says for the one that decides, else 4 at temperature 1."""
    greedy = EvaluateConfig(samples=1, temperature=0.0)
    return {"greedy": greedy, "sampled": EvaluateConfig() if settings.greedy else settings}


def decides(settings: EvaluateConfig) -> Way:
    """The way that selects prompts, checkpoints and students."""
    return "greedy" if settings.greedy else "sampled"


@dataclass(frozen=True)
class Replies:
    """A subject's rows on a split, one way."""

    rows: Sequence[ScoreRow]

    @property
    def scores(self) -> ItemScores:
        """Each item's mean over its samples."""
        return item_scores(self.rows)

    def card(self, seed: int) -> CardRecord:
        """A SCORE with more: samples of each item, share of items with a full score among them, mean tokens, share cut."""
        best: dict[str, float] = {}
        for row in self.rows:
            best[row["item"]] = max(best.get(row["item"], 0.0), row["score"])
        return {
            **estimate(self.scores, seed).as_dict(),
            "samples": len(self.rows) // len(best),
            "pass_at_k": sum(score == 1 for score in best.values()) / len(best),
            "tokens": round(sum(row["tokens"] for row in self.rows) / len(self.rows), 1),
            "cut": sum(row["finish_reason"] == "length" for row in self.rows) / len(self.rows),
        }

"""What a search knows, on disk: `candidates.jsonl` is the record, and `gepa/` holds what is not decided yet.

A search is a function of its seed, the scores and the proposals, so it is continued by running it again over what
is written here. `candidates.jsonl` alone is enough: what else lies in `gepa/` (completions, a proposal that is being
judged) is made again from it, at the cost of sampling or asking again. Decided candidates stay as they are; completions that
are made again are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gepa_loop.run.files import append_jsonl, read_jsonl
from gepa_loop.scores.rollouts import Row
from gepa_loop.search.records import CandidateRow, EvaluationRow, ProposalRow


class Proposed(ProposalRow, total=False):
    """A row of proposals.jsonl, and once it is judged what came of it."""

    id: str
    tokens: int
    refused: str | None


class Journal:
    """The record of a search, on disk and in memory."""

    def __init__(self, folder: Path) -> None:
        self.candidates = folder / "candidates.jsonl"
        self.cache = folder / "gepa"
        self.decided = read_jsonl(self.candidates, CandidateRow)
        """Rows of candidates.jsonl, by number; the seed is 0."""
        self.proposals: dict[int, Proposed] = {row["number"] - 1: _proposal(row) for row in self.decided[1:]}
        """Number -> what a call of the proposer gave. Those of an iteration that is not decided may have gaps, as its calls end
        in any order, and are unjudged: no `refused` yet."""
        self.scores: dict[tuple[str, str], list[float]] = {}
        """(candidate, item) -> score of each sample."""
        self.rows: dict[tuple[str, str], list[Row]] = {}
        """(candidate, item) -> the completions that the scores are of, where they are still known."""
        self.tokens: dict[tuple[str, str], float] = {}
        """(candidate, item) -> mean length of its completions, of items that rows or candidates.jsonl tell."""
        self.seconds: dict[tuple[str, str], float] = {}
        """(candidate, item) -> what its completions took."""
        for row in self.decided:
            parent = row["parents"][0] if row["parents"] else row["id"]
            self._know(row["id"], row["pareto_scores"] | row["train_scores"])
            self._know(parent, row["parent_scores"])
            self.tokens |= {(row["id"], item): tokens for item, tokens in row["pareto_tokens"].items()}
        for proposal in read_jsonl(self.cache / "proposals.jsonl", Proposed):
            self.proposals.setdefault(proposal["number"], proposal)
        for scored in read_jsonl(self.cache / "evaluations.jsonl", EvaluationRow):
            self._add(scored["candidate"], [Row(**row) for row in scored["rows"]], scored["seconds"])

    def add_rows(self, candidate: str, rows: list[Row], seconds: float) -> None:
        """Completions of one candidate: whole items, all samples of each."""
        entry: EvaluationRow = {
            "candidate": candidate,
            "seconds": seconds,
            "rows": [row.as_dict() for row in rows],
        }
        append_jsonl(self.cache / "evaluations.jsonl", [entry])
        self._add(candidate, rows, seconds)

    def add_proposal(self, entry: Proposed) -> None:
        """What the proposer said, or why it failed, and what that cost: before it is judged, so that none is paid twice."""
        append_jsonl(self.cache / "proposals.jsonl", [entry])
        self.proposals[entry["number"]] = entry

    def decide(self, row: CandidateRow) -> None:
        """Write the next row of candidates.jsonl."""
        append_jsonl(self.candidates, [row])
        self.decided.append(row)

    def _know(self, candidate: str, scores: Mapping[str, Sequence[float]]) -> None:
        for item, samples in scores.items():
            self.scores[candidate, item] = list(samples)

    def _add(self, candidate: str, rows: list[Row], seconds: float) -> None:
        by_item: dict[str, list[Row]] = {}
        for row in rows:
            by_item.setdefault(row.item, []).append(row)
        for item, own in by_item.items():
            key = candidate, item
            self.rows[key] = own
            # What is in candidates.jsonl stays: made again in another batch, a completion may differ in bfloat16.
            self.scores.setdefault(key, [row.score for row in own])
            self.tokens.setdefault(key, sum(row.tokens for row in own) / len(own))
            self.seconds[key] = seconds * len(own) / len(rows)


def _proposal(row: CandidateRow) -> Proposed:
    """What a row of candidates.jsonl says of its proposal."""
    status = row["status"]
    return {
        "id": row["id"],
        "text": row["text"],
        "tokens": row["tokens"],
        "proposer": row["proposer"],
        "how": row["how"],
        "reply": row["reply"],
        "cut": False,
        "number": row["number"] - 1,
        "parent": row["parents"][0],
        "refused": row["reason"] if status == "refused" else None,
        "failed": row["reason"] if status == "failed" else None,
        "usd": row["cost"]["usd"],
        "input_tokens": row["cost"]["input_tokens"],
        "output_tokens": row["cost"]["output_tokens"],
        "seconds": 0.0,
    }

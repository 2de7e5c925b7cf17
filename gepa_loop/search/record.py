"""The front on disk: what a search hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.search import OptimizeConfig
from gepa_loop.run.files import read_jsonl, read_record, write_jsonl, write_record, write_text
from gepa_loop.run.marks import check_below
from gepa_loop.scores.records import ReplyRow
from gepa_loop.search.adapter import save_program
from gepa_loop.search.frontier import Measured, final_front, finalists, handed_on
from gepa_loop.search.gepa import Found
from gepa_loop.search.records import CandidateRow, ChosenRecord, FrontRow, SearchRecord, SpentRecord, Why
from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Front:
    """The prompts that a search hands on, best first."""

    candidates: tuple[Candidate, ...]
    rows: tuple[FrontRow, ...]
    """front.jsonl: each candidate's scores, and what was found on `select`."""
    winner: str | None
    """The best of those that are significantly better than the seed prompt."""
    reason: str
    stopped_by: str
    exhausted: bool
    """Nothing better or new came any more; else a budget was used up."""
    spent: SpentRecord


@dataclass(frozen=True)
class Choice:
    """What is made of a search: rows of front.jsonl, and a word on them."""

    rows: Sequence[FrontRow]
    winner: str | None
    reason: str
    finalists: Sequence[str] = ()
    """Candidates that were scored on `select`; not all are handed on."""


def finalists_of(settings: OptimizeConfig, found: Found) -> list[CandidateRow]:
    """Whom a search for a prompt scores on `select`; the seed is first."""
    pool = [_on_pareto(row) for row in found.rows]
    chosen = finalists(settings.frontier_type, pool, settings.samples, settings.max_front)
    return [found.rows[n] for n in chosen]


def choose(
    settings: OptimizeConfig,
    rows: Sequence[CandidateRow],
    select: Mapping[str, Sequence[ReplyRow]],
    samples: int,
    winner: str | None,
) -> list[ChosenRecord]:
    """Of a search for a prompt, rows of front.jsonl but for what is said of the differences.

    Args:
        settings: `frontier_type`.
        rows: The finalists; the seed is first.
        select: Candidate -> its rows on `select`.
        samples: Samples of each item there.
        winner: The best of those that are significantly better than the seed; it stays.
    """
    pool = [_on_select(row, select[row["id"]]) for row in rows]
    ids = [row["id"] for row in rows]
    first = None if winner is None else ids.index(winner)
    kept = final_front(settings.frontier_type, pool, samples, first)
    return [_chosen(rows[n], why) for n, why in kept]


def pool_of(settings: OptimizeConfig, most: int, found: Found) -> Choice:
    """What a search for students hands on: the seed and at most `most` other prompts; nobody is scored on `select`."""
    pool = [_on_pareto(row) for row in found.rows]
    rows: list[FrontRow] = [
        {**_chosen(found.rows[n], why), "select": None, "against_seed": None, "adjusted_p": None}
        for n, why in handed_on(settings.frontier_type, pool, settings.samples, most)
    ]
    said = f"Handed on by their scores on pareto: {len(rows) - 1} of {len(pool) - 1} accepted prompts, and the seed prompt."
    return Choice(rows, None, f"{said} Students decide.")


def _chosen(row: CandidateRow, why: Why) -> ChosenRecord:
    mean, objectives = row["pareto_mean"], row["objectives"]
    assert mean is not None and objectives is not None, "only accepted ones are handed on"
    return {
        "id": row["id"],
        "text": row["text"],
        "tokens": row["tokens"],
        "parents": row["parents"],
        "how": row["how"],
        "pareto_mean": mean,
        "objectives": objectives,
        "kept": why,
    }


def _on_pareto(row: CandidateRow) -> Measured:
    scores = {item: sum(own) / len(own) for item, own in row["pareto_scores"].items()}
    return Measured(scores, row["pareto_tokens"], row["tokens"])


def _on_select(row: CandidateRow, select: Sequence[ReplyRow]) -> Measured:
    scores: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    for one in select:
        scores.setdefault(one["item"], []).append(one["score"])
        tokens.setdefault(one["item"], []).append(one["tokens"])
    return Measured(
        {item: sum(own) / len(own) for item, own in scores.items()},
        {item: sum(own) / len(own) for item, own in tokens.items()},
        row["tokens"],
    )


def write_front(folder: Path, found: Found, choice: Choice, stack: str | None) -> Front:
    """Write prompts/<id>.txt, programs/<id>.json, front.jsonl and, when all is there, result.json.

    `stack` is the fingerprint of the adapter that the prompts were evolved for; None is the bare base.
    """
    for row in choice.rows:
        prompt = Candidate(row["text"])
        write_text(folder / "prompts" / f"{prompt.id}.txt", prompt.text)
        save_program(folder / "programs" / f"{prompt.id}.json", prompt)
    write_jsonl(folder / "front.jsonl", choice.rows)
    result: SearchRecord = {
        "winner": choice.winner,
        "reason": choice.reason,
        "stack": stack,
        "stopped_by": found.stop.reason,
        "exhausted": found.stop.exhausted,
        "spent": found.spent.as_dict(),
        "refused": found.refused,
        "finalists": list(choice.finalists),
    }
    write_record(folder / "result.json", result, "candidates.jsonl", "front.jsonl", "prompts", "programs")
    return _front(result, choice.rows)


def read_front(folder: Path, stack: str | None) -> Front:
    """What `write_front` returned when an earlier process wrote it.

    Raises:
        RunDirectoryError: A file is not as it was written, or the search was for another stack.
    """
    result = read_record(folder / "result.json", SearchRecord)
    rows = read_jsonl(folder / "front.jsonl", FrontRow)
    check_below(folder / "result.json", result["stack"], stack)
    return _front(result, rows)


def _front(result: SearchRecord, rows: Sequence[FrontRow]) -> Front:
    return Front(
        tuple(Candidate(row["text"]) for row in rows),
        tuple(rows),
        result["winner"],
        result["reason"],
        result["stopped_by"],
        result["exhausted"],
        result["spent"],
    )

"""The front on disk: what a search hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.search import OptimizeConfig
from gepa_loop.optimize.adapter import save_program
from gepa_loop.optimize.frontier import Measured, final_front
from gepa_loop.optimize.gepa import Found
from gepa_loop.optimize.records import CandidateRow, ChosenRecord, FrontRow, SearchRecord, SpentRecord, Why
from gepa_loop.run.files import read_jsonl, read_record, write_jsonl, write_record, write_text
from gepa_loop.run.marks import check_below
from gepa_loop.scores.records import ReplyRow
from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Front:
    """The prompts that a search hands on, the best mean on `select` first."""

    candidates: tuple[Candidate, ...]
    rows: tuple[FrontRow, ...]
    """front.jsonl: each candidate's scores with intervals, and its difference from the seed."""
    winner: str | None
    """The best of those that are significantly better than the seed prompt."""
    reason: str
    finalists: int
    """Candidates that were scored on `select`; not all are handed on."""
    stopped_by: str
    spent: SpentRecord


def choose(
    settings: OptimizeConfig,
    found: Found,
    select: Mapping[str, Sequence[ReplyRow]],
    samples: int,
    winner: str | None,
) -> list[ChosenRecord]:
    """Rows of front.jsonl but for what is said of the differences.

    Args:
        settings: `frontier_type`.
        found: The finalists; the seed is first.
        select: Candidate -> its rows on `select`.
        samples: Samples of each item there.
        winner: The best of those that are significantly better than the seed; it stays.
    """
    pool = [_measured(row, select[row["id"]]) for row in found.rows]
    ids = [row["id"] for row in found.rows]
    first = None if winner is None else ids.index(winner)
    kept = final_front(settings.frontier_type, pool, samples, first)
    return [_chosen(found.rows[n], why) for n, why in kept]


def _chosen(row: CandidateRow, why: Why) -> ChosenRecord:
    mean, objectives = row["pareto_mean"], row["objectives"]
    assert mean is not None and objectives is not None, "finalists were accepted"
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


def _measured(row: CandidateRow, select: Sequence[ReplyRow]) -> Measured:
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


def write_front(
    folder: Path,
    found: Found,
    rows: Sequence[FrontRow],
    winner: str | None,
    reason: str,
    stack: str | None,
) -> Front:
    """Write prompts/<id>.txt, programs/<id>.json, front.jsonl and, when all is there, result.json.

    `stack` is the fingerprint of the adapter that the prompts were evolved for; None is the bare base.
    """
    for row in rows:
        prompt = Candidate(row["text"])
        write_text(folder / "prompts" / f"{prompt.id}.txt", prompt.text)
        save_program(folder / "programs" / f"{prompt.id}.json", prompt)
    write_jsonl(folder / "front.jsonl", rows)
    result: SearchRecord = {
        "winner": winner,
        "reason": reason,
        "stack": stack,
        "stopped_by": found.stopped_by,
        "spent": found.spent.as_dict(),
        "refused": found.refused,
        "finalists": [row["id"] for row in found.rows],
    }
    write_record(folder / "result.json", result, "candidates.jsonl", "front.jsonl", "prompts", "programs")
    return _front(result, rows)


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
        len(result["finalists"]),
        result["stopped_by"],
        result["spent"],
    )

"""In which rank a student is exported."""

from __future__ import annotations

from dataclasses import dataclass

from gepa_loop.errors import ConfigError
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.rank import compressed, padded
from gepa_loop.sampling.vllm.options import RANKS, served_rank


@dataclass(frozen=True)
class Ranked:
    """A student as it is exported."""

    adapter: Adapter
    how: str = ""
    """By what it has another rank than the student, which is no part of the sentence where it has the same."""
    narrowed: bool = False
    """Whether it is another function than the student: fewer ranks approximate it, more are filled up with zeros."""


def in_rank(student: Adapter, rank: int | None) -> Ranked:
    """A student in a rank; None is the smallest that vLLM serves and that holds it, or the largest that vLLM serves.

    Raises:
        ConfigError: It is no rank.
    """
    if rank is None:
        rank = served_rank(min(student.rank, RANKS[-1]))
        why = ", as vLLM serves " + ("certain ranks only" if rank >= student.rank else "no higher one")
    else:
        why = ""
    if rank < 1:
        raise ConfigError(f"--rank {rank}: not a rank")
    if rank == student.rank:
        return Ranked(student)
    if rank > student.rank:
        return Ranked(padded(student, rank), f"of {student.rank}, filled up with zeros{why}")
    how = f"of {student.rank}, by its largest singular values{why}"
    return Ranked(compressed(student, rank), how, narrowed=True)

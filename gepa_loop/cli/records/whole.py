"""What all of them have."""

from __future__ import annotations

from typing import TypedDict


class Answer(TypedDict):
    """What all have."""

    schema_version: int
    """Raised where a key changes its meaning or goes."""
    command: str
    """Which command says it, as it is typed: `prompts list`."""


class RunAnswer(Answer):
    """What all that make a run have."""

    run: str
    """Its name."""
    path: str
    """Its folder, absolute."""

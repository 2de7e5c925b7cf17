"""What is found where a configuration or a task is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gepa_loop.errors import GepaLoopError

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: State
    sentence: str
    hint: str = ""
    code: int = 0
    """The exit code that a command would end with; 0 where it is no fault."""


def fault(about: str, error: GepaLoopError) -> Finding:
    """What an error says."""
    return Finding(about, "fault", str(error), error.hint, error.exit_code)

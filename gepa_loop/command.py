"""A command as a value: what it does, what its flags say, what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gepa_loop.lab import Lab
    from gepa_loop.model.lora.adapter import Adapter
    from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Command:
    """What a command does, as far as its session and its plan depend on it."""

    name: str
    searches: bool = False
    """GEPA evolves prompts."""
    students: Literal["none", "one", "front", "cells"] = "none"
    """Who is distilled: nobody, one prompt, a round's front, or one prompt under each cell of a grid."""

    @property
    def trains(self) -> bool:
        return self.students != "none"


OPTIMIZE = Command("optimize", searches=True)
DISTILL = Command("distill", students="one")
EVALUATE = Command("evaluate")
LOOP = Command("loop", searches=True, students="front")
SWEEP = Command("sweep", students="cells")


@dataclass(frozen=True)
class Flags:
    """What every command takes that makes a run."""

    config: str | None = None
    """A TOML file or a preset."""
    sets: Sequence[str] = ()
    """`KEY.PATH=VALUE` settings."""
    run_name: str | None = None
    """Folder below runs/; None makes one from the command and the config."""
    dry_run: bool = False
    """Check and print everything, and open no run."""
    fresh: bool = False
    """Delete what an earlier run of this name left."""


@dataclass(frozen=True)
class Inputs:
    """What a command was given besides."""

    prompts: Mapping[str, Candidate] | None = None
    """Those that it reads, by where each came from; None is the config's seed prompt."""
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """Those that it reads, by where each came from; the model must be theirs."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further values that the results depend on."""
    check: Callable[[Lab], None] | None = None
    """Checks a command that trains; None checks the first prompt as its teacher's."""
    facts: Sequence[str] = ()
    """Lines that a dry run ends with."""


NOTHING = Inputs()

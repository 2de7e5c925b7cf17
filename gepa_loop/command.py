"""A command as a value: what it does, what its flags say, what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gepa_loop.config.search import Aim
    from gepa_loop.lab import Lab
    from gepa_loop.model.lora.adapter import Adapter
    from gepa_loop.task.own import Task
    from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Command:
    """What a command does, as far as its session and its plan depend on it."""

    name: str
    searches: bool = False
    """GEPA evolves prompts."""
    trains: bool = False
    """Prompts are distilled."""
    rounds: bool = False
    """It searches and trains `loop.rounds` times, each time on top of what won before."""
    cells: bool = False
    """What it trains is said by the cells of a grid, which are configs of their own; its config alone does not tell."""
    writes_questions: bool = False
    """`distill.questions` are written before it trains."""
    makes_references: bool = False
    """Where a task has no answers, the prompted model's replies stand for them; else it needs a task with answers."""
    measures_retention: bool = False
    """At its end the base and the student are scored on `test`, with and without the prompt."""

    @property
    def aim(self) -> Aim:
        """What its search is for."""
        return "student" if self.trains else "prompt"


OPTIMIZE = Command("optimize", searches=True)
DISTILL = Command(
    "distill", trains=True, writes_questions=True, makes_references=True, measures_retention=True
)
EVALUATE = Command("evaluate")
LOOP = Command("loop", searches=True, trains=True, rounds=True)
SWEEP = Command("sweep", trains=True, cells=True)


@dataclass(frozen=True)
class Flags:
    """What every command takes that makes a run."""

    config: str | Mapping[str, Any] | None = None
    """A TOML file, a preset, or what would stand in such a file."""
    sets: Sequence[str] = ()
    """`KEY.PATH=VALUE` settings."""
    run_name: str | None = None
    """Folder below runs/; None makes one from the command and the config."""
    dry_run: bool = False
    """Check and print everything, and open no run."""
    fresh: bool = False
    """Delete what an earlier run of this name left."""
    measure: bool = False
    """Of a dry run: train a few steps to time them."""


@dataclass(frozen=True)
class Part:
    """A part of a run that is a run directory of its own."""

    name: str
    """Its folder in the run's."""
    lab: Callable[[Lab], Lab]
    """The run's lab as that of the part."""


@dataclass(frozen=True)
class Inputs:
    """What a command was given besides."""

    prompts: Mapping[str, Candidate] | None = None
    """Those that it reads, by where each came from; None is the config's seed prompt."""
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """Those that it reads, by where each came from; the model must be theirs."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further values that the results depend on."""
    task: Task | None = None
    """The user's object whose items are asked, in place of what `task.name` says."""
    check: Callable[[Lab], None] | None = None
    """Checks a command that trains; None checks the first prompt as its teacher's."""
    facts: Callable[[], Sequence[str]] = tuple
    """Gives the lines that a dry run ends with, once it is known whose code runs."""

    part: Part | None = None
    """What of the run this process makes, where others make the rest of it at the same time; None is all of it."""

    @property
    def task_from(self) -> Literal["object", "config"]:
        """What its items are made by: an object that nobody can make again by its name, or what the configuration names."""
        return "config" if self.task is None else "object"


NOTHING = Inputs()

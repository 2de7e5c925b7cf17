"""Conditions on scores, for pipelines that are to stop where a student has become worse: `student < prompted - 0.03`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gepa_loop.errors import ConfigError

NAMES = ("bare", "prompted", "student", "student_prompted")
"""Who can be compared: without prompt and adapter, with a prompt, with an adapter, with both."""

_NUMBER = r"\d*\.?\d+"
_SIDE = rf"(?:(?P<{{0}}name>[a-z_]+)(?:\s*(?P<{{0}}sign>[+-])\s*(?P<{{0}}more>{_NUMBER}))?|(?P<{{0}}number>{_NUMBER}))"
_WHOLE = re.compile(rf"\s*{_SIDE.format('l')}\s*(?P<op><=|>=|<|>)\s*{_SIDE.format('r')}\s*")


@dataclass(frozen=True)
class Side:
    """A number, or somebody's mean score with something added."""

    name: str | None
    more: float

    def value(self, means: Mapping[str, float]) -> float:
        return self.more + (0.0 if self.name is None else means[self.name])


@dataclass(frozen=True)
class Condition:
    """A comparison that fails a pipeline where it holds."""

    text: str
    left: Side
    op: str
    right: Side

    @property
    def names(self) -> set[str]:
        """Whose means it needs."""
        return {side.name for side in (self.left, self.right) if side.name is not None}

    def holds(self, means: Mapping[str, float]) -> bool:
        """Whether it does, for these mean scores; differences below 1e-9 are none."""
        gap = round(self.left.value(means) - self.right.value(means), 9)
        return {"<": gap < 0, "<=": gap <= 0, ">": gap > 0, ">=": gap >= 0}[self.op]

    def told(self, means: Mapping[str, float]) -> str:
        """The numbers that it was held against."""
        shown = ", ".join(f"{name} {means[name]:.3f}" for name in NAMES if name in self.names)
        return f"{self.text}: {'holds' if self.holds(means) else 'does not hold'} ({shown})"


def parse_condition(text: str, known: Sequence[str]) -> Condition:
    """Read a condition; nothing is evaluated but what stands in this module.

    Args:
        text: As `student < prompted - 0.03`, `student <= 0.5`.
        known: Who is scored.

    Raises:
        ConfigError: It is none, compares no scores, or names somebody who is not scored.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--fail-if {text!r}: not a comparison",
            "Examples: 'student < prompted - 0.03', 'student <= 0.5', 'student < bare'.",
        )
    condition = Condition(text.strip(), _side(found, "l"), found["op"], _side(found, "r"))
    if not condition.names:
        raise ConfigError(f"--fail-if {text!r}: it compares no scores", f"Names: {', '.join(known)}.")
    if odd := sorted(condition.names - set(known)):
        raise ConfigError(
            f"--fail-if {text!r}: {odd[0]} is not scored here", f"Scored are {', '.join(known)}."
        )
    return condition


def read_conditions(texts: Sequence[str], roles: Sequence[str]) -> list[Condition]:
    """Conditions on the scores of some subjects.

    Raises:
        ConfigError: As `parse_condition` does, or two subjects would have the same name.
    """
    if texts and len(set(roles)) < len(roles):
        raise ConfigError(
            f"--fail-if: both are called {roles[0]!r}, and a condition cannot tell them apart",
            "Compare a student with a prompt, or either with the bare model.",
        )
    return [parse_condition(text, roles) for text in texts]


def _side(found: re.Match[str], side: str) -> Side:
    if found[f"{side}number"] is not None:
        return Side(None, float(found[f"{side}number"]))
    more = float(found[f"{side}more"] or 0.0)
    return Side(found[f"{side}name"], -more if found[f"{side}sign"] == "-" else more)

"""A piece of work as a value, and what does it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 8
"""Shared values that a worker keeps: those of students that are sampled in turn."""

Tell = Callable[[object], None]
"""Hands a message to whoever gave the piece out."""


@dataclass(frozen=True)
class Piece:
    """A function of this package and what it is given; it can be done on any worker, and again on another."""

    name: str
    """In words."""
    function: Callable[..., None]
    """Of a module, called as `function(desk, tell, **given)`."""
    given: Mapping[str, object]
    """Values; a `Shared` among them reaches the function as what it stands for."""


@dataclass(frozen=True)
class Shared:
    """A value that is sent once, and read by many pieces."""

    key: str
    """The same for equal values."""
    reference: Any
    """What the engine finds it by."""


@dataclass
class Desk:
    """What a worker keeps between pieces."""

    fetch: Callable[[Any], object]
    """Gives the value of a `Shared.reference`."""
    held: Any = None
    """What the first piece has left for those that follow."""
    _kept: OrderedDict[str, object] = field(default_factory=OrderedDict)

    def value_of(self, shared: Shared) -> object:
        """The value, which is the same object as long as it is kept."""
        if shared.key not in self._kept:
            self._kept[shared.key] = self.fetch(shared.reference)
        self._kept.move_to_end(shared.key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[shared.key]


def perform(piece: Piece, desk: Desk, tell: Tell) -> None:
    """Do a piece; what comes of it is told."""
    given = {key: desk.value_of(one) if isinstance(one, Shared) else one for key, one in piece.given.items()}
    piece.function(desk, tell, **given)

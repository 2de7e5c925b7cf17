"""Who watches a run."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Watches a run; the terminal's live view is one."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        """A stage begins."""
        ...

    def progress(self, done: int, total: int, **facts: Any) -> None:
        """The stage has done `done` of `total`; `facts` are named values worth showing."""
        ...

    def note(self, text: str) -> None:
        """A line worth keeping."""
        ...

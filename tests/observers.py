"""Observers of a run that keep what they are told, or that end it."""

from __future__ import annotations

from typing import Any


class Silent:
    """Keeps nothing."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        pass

    def progress(self, done: int, total: int, **facts: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Watch:
    """Keeps everything, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        """("stage", name, round, candidate), ("progress", done, total, facts) or ("note", text)."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        self.said.append(("stage", name, round, candidate))

    def progress(self, done: int, total: int, **facts: Any) -> None:
        self.said.append(("progress", done, total, facts))

    def note(self, text: str) -> None:
        self.said.append(("note", text))

    @property
    def stages(self) -> list[str]:
        return [name for kind, name, *_ in self.said if kind == "stage"]

    @property
    def notes(self) -> list[str]:
        return [text for kind, text, *_ in self.said if kind == "note"]


class Killed(Exception):
    """As by a signal."""


class KilledAt(Watch):
    """Kills when a stage has done that many."""

    def __init__(self, stage: str, done: int) -> None:
        super().__init__()
        self.last = stage, done

    def progress(self, done: int, total: int, **facts: Any) -> None:
        super().progress(done, total, **facts)
        stage, enough = self.last
        if self.stages[-1] == stage and done >= enough:
            raise Killed

"""A run that is followed by a tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gepa_loop.config.track import TrackConfig
from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.outside.modules import foreign
from gepa_loop.outside.redact import printable
from gepa_loop.stages.observer import Observer
from gepa_loop.tracking.base import Ending
from gepa_loop.tracking.outbox import Outbox, open_outbox


@contextmanager
def followed(
    settings: TrackConfig, config: Mapping[str, Any], run: Path, observer: Observer
) -> Iterator[Observer]:
    """The observer, with a tracker that follows the run while the block goes on; arguments and errors as of `open_outbox`."""
    if settings.kind is None:
        yield observer
        return
    follower = Follower(open_outbox(settings, config, run), observer)
    observer.note(f"tracked: {follower.outbox.tracker.where}")
    ending: Ending = "failed"
    try:
        yield follower
        ending = "done"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        follower.end(ending)


class Follower:
    """An observer that has a tracker sent, after every call, what the run's files say by then.

    Where that fails it is said once, and tried again at the end; what is lacking then the next process sends.
    """

    def __init__(self, outbox: Outbox, observer: Observer) -> None:
        self.outbox, self._observer = outbox, observer
        self._warned = False

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        self._observer.stage(name, round=round, candidate=candidate)
        self._send()

    def progress(self, done: int, total: int, **facts: Any) -> None:
        self._observer.progress(done, total, **facts)
        self._send()

    def note(self, text: str) -> None:
        self._observer.note(text)
        self._send()

    def end(self, ending: Ending) -> None:
        """Send what is owed, the outcome too, and close the tracker."""
        if self._tried(self.outbox.send):
            self._tried(self.outbox.send_result)
        self._tried(lambda: self.outbox.tracker.close(ending))

    def _send(self) -> None:
        if not self._warned:
            self._tried(self.outbox.send)

    def _tried(self, act: Callable[[], None]) -> bool:
        try:
            with foreign(EnvironmentFault, "the tracker"):
                act()
        except (EnvironmentFault, RunDirectoryError) as error:
            if not self._warned:
                self._warned = True
                self._observer.note(
                    f"warning: {printable(str(error))}; the run goes on, and what is not tracked is sent at its end or by the "
                    "same command"
                )
            return False
        return True

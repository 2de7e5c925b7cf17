"""Workers, and the pieces that are given out among them.

A thread for each worker takes pieces from one queue. What a piece tells reaches whoever gave it out, in whose thread everything is
decided: so nothing but the command itself writes a run. A piece whose worker is lost is given out again, as it is to be done by then.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any, Literal

from gepa_loop.cluster.piece import Desk, Piece, Shared, perform
from gepa_loop.cluster.worker import Engine, Worker, WorkerLost, WorkerRefused
from gepa_loop.errors import EnvironmentFault, GepaLoopError

TRIES = 3
"""How often a piece is given out, and how often a place asks for a worker, before that counts as a fault."""


Event = tuple["_Job", Literal["message", "done", "lost", "failed"], Any]


@dataclass(eq=False)
class _Job:
    """A piece that somebody waits for."""

    number: int
    made: Callable[[], Piece]
    box: SimpleQueue[Event]
    piece: Piece
    elsewhere: bool = False
    """Whoever waits for it computes meanwhile: it is for a worker with a device of its own, if there is one."""
    lost: list[WorkerLost] = field(default_factory=list)
    """Workers, one after the other."""


class Crew:
    """Workers at their places.

    Args:
        engine: Makes them.
        places: How many work at a time.
        opening: The first piece of each worker.
        opened: Called in its thread with what the opening told; returns whether the worker computes on a device of the command's.
    """

    def __init__(self, engine: Engine, places: int, opening: Piece, opened: Callable[[Any], bool]) -> None:
        self.places = places
        self.say: Callable[[str], None] = lambda _: None
        """Is told of lost workers, in the thread of whoever waits for the piece."""
        self.own: Desk | None = None
        """What this process does pieces of `ask` with, as long as no worker has opened."""
        self._engine, self._opening, self._opened = engine, opening, opened
        self._open: set[int] = set()
        """Places whose worker has opened."""
        self._serving = set(range(places))
        """Those that have not given up."""
        self._elsewhere: set[int] = set()
        """Those whose worker, which has opened and was not lost, computes on other devices than the command."""
        self._workers: dict[int, Worker] = {}
        self._waiting: deque[_Job] = deque()
        self._turn = Condition()
        self._closed = False
        self._fault: Exception | None = None
        """Why the last place that gave up has done so."""
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._shared: deque[Shared] = deque(maxlen=16)
        self._threads = [Thread(target=self._serve, args=(n,), daemon=True) for n in range(places)]
        for thread in self._threads:
            thread.start()

    @property
    def open(self) -> int:
        """Places whose worker has opened. Until there is one, whoever waits for a piece of `ask` does it, where `own` is there."""
        return len(self._open)

    @property
    def elsewhere(self) -> int:
        """Places that compute on other devices than the command at present; all, where none does."""
        return len(self._elsewhere) or self.places

    def ask(self, piece: Piece, elsewhere: bool = False) -> Callable[[], Any]:
        """Give a piece out; what is returned waits for its only message.

        Args:
            piece: For any worker.
            elsewhere: For one that computes on another device than the command, as long as one is there.
        """
        job = _Job(0, lambda: piece, SimpleQueue(), piece, elsewhere)
        self._give(job)

        def answer() -> Any:
            told: list[object] = []
            if self.own is not None and not self.open and self._taken_back(job):
                perform(piece, self.own, told.append)
                return told[-1]
            for _, message in self._read(job.box, 1):
                told = [message]  # told again by another worker where one was lost when it had
            return told[-1]

        return answer

    def begin(self, made: Sequence[Callable[[], Piece]]) -> Iterator[tuple[int, Any]]:
        """Give pieces out at once; what they tell is read from what is returned, with the number of the piece, as it comes.

        Args:
            made: Each makes its piece; called again for one whose worker was lost, when all that it told before has been read.

        Raises (as it is read):
            EnvironmentFault: A piece was lost `TRIES` times in which it did not change, or no worker is left.
            Exception: What a piece has raised.
        """
        box: SimpleQueue[Event] = SimpleQueue()
        for number, one in enumerate(made):
            self._give(_Job(number, one, box, one()))
        return self._read(box, len(made))

    def share(self, key: str, make: Callable[[], object]) -> Shared:
        """A value that workers read once; it is made where it is not known by its key."""
        known = next((one for one in self._shared if one.key == key), None)
        if known is None:
            known = Shared(key, self._engine.share(make()))
            self._shared.append(known)
        return known

    def close(self) -> None:
        """End all workers."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        # First the workers: whoever waits for one learns that it is gone, while there still is an engine to tell so.
        for worker in list(self._workers.values()):
            _end(worker)
        for thread in self._threads:
            thread.join(timeout=60.0)
        self._engine.close()

    def _read(self, box: SimpleQueue[Event], left: int) -> Iterator[tuple[int, Any]]:
        while left:
            job, kind, value = box.get()
            while not self._notes.empty():
                self.say(self._notes.get())
            if kind == "message":
                yield job.number, value
            elif kind == "done":
                left -= 1
            elif kind == "failed":
                raise value
            else:
                made = job.made()
                if made != job.piece:  # it got on meanwhile
                    job.lost.clear()
                job.lost.append(value)
                if len(job.lost) == TRIES:
                    causes = "; ".join(dict.fromkeys(map(str, job.lost)))
                    hint = "What was finished is saved. Set cluster.workers to 0 to do without workers, or see to their machines."
                    raise EnvironmentFault(
                        f"{job.piece.name}: {TRIES} workers were lost with it: {causes}", value.hint or hint
                    )
                self.say(f"{job.piece.name}: {value}; it is given out again")
                job.piece = made
                self._give(job, first=True)

    def _give(self, job: _Job, first: bool = False) -> None:
        with self._turn:
            if not self._serving:
                job.box.put((job, "failed", self._fault))
                return
            if first:
                self._waiting.appendleft(job)
            else:
                self._waiting.append(job)
            self._turn.notify_all()

    def _taken_back(self, job: _Job) -> bool:
        """Whether a piece was still waiting, and is no more."""
        with self._turn:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _next(self, place: int) -> _Job | None:
        with self._turn:
            while not self._closed:
                job = next((one for one in self._waiting if self._takes(place, one)), None)
                if job is not None:
                    self._waiting.remove(job)
                    return job
                self._turn.wait()
            return None

    def _takes(self, place: int, job: _Job) -> bool:
        return not job.elsewhere or place in self._elsewhere or not self._elsewhere

    def _note_where(self, place: int, elsewhere: bool) -> None:
        with self._turn:
            (self._elsewhere.add if elsewhere else self._elsewhere.discard)(place)
            self._turn.notify_all()

    def _serve(self, place: int) -> None:
        """A place's work: a worker, and pieces as long as there are any."""
        try:
            # Nothing is taken before there is a worker for it: another may be free.
            while (worker := self._worker(place)) is not None:
                while (job := self._next(place)) is not None and self._done(job, place, worker):
                    pass
                _end(worker)
        except Exception as error:  # noqa: BLE001 (raised where a piece is waited for)
            self._give_up(place, error)

    def _done(self, job: _Job, place: int, worker: Worker) -> bool:
        """Whether the worker is still there after a job."""
        try:
            for message in worker.run(job.piece):
                job.box.put((job, "message", message))
        except WorkerLost as lost:
            self._note_where(place, elsewhere=False)
            job.box.put((job, "lost", lost))
            return False
        except Exception as error:  # noqa: BLE001 (raised where the piece is waited for)
            job.box.put((job, "failed", error))
        else:
            job.box.put((job, "done", None))
        return True

    def _worker(self, place: int) -> Worker | None:
        """A worker that has opened; None where the crew is closed."""
        causes: list[str] = []
        while len(causes) < TRIES and not self._closed:
            try:
                with contextlib.ExitStack() as otherwise:
                    worker = self._workers[place] = self._engine.worker()
                    otherwise.callback(_end, worker)
                    if self._closed:  # before this one was there to be ended
                        raise WorkerLost("the command has ended")
                    self._open_at(place, worker)
                    otherwise.pop_all()
            except WorkerLost as lost:
                causes.append(str(lost))
            else:
                self._note_opened(place)
                return worker
        if self._closed:
            return None
        raise EnvironmentFault(
            f"worker {place} cannot be had: {'; '.join(dict.fromkeys(causes))}",
            "Ask for fewer (cluster.workers), or for none: 0.",
        )

    def _open_at(self, place: int, worker: Worker) -> None:
        """Have a worker open; what it lacks is a fault of its machine, not of what the command was given."""
        try:
            beside = [self._opened(message) for message in worker.run(self._opening)]
        except WorkerRefused:
            raise
        except GepaLoopError as error:
            raise EnvironmentFault(f"a worker cannot open: {error}", error.hint) from error
        self._note_where(place, elsewhere=not any(beside))

    def _note_opened(self, place: int) -> None:
        with self._turn:
            if place in self._open:
                return
            self._open.add(place)
            if self.open == self.places:
                self._notes.put(
                    f"{'the worker is' if self.places == 1 else f'all {self.places} workers are'} there"
                )

    def _give_up(self, place: int, error: Exception) -> None:
        """A place ends; those that wait learn it where it was the last one, or where others may be as wrong."""
        with self._turn:
            if isinstance(self._fault, WorkerRefused):
                return
            self._serving -= self._serving if isinstance(error, WorkerRefused) else {place}
            self._fault = error
            self._notes.put(f"{error}; {len(self._serving)} of {self.places} go on")
            while not self._serving and self._waiting:
                job = self._waiting.popleft()
                job.box.put((job, "failed", error))


def _end(worker: Worker) -> None:
    """End a worker that is of no more use: where that fails there is nobody to tell."""
    with contextlib.suppress(Exception):
        worker.end()

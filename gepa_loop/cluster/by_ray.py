"""Workers as Ray's actors, on this machine or on those of a cluster."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Literal, NamedTuple

from gepa_loop.cluster.piece import Desk, Piece, perform
from gepa_loop.cluster.worker import WorkerLost, WorkerRefused
from gepa_loop.config.cluster import ClusterConfig
from gepa_loop.errors import EnvironmentFault, GepaLoopError, memory_fault

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}
"""Nothing is reported to anybody, nobody's cluster is joined for being named in a file, and what Ray says of lost workers is left to us.
Its handler of SIGTERM would print addresses before ours, and abort the process three seconds later, while it still saves."""


def check_ray() -> None:
    """Raise EnvironmentFault where Ray is not installed."""
    if find_spec("ray") is None:
        raise EnvironmentFault(
            "cluster.workers: Ray is not installed", "Install it: pip install 'gepa-loop[cluster]'."
        )


REACH_SECONDS = 10.0
SAME = "Install the same packages on all machines, and give them the same files under the same paths."


class Said(NamedTuple):
    """What a worker hands on."""

    kind: Literal["told", "failed", "lost", "done"]
    value: Any = None


class Hand:
    """The actor: does pieces in one thread of its own, and hands on what they tell."""

    def __init__(self) -> None:
        import ray

        self._desk = Desk(ray.get)
        # One for all pieces: each thread would have memory and library handles of its own.
        self._thread = ThreadPoolExecutor(1)

    def run(self, piece: Piece) -> Iterator[Said]:
        """Do a piece."""
        box: SimpleQueue[Said] = SimpleQueue()
        self._thread.submit(self._run, piece, box)
        while True:
            said = box.get()
            yield said
            if said.kind != "told":
                return

    def _run(self, piece: Piece, box: SimpleQueue[Said]) -> None:
        try:
            perform(piece, self._desk, lambda message: box.put(Said("told", message)))
        except GepaLoopError as error:
            box.put(Said("failed", error))
        except BaseException as error:  # noqa: BLE001 (its process cannot show it)
            if (fault := memory_fault(error)) is not None:
                box.put(Said("lost", WorkerLost(str(fault), fault.hint)))
            elif isinstance(error, RuntimeError) and str(error).startswith("CUDA error"):
                # Nothing more can be computed on it by this process; another may.
                cause = str(error).partition("\n")[0]
                box.put(Said("lost", WorkerLost(f"its GPU failed: {cause}")))
            else:
                box.put(Said("failed", RuntimeError(f"in a worker, {piece.name}:\n{traceback.format_exc()}")))
        else:
            box.put(Said("done"))


class RayWorker:
    """An actor."""

    def __init__(self, actor: Any, patience_seconds: float) -> None:
        self._actor, self._patience = actor, patience_seconds
        self._ended = False

    def run(self, piece: Piece) -> Iterator[object]:
        import ray

        try:
            answers = self._actor.run.options(num_returns="streaming").remote(piece)
            while True:
                self._wait(answers)
                said: Said = ray.get(next(answers))
                if said.kind == "done":
                    return
                if said.kind in ("failed", "lost"):
                    raise said.value
                yield said.value
        except ray.exceptions.RayTaskError as error:
            # What was sent could not be read there: the packages are not the same, or the user's files are not there.
            why = str(error).strip().rpartition("\n")[2]
            raise WorkerRefused(f"a worker cannot do what it is given: {why}", SAME) from None
        except (ray.exceptions.RayError, StopIteration) as error:
            raise WorkerLost(_cause(error)) from None

    def _wait(self, answers: Any) -> None:
        """Wait until something was said; in short parts, as whoever asks Ray after its end takes the process with it."""
        import ray

        began = time.monotonic()
        while True:
            ready, _ = ray.wait([answers], timeout=1.0)
            if self._ended:
                raise WorkerLost("its worker was ended")
            if ready:
                return
            if time.monotonic() - began > self._patience:
                raise WorkerLost(f"its worker said nothing for {self._patience / 60:.3g} minutes")

    def end(self) -> None:
        import ray

        self._ended = True
        if ray.is_initialized():
            ray.kill(self._actor)


def _cause(error: BaseException) -> str:
    """Why Ray has lost an actor, in a line: what it says of that is a page of addresses."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its worker's machine ran out of memory"
    return "its worker died, or the machine of it"


class RayEngine:
    """Ray, joined or started here when the first worker is asked for.

    Args:
        settings: Which Ray, and what a worker has of it.
        on_gpu: Workers compute on GPUs of their own.
    """

    def __init__(self, settings: ClusterConfig, on_gpu: bool) -> None:
        self._settings, self._on_gpu = settings, on_gpu
        self._lock, self._ready, self._over = Lock(), Event(), Event()
        self._thread: Thread | None = None
        self._hand: Any = None
        self._fault: Exception | None = None

    def worker(self) -> RayWorker:
        hand = self._started()
        gpus = self._settings.gpus_per_worker if self._on_gpu else 0
        actor = hand.options(num_gpus=gpus, num_cpus=0, max_restarts=0, name=None).remote()
        return RayWorker(actor, 60 * self._settings.patience_minutes)

    def share(self, value: object) -> Any:
        import ray

        self._started()
        return ray.put(value)

    def fetch(self, reference: Any) -> object:
        import ray

        value: object = ray.get(reference)
        return value

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=60.0)

    def _started(self) -> Any:
        """The actor's class, with Ray at work."""
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._live, daemon=True)
                self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            raise self._fault
        if self._over.is_set():
            raise WorkerLost("the command has ended")
        return self._hand

    def _live(self) -> None:
        """Ray's life, from its start to its end in one thread: Linux ends processes with the thread that has started them."""
        begun = False
        try:
            os.environ.update(QUIET)
            import ray

            if not ray.is_initialized():  # a program may have its own
                _begin(self._settings.address)
                begun = True
            self._check_room()
            self._hand = ray.remote(Hand)
        except Exception as error:  # noqa: BLE001 (raised where a worker is asked for)
            self._fault = error
        self._ready.set()
        self._over.wait()
        if begun:
            ray.shutdown()

    def _check_room(self) -> None:
        """Refuse more workers than there are GPUs for: Ray would wait for further machines without a word."""
        import ray

        if not self._on_gpu:
            return
        wanted = self._settings.gpus_per_worker
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        there = [int(node["Resources"].get("GPU", 0)) // wanted for node in nodes if node["Alive"]]
        if sum(there) < self._settings.workers:
            raise EnvironmentFault(
                f"cluster.workers = {self._settings.workers}: Ray has GPUs for {sum(there)} of {wanted} each",
                "Ask for fewer, or for none: 0.",
            )


def _begin(address: str | None) -> None:
    import logging

    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "Ray cannot be started here"
        if address is not None:
            where = f"cluster.address = {address!r}: no Ray there"
        raise EnvironmentFault(
            f"{where}: {str(error).strip().partition(chr(10))[0]}",
            "Start one with `ray start --head`, or set cluster.workers to 0 to do without. One that asks for a token needs its ~/.ray/auth_token here.",
        ) from error


def _reach(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Ray itself tries for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "/" in host:
        raise ValueError("it is neither auto nor of the form host:port")
    socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()

"""How workers come to hold what the command holds, and what it refuses where they do not."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gepa_loop.cluster.by_ray import SAME
from gepa_loop.cluster.crew import Crew
from gepa_loop.cluster.piece import Desk, Piece, Tell
from gepa_loop.cluster.worker import Engine, WorkerRefused
from gepa_loop.config.teachers import ModelTeacher
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.device import cards_under
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.split import SPLIT
from gepa_loop.sampling.vllm.sampler import VllmSampler
from gepa_loop.task.made import code_marks
from gepa_loop.workers.answers import CrewSampler
from gepa_loop.workers.mirror import sweep_copies


@dataclass
class Held:
    """What a worker keeps."""

    lab: Lab
    adapters: dict[int, tuple[object, Adapter]] = field(default_factory=dict)
    """Those that it was sent, by their values: see `answers.adapter_of`."""


@dataclass(frozen=True)
class Opened:
    """What a worker says of itself."""

    identity: Mapping[str, object]
    """Of its lab."""
    cards: frozenset[str]
    """GPUs that it samples on."""


def check_workers(config: Config, cells: bool, own: bool) -> None:
    """Refuse what workers cannot share.

    Args:
        config: Of the command.
        cells: It trains the cells of a grid.
        own: Its task is an object of a program's.

    Raises:
        ConfigError: Says what.
    """
    what = None
    if not config.cluster.workers:
        return
    if cells:
        what = "a sweep, whose cells are configurations of their own"
    elif own:
        what = "a task that is an object, which only this process has"
    elif config.task.judge is not None:
        what = "task.judge, whose calls are counted in one place"
    cards = config.cluster.gpus_per_worker
    devices = {"model.device": config.model.device}
    if isinstance(config.teacher, ModelTeacher):
        devices["teacher.device"] = config.teacher.device
    for key, device in devices.items():
        wanted = 2 if device == SPLIT else int(device.partition(":")[2] or 0) + 1
        if wanted > cards:
            raise ConfigError(
                f"{key} = {device!r}: a worker sees {cards} of its machine's GPUs (cluster.gpus_per_worker), counted from cuda:0",
                f"Set cluster.gpus_per_worker to {wanted} or more.",
            )
    if what is not None:
        raise ConfigError(
            f"cluster.workers = {config.cluster.workers}: workers do not share {what}",
            "Set cluster.workers to 0.",
        )


class Workers:
    """Workers that are opening beside the command.

    Args:
        engine: Makes them.
        config: Of the run; its splits have numbers of items.
        day: As of `lab.open_lab`.
        trains: Whether students are trained.
    """

    def __init__(self, engine: Engine, config: Config, day: str | None, trains: bool) -> None:
        self._engine = engine
        self._expected: Future[Opened] = Future()
        given = {
            "config": config,
            "day": day or str(datetime.date.today()),
            "trains": trains,
            "cwd": str(Path.cwd()),
            "places": tuple(sys.path),
            "threads": _threads(),
        }
        opening = Piece("opening", open_worker, given)
        self.crew = Crew(engine, config.cluster.workers, opening, self._check)

    def share(self, lab: Lab, marks: Mapping[str, str], say: Callable[[str], None]) -> Lab:
        """The lab whose work they share; `say` is told of lost workers.

        Args:
            lab: The command's own.
            marks: Of the user's code.
            say: Takes a line.
        """
        self.crew.say = say
        if not self._expected.done():
            own = cards_under(lab.base.model)
            if lab.teacher is not None:
                own |= cards_under(lab.teacher.model)
            self._expected.set_result(Opened(lab.identity(**marks), own))
        # vLLM would have to start here first, beside a worker's on the same card.
        if not isinstance(lab.rollouts.sampler, VllmSampler):
            self.crew.own = Desk(self._engine.fetch, Held(lab))
        sampler = CrewSampler(self.crew, lab.rollouts.sampler, cuts=lab.base.device.type == "cuda")
        return replace(lab, crew=self.crew, rollouts=replace(lab.rollouts, sampler=sampler))

    def close(self) -> None:
        """End them."""
        self._expected.cancel()
        self.crew.close()

    def _check(self, found: Opened) -> bool:
        """Compare a worker with the command, in the thread of its place; returns whether they share a GPU.

        Raises:
            WorkerRefused: They differ.
        """
        expected = self._expected.result()
        differ = [
            f"{key}: {found.identity.get(key)!r} there, {value!r} here"
            for key, value in expected.identity.items()
            if found.identity.get(key) != value
        ]
        if differ:
            raise WorkerRefused(f"a worker has not what the command has: {'; '.join(differ)}", SAME)
        return bool(found.cards & expected.cards)


@contextmanager
def opened_workers(config: Config, day: str | None, trains: bool, idle: bool) -> Iterator[Workers | None]:
    """Those that a configuration asks for, as long as the block runs: they load what the command loads meanwhile.

    Args:
        config: Of the run.
        day: When it began, as of `lab.open_lab`.
        trains: Whether students are trained.
        idle: There is nothing for them to do.

    Raises:
        EnvironmentFault: What makes them is not installed.
    """
    from gepa_loop.cluster.by_ray import RayEngine, check_ray
    from gepa_loop.model.base import find_device

    if not config.cluster.workers:
        yield None
        return
    if idle:
        yield None
        return
    check_ray()
    on_gpu = find_device(config.model.device).type == "cuda"
    if on_gpu:
        _take_last_card()
    workers = Workers(RayEngine(config.cluster, on_gpu), config, day, trains)
    try:
        yield workers
    finally:
        workers.close()


def open_worker(
    desk: Desk,
    tell: Tell,
    config: Config,
    day: str,
    trains: bool,
    cwd: str,
    places: tuple[str, ...],
    threads: int,
) -> None:
    """Load what the command has; tells what is `Opened`."""
    try:
        os.chdir(cwd)
    except OSError as error:
        raise EnvironmentFault(
            f"{cwd}: {error.strerror}",
            "Its machine must have the command's files under the same path.",
        ) from None
    sweep_copies()
    # Where the command finds the user's modules.
    sys.path.extend(place for place in places if place not in sys.path)
    _set_threads(threads)
    lab = open_lab(config, day)
    if trains:
        lab = lab.for_training()
    desk.held = Held(lab)
    tell(Opened(lab.identity(**code_marks(config, None)), cards_under(lab.base.model)))


def _take_last_card() -> None:
    """Ray gives workers the first cards of a machine. Where there are more, the command has one of its own, else it shares the last."""
    import torch

    torch.cuda.set_device(torch.cuda.device_count() - 1)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_threads(count: int) -> None:
    """As many as the command has: how a sum is split among them decides its last bits."""
    import torch

    torch.set_num_threads(count)

"""Students that workers train, each some of them, in copies of their folders."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gepa_loop.cluster.piece import Desk, Piece, Tell
from gepa_loop.errors import EnvironmentFault, GepaLoopError
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.task.items import Item, Task
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.scorers import same_text
from gepa_loop.training.trainer import Pupil, train
from gepa_loop.workers.answers import adapter_of, shared_adapter
from gepa_loop.workers.mirror import Mirror, contents, lay_out, scratch, take_over

if TYPE_CHECKING:
    from gepa_loop.training.checkpoint import Checkpoint
    from gepa_loop.training.records import MetricsRow

T = TypeVar("T")

OWN_DISK = "It keeps copies of its students' folders there while they train: free some space, or have TMPDIR name another place before Ray starts."


@dataclass(frozen=True)
class Sheet:
    """A round's items: what of a lab is made in the run, other than its model and its scorer."""

    round: int
    splits: Mapping[str, tuple[Item, ...]]
    extract: str
    answers: Literal["given", "none", "references"]
    written: int
    unscored: frozenset[str]

    @classmethod
    def of(cls, lab: Lab) -> Sheet:
        """Those that a lab has."""
        task = lab.task
        return cls(
            lab.rollouts.round, dict(task.splits), task.extract, task.answers, task.written, task.unscored
        )

    def on(self, lab: Lab) -> Lab:
        """A worker's lab with them."""
        task: Task = replace(
            lab.task,
            splits=self.splits,
            extract=self.extract,
            answers=self.answers,
            written=self.written,
            unscored=self.unscored,
            scorer=same_text if self.answers == "references" else lab.task.scorer,
        )
        own = lab.with_task(task)
        return replace(own, rollouts=replace(own.rollouts, round=self.round))


@dataclass(frozen=True)
class Course:
    """What all students of a call are given."""

    stack: Adapter | None
    before: Mapping[str, float]
    until: int | None
    """As of `training.trainer.train`."""
    finish: bool = False
    """Each is to be ended as well, where its last step is reached: see `training.distilled.finish`."""


def apart(places: int, students: int, stale: int) -> bool:
    """Whether students are trained by workers, each by one; else the command trains one, and workers answer its questions.

    That a step is sampled by several saves little of it (`answers.LEAST`), so it is for one student alone; and one worker samples for it where
    that is done beside its updates. Those on the command's GPU do not sample then, as long as there are others.

    Args:
        places: How many workers there are.
        students: How many there are.
        stale: `distill.stale`.
    """
    return students > 1 or (places == 1 and not stale)


def train_apart(lab: Lab, pupils: Sequence[Pupil], course: Course) -> list[Checkpoint]:
    """`training.trainer.train`, by workers: as many students each. The folders hold what they would hold without.

    Raises:
        GepaLoopError: What training raises; or a piece was lost too often.
    """
    from gepa_loop.training.checkpoint import load_checkpoint

    crew = lab.crew
    assert crew is not None, "there are workers"
    groups = [part for part in shared_out(pupils, crew.places) if part]
    lab.rollouts.sampler.close()  # the last card may be a worker's, too, and it is workers that sample now
    stack, sheet = shared_adapter(crew, course.stack), Sheet.of(lab)

    def made(group: Sequence[Pupil]) -> Piece:
        given = {
            "candidates": [pupil.candidate for pupil in group],
            "places": [str(pupil.folder) for pupil in group],
            "files": [contents(pupil.folder) for pupil in group],
            "sheet": sheet,
            "stack": stack,
            "before": dict(course.before),
            "until": course.until,
            "finishes": course.finish,
        }
        names = ", ".join(pupil.candidate.id for pupil in group)
        return Piece(f"training {names}", learn, given)

    for number, (kind, value) in crew.begin([partial(made, group) for group in groups]):
        group = groups[number]
        if kind == "row":
            who, row = value
            group[who].progress(row)
        else:
            take_over([(pupil.folder, news) for pupil, news in zip(group, value, strict=True)])
    reached = [load_checkpoint(pupil.checkpoints) for pupil in pupils]
    return [one for one in reached if one is not None]


def shared_out(pupils: Sequence[T], workers: int) -> list[Sequence[T]]:
    """Students in as many parts of like size, in their order."""
    count = len(pupils)
    return [pupils[n * count // workers : (n + 1) * count // workers] for n in range(workers)]


def learn(
    desk: Desk,
    tell: Tell,
    candidates: Sequence[Candidate],
    places: Sequence[str],
    files: Sequence[Mapping[str, bytes]],
    sheet: Sheet,
    stack: Mapping[str, Any] | None,
    before: Mapping[str, float],
    until: int | None,
    finishes: bool,
) -> None:
    """Train students; tells ("row", (whose, row of metrics.jsonl)), and ("files", of each what is new) whenever they are saved.

    Those that a worker before has ended, which was lost with another, stay as they are.
    """
    from gepa_loop.training.distilled import ended, finish

    lab, below = sheet.on(desk.held.lab), adapter_of(desk, stack)
    with _copies(files, places) as folders:
        mirrors = [Mirror.of(folder) for folder in folders]
        pupils = [
            Pupil(one, folder, partial(_tell_row, tell, n))
            for n, (one, folder) in enumerate(zip(candidates, folders, strict=True))
            if not (folder / "result.json").exists()
        ]
        if not pupils:
            return

        def saved() -> None:
            tell(("files", [mirror.news() for mirror in mirrors]))

        reached = train(lab, pupils, stack=below, before=before, until=until, saved=saved)
        saved()
        if finishes:
            for checkpoint, pupil in zip(reached, pupils, strict=True):
                if ended(checkpoint, lab.config.distill):
                    finish(lab, checkpoint, pupil.folder, below)
                    saved()


def _tell_row(tell: Tell, whose: int, row: MetricsRow) -> None:
    tell(("row", (whose, row)))


@contextmanager
def _copies(files: Sequence[Mapping[str, bytes]], places: Sequence[str]) -> Iterator[list[Path]]:
    """Folders with these files; an error that names one of them names the run's in its place, unless it is the worker's disk."""
    with scratch() as place_of_copies:
        folders = [place_of_copies / f"{n:02d}" for n in range(len(files))]
        try:
            for folder, own in zip(folders, files, strict=True):
                lay_out(folder, own)
            yield folders
        except GepaLoopError as error:
            if isinstance(error.__cause__, OSError) and str(place_of_copies) in str(error):
                raise EnvironmentFault(f"a worker on {platform.node()}: {error}", OWN_DISK) from None
            for folder, place in zip(folders, places, strict=True):
                error.args = (str(error).replace(str(folder), place),)
                error.hint = error.hint.replace(str(folder), place)
            raise

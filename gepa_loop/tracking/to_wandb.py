"""Weights & Biases. WANDB_API_KEY, WANDB_BASE_URL, WANDB_ENTITY, WANDB_MODE and WANDB_DIR are read by the library."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from gepa_loop.tracking.base import NOTHING, Ending, Opening, Point, Value
from gepa_loop.tracking.wandb_file import steps_in

CODES: Mapping[Ending, int] = {"done": 0, "stopped": 130, "failed": 1}
FINISH_SECONDS = 120.0
"""Longest wait for an upload at the end; what is left lies in the run's folder, for `wandb sync`."""


class Wandb:
    """A run whose history has a row for each point; each series has its own axis, `<series>/step`.

    Of what it takes by itself, only the name of the machine and its load are sent: the command line may hold secrets, and so may what is
    printed.
    """

    def __init__(self, opening: Opening) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            finish_timeout=FINISH_SECONDS,
        )
        self._run = wandb.init(
            project=opening.project,
            name=opening.name,
            id=opening.id,
            resume="allow" if opening.id else None,
            config=dict(opening.config) if opening.id is None else None,
            dir=None if os.environ.get("WANDB_DIR") else str(opening.folder),
            settings=settings,
        )
        self.id = str(self._run.id)
        self._known: set[str] = set()
        self._steps: dict[str, int] | None = None
        if not self._run.offline:
            self.where = str(self._run.url)
            return
        # Each process has a folder of its own, named by when it began.
        own = Path(self._run.settings.sync_dir)
        there = sorted({own, *own.parent.glob(f"offline-run-*-{self.id}")})
        self.where = f"wandb sync {shlex.join(map(str, there))}"
        files = [file for folder in there if folder != own for file in folder.glob(f"run-{self.id}.wandb")]
        self._steps = {} if opening.id is None else steps_in(files)

    def held(self, series: str) -> int | None:
        """By its files, where it is offline: a process that is killed takes with it what it has kept in memory."""
        return None if self._steps is None else self._steps.get(f"{series}/step", NOTHING)

    def log(self, points: Sequence[Point], first: int) -> None:
        for number, point in enumerate(points, first):
            if point.series not in self._known:
                self._known.add(point.series)
                self._run.define_metric(f"{point.series}/*", step_metric=f"{point.series}/step")
            # Numbered: a point that a killed process had sent is not taken again.
            self._run.log({f"{point.series}/{key}": v for key, v in point.values.items()}, step=number)

    def summary(self, values: Mapping[str, Value]) -> None:
        self._run.summary.update({f"result/{key}": value for key, value in values.items()})

    def artifact(self, name: str, text: str) -> None:
        import wandb

        artifact = wandb.Artifact(f"{self.id}-{name.partition('.')[0]}", "report")
        with artifact.new_file(name, "w", "utf-8") as file:
            file.write(text)
        self._run.log_artifact(artifact)

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code=CODES[ending])

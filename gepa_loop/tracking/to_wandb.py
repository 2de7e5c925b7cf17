"""Weights & Biases. WANDB_API_KEY, WANDB_BASE_URL, WANDB_ENTITY, WANDB_MODE and WANDB_DIR are read by the library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from gepa_loop.tracking.base import Ending, Opening, Point, Value

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

        own = wandb.Settings(
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
            settings=own,
        )
        self.id = str(self._run.id)
        offline = self._run.offline
        self.where = f"wandb sync {self._run.settings.sync_dir}" if offline else str(self._run.url)
        self._known: set[str] = set()

    def held(self, series: str) -> int | None:  # noqa: ARG002 (of the protocol)
        return None

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

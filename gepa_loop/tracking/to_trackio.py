"""Trackio. TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL and HF_TOKEN are read by the library."""

from __future__ import annotations

import io
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from gepa_loop.tracking.base import NOTHING, Ending, Opening, Point, Value

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that have it write to another machine, which is not asked what it has."""


class Trackio:
    """A run whose log has a row for each point. It goes on by its name, so a mark in that makes it the only one."""

    def __init__(self, opening: Opening) -> None:
        import trackio

        self._project = opening.project
        self.id = opening.id or f"{opening.name}-{uuid.uuid4().hex[:6]}"
        self.where = f"trackio show --project {opening.project}, run {self.id}"
        with _quiet():
            self._run = trackio.init(
                project=opening.project,
                name=self.id,
                resume="never" if opening.id is None else "allow",
                config=dict(opening.config) if opening.id is None else None,
                embed=False,
            )
        self._steps = None if any(map(os.environ.get, ELSEWHERE)) else self._stored()

    def _stored(self) -> dict[str, float]:
        """The last step of each series in the local store: its queue may have lost what came just before a kill."""
        from trackio.sqlite_storage import SQLiteStorage

        steps: dict[str, float] = {}
        for row in SQLiteStorage.get_logs(self._project, self.id):
            for key, value in row.items():
                if key.endswith("/step"):
                    steps[key] = max(value, steps.get(key, NOTHING))
        return steps

    def held(self, series: str) -> int | None:
        return None if self._steps is None else int(self._steps.get(f"{series}/step", NOTHING))

    def log(self, points: Sequence[Point], first: int) -> None:
        for number, point in enumerate(points, first):
            self._run.log({f"{point.series}/{key}": v for key, v in point.values.items()}, step=number)

    def summary(self, values: Mapping[str, Value]) -> None:
        self._run.log({f"result/{key}": value for key, value in values.items()})

    def artifact(self, name: str, text: str) -> None:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text, "utf-8")
            named = re.sub(r"[^A-Za-z0-9._-]", "_", f"{self.id}-{file.stem}")
            self._run.log_artifact(file, name=named, type="report")

    def close(self, ending: Ending) -> None:  # noqa: ARG002 (of the protocol)
        with _quiet():
            self._run.finish()


@contextmanager
def _quiet() -> Iterator[None]:
    """It prints to standard output, which is the command's own."""
    with redirect_stdout(io.StringIO()):
        yield

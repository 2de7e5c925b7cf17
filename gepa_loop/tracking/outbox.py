"""What a tracker has been sent, and what it is owed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gepa_loop.config.track import TrackConfig
from gepa_loop.errors import EnvironmentFault
from gepa_loop.outside.modules import foreign
from gepa_loop.outside.redact import redacted
from gepa_loop.run.files import read_json, write_json
from gepa_loop.tracking.base import NOTHING, Opening, Tracker
from gepa_loop.tracking.choose import tracker_of
from gepa_loop.tracking.facts import REPORT, files, leaves, points, result, without_secrets
from gepa_loop.tracking.records import TrackRecord

FOLDER = "track"
"""Of a run: `<kind>.json` of each tracker that it has had."""


class Outbox:
    """Sends a tracker what the run's files say and it lacks, each point once; `record` changes in place, and is kept in `file`."""

    def __init__(
        self, run: Path, tracker: Tracker, record: TrackRecord, file: Path, secrets: Mapping[str, str]
    ):
        self.tracker = tracker
        self._run, self._record, self._file, self._secrets = run, record, file, secrets
        self._read: dict[Path, tuple[int, int]] = {}
        """Files as they were when all that they said had been sent."""

    def reconcile(self) -> None:
        """Take the tracker's word for what it has: a process that was killed has sent more than it wrote down, or less than it
        thought."""
        named = {point.series for file in files(self._run) for point in points(self._run, file)}
        sent, lost = self._record["sent"], False
        for series in named | set(sent):
            if (held := self.tracker.held(series)) is not None:
                lost = lost or held < sent.get(series, NOTHING)
                sent[series] = held
        if lost:
            # What was on its way comes after what was lost before it, and under other numbers, as the tracker wants them to rise.
            self._record["points"] += len(self._record["pending"])
            self._record["pending"] = []
        write_json(self._file, self._record)

    def send(self) -> None:
        """Send the points that are owed; first those of a call that did not come to its end, with the numbers that they had."""
        self._send_again()
        for file in files(self._run):
            found = file.stat()
            state = found.st_mtime_ns, found.st_size
            if self._read.get(file) == state:
                continue
            sent = self._record["sent"]
            owed = [p for p in points(self._run, file) if p.step > sent.get(p.series, NOTHING)]
            if owed:
                self._record["pending"] = [{"series": point.series, "step": point.step} for point in owed]
                write_json(self._file, self._record)
                self.tracker.log(owed, self._record["points"])
                self._settle()
            self._read[file] = state

    def _send_again(self) -> None:
        if not (pending := self._record["pending"]):
            return
        said = {(p.series, p.step): p for file in files(self._run) for p in points(self._run, file)}
        for number, one in enumerate(pending, self._record["points"]):
            point = said.get((one["series"], one["step"]))
            if point is not None and point.step > self._record["sent"].get(point.series, NOTHING):
                self.tracker.log([point], number)
        self._settle()

    def _settle(self) -> None:
        """Write down that what was pending is sent."""
        pending, sent = self._record["pending"], self._record["sent"]
        self._record["points"] += len(pending)
        for one in pending:
            sent[one["series"]] = max(one["step"], sent.get(one["series"], NOTHING))
        self._record["pending"] = []
        write_json(self._file, self._record)

    def send_result(self) -> None:
        """Send the outcome and the report, where they are there and it has not had them as they are."""
        if (found := result(self._run)) is not None:
            file, values = found
            if self._is_new("result.json", file.read_text("utf-8")):
                self.tracker.summary(values)
                self._note("result.json", file.read_text("utf-8"))
        if (page := self._run / REPORT).exists():
            text = redacted(page.read_text("utf-8"), self._secrets)
            if self._is_new(REPORT, text):
                self.tracker.artifact(REPORT, text)
                self._note(REPORT, text)

    def _is_new(self, name: str, text: str) -> bool:
        return self._record["whole"].get(name) != _sum(text)

    def _note(self, name: str, text: str) -> None:
        self._record["whole"][name] = _sum(text)
        write_json(self._file, self._record)


def open_outbox(settings: TrackConfig, config: Mapping[str, Any], run: Path) -> Outbox:
    """Begin a tracked run, or go on with the one that this run has had.

    Args:
        settings: Which tracker; its kind is given.
        config: The run's configuration, as JSON has it.
        run: Its directory.

    Raises:
        EnvironmentFault: The tracker cannot be opened.
        ConfigError: What the user's function returns is no tracker.
    """
    kind = settings.kind or ""
    file = run / FOLDER / f"{kind.replace(':', '-')}.json"
    record = read_json(file, TrackRecord) if file.exists() else None
    if record is not None and record["project"] != settings.project:
        record = None
    id_, name = (None if record is None else record["run"]), settings.name or run.name
    with foreign(EnvironmentFault, f"track.kind = {kind!r}: opening it", "Without it nothing is tracked."):
        tracker = tracker_of(kind)(Opening(run, settings.project, name, without_secrets(config), id_))
        if record is None:
            record = {
                "project": settings.project,
                "run": tracker.id,
                "points": 0,
                "sent": {},
                "pending": [],
                "whole": {},
            }
            write_json(file, record)
        record.setdefault("pending", [])  # an earlier version wrote none
        # Values of keys that name a secret are hidden as those of variables are.
        secrets = {**os.environ, **{key: str(value) for key, value in leaves(config, joint=".")}}
        outbox = Outbox(run, tracker, record, file, secrets)
        outbox.reconcile()
    return outbox


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

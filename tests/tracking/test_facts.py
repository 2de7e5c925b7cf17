"""What files say to a tracker, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gepa_loop.run.files import write_json, write_jsonl
from gepa_loop.tracking.base import Point
from gepa_loop.tracking.facts import files, leaves, points, result, without_secrets


def test_the_numbers_and_texts_of_a_value_by_the_names_on_the_way() -> None:
    value = {
        "loss": 0.5,
        "step": 3,
        "warm": True,
        "skipped": False,
        "none": None,
        "empty": "",
        "why": "x" * 600,
        "seconds": {"generate": 1.5},
        "ci": [0.1, 0.2],
        "living": ["a1", "b2"],
        "candidates": [{"id": "a1", "student": {"mean": 0.25}}, {"id": "b2", "student": None}],
        "cells": [{"cell": "low", "mean": 1}],
    }
    assert dict(leaves(value)) == {
        "loss": 0.5,
        "step": 3.0,
        "warm": 1.0,
        "skipped": 0.0,
        "why": "x" * 500,
        "seconds/generate": 1.5,
        "ci/0": 0.1,
        "ci/1": 0.2,
        "living": "a1 b2",
        "candidates/a1/id": "a1",
        "candidates/a1/student/mean": 0.25,
        "candidates/b2/id": "b2",
        "cells/low/cell": "low",
        "cells/low/mean": 1.0,
    }


def test_the_files_of_a_run(tmp_path: Path) -> None:
    def row(step: int, halved: str = "", loss: float | None = 1.0) -> dict[str, Any]:
        return {"step": step, "loss": loss, "halved": halved, "seconds": {"loss": 2.0}}

    metrics = tmp_path / "round_00" / "distill" / "aa11" / "metrics.jsonl"
    write_jsonl(metrics, [row(1), row(2, "fell"), row(3, "fell", None)])
    write_jsonl(tmp_path / "events.jsonl", [{"event": "start", "items": {"train": 4}}, {"event": "done"}])
    candidate = {
        "number": 0,
        "id": "aa11",
        "text": "a prompt",
        "status": "accepted",
        "tokens": 5,
        "pareto_mean": 0.5,
        "objectives": None,
        "cost": {"usd": 0.1},
        "spent": {"rollouts": 8},
        "train_scores": {"item": [1.0]},
    }
    write_jsonl(tmp_path / "round_00" / "optimize" / "candidates.jsonl", [candidate])
    write_json(tmp_path / "round_00" / "race" / "000010.json", {"step": 10, "scores": {"aa11": 0.3}})
    write_json(
        tmp_path / "round_00" / "decision.json",
        {"round": 0, "winner": None, "level": 0.05, "race": [{"step": 10}]},
    )
    write_jsonl(tmp_path / "low_seed0" / "distill" / "aa11" / "metrics.jsonl", [row(1)])
    write_jsonl(tmp_path / "round_00" / "evaluate" / "aa11.jsonl", [{"item": "i", "score": 1.0}])
    found = [point for file in files(tmp_path) for point in points(tmp_path, file)]
    assert found == [
        Point("events", 0, {"event": "start", "items/train": 4.0, "step": 0.0}),
        Point("events", 1, {"event": "done", "step": 1.0}),
        Point(
            "round_00/optimize",
            0,
            {
                "id": "aa11",
                "status": "accepted",
                "tokens": 5.0,
                "pareto_mean": 0.5,
                "cost/usd": 0.1,
                "spent/rollouts": 8.0,
                "step": 0.0,
            },
        ),
        Point("low_seed0/aa11", 1, {"step": 1.0, "loss": 1.0, "seconds/loss": 2.0}),
        Point("round_00/aa11", 1, {"step": 1.0, "loss": 1.0, "seconds/loss": 2.0}),
        # A stretch that was taken back had these steps before: it goes on beside them.
        Point("round_00/aa11/halved", 2, {"step": 2.0, "loss": 1.0, "halved": "fell", "seconds/loss": 2.0}),
        Point("round_00/aa11/halved", 3, {"step": 3.0, "halved": "fell", "seconds/loss": 2.0}),
        Point("round_00/race", 10, {"step": 10.0, "scores/aa11": 0.3}),
        Point("decision", 0, {"round": 0.0, "level": 0.05, "step": 0.0}),
    ]
    assert result(tmp_path) is None
    write_json(tmp_path / "optimize" / "result.json", {"winner": "aa11", "files": {"x": "1"}, "refused": 2})
    said = result(tmp_path)
    assert said is not None and said[1] == {"winner": "aa11", "refused": 2.0}


def test_a_configuration_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    config = {
        "seed": 3,
        "model": {"name": "m", "date": None},
        "task": {"options": {"api_key": "abc", "url": "https://me:pw@host/x", "note": "sk-0123456789"}},
        "sampling": {"max_tokens": 8},
    }
    assert without_secrets(config) == {
        "seed": 3.0,
        "model.name": "m",
        "task.options.api_key": "***",
        "task.options.url": "https://***@host/x",
        "task.options.note": "***",
        "sampling.max_tokens": 8.0,
    }

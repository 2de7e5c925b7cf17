"""The time of a step, kept from run to run."""

import json
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.cost.pace import FILE, KEPT, Pace, keep_pace, known_pace, pace_of
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import write_json
from gepa_loop.training.records import MetricsRow


def row(seconds: float, warm: bool = False, peak: float = 1.0) -> MetricsRow:
    phases = {"generate": seconds / 4, "backward": 3 * seconds / 4, "check": 100.0}
    made: Any = {"seconds": phases, "warm": warm, "peak_memory_gib": peak}
    return made


def lab(*sets: str) -> Lab:
    return open_lab(load_config("smoke", sets, env={}))


def test_the_median_step_without_the_first_the_warm_ones_and_checks() -> None:
    rows = [row(50, peak=9.0), row(1, warm=True), row(2), row(40), row(4)]
    assert pace_of(rows, "r") == Pace(4.0, 46.0 + 36.0, 9.0, "r", 1.0)
    assert pace_of([row(50), row(1, warm=True), row(3, warm=True)], "r") == Pace(2.0, 49.0, 1.0, "r", 0.5)
    assert pace_of([row(50)], "r") == Pace(50.0, 0.0, 1.0, "r", 12.5)
    assert pace_of([row(9), row(8), row(2), row(3)], "r", skipped=2) == Pace(
        2.5, 6.5 + 5.5 + 0.5, 1.0, "r", 0.625
    )
    assert pace_of([], "r") is None


def test_a_pace_is_known_again_for_the_same_recipe_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    mine, pace = lab(), Pace(1.5, 9.0, 2.0, "run a", 1.0)
    assert known_pace(mine) is None
    keep_pace(mine, pace)
    assert known_pace(mine) == pace
    # What no step's time depends on.
    assert known_pace(lab("distill.steps=9", "distill.lr=1e-5", "seed=3", "cost.gpu_usd_hour=2")) == pace
    for other in ("distill.rollouts=16", "lora.rank=16", "sampling.max_tokens=9", "objective.type=sft"):
        assert known_pace(lab(other)) is None
    keep_pace(mine, Pace(2.5, 9.0, 2.0, "run b", 1.0))
    assert known_pace(mine) == Pace(2.5, 9.0, 2.0, "run b", 1.0)


def test_a_record_that_is_spoilt_or_full_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    mine = lab()
    for text in ("{", "[]", '{"steps": 3}'):
        (tmp_path / FILE).write_text(text)
        assert known_pace(mine) is None
    keep_pace(mine, Pace(1.5, 9.0, 2.0, "run a", 1.0))
    assert known_pace(mine) == Pace(1.5, 9.0, 2.0, "run a", 1.0)
    record = json.loads((tmp_path / FILE).read_text())
    write_json(tmp_path / FILE, {"steps": {key: {"seconds": 1.0} for key in record["steps"]}})
    assert known_pace(mine) is None, "another version wrote it"
    many = {f"{n:03d}": {} for n in range(KEPT)}
    write_json(tmp_path / FILE, {"steps": many})
    keep_pace(mine, Pace(1.5, 9.0, 2.0, "run a", 1.0))
    kept = json.loads((tmp_path / FILE).read_text())["steps"]
    assert len(kept) == KEPT and "000" not in kept and known_pace(mine) is not None
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / FILE))  # no folder
    keep_pace(mine, Pace(1.5, 9.0, 2.0, "run a", 1.0))

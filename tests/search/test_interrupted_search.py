"""A search as a process: killed anywhere, interrupted, followed by another process."""

import json
import random
import signal
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from anthropic_api import MODEL, anthropic_api
from coin import COMMAND
from openai_api import openai_api
from processes import GEPA_LOOP, by_request, killed_when, start
from recorded import recorded

from gepa_loop.run.files import read_jsonl, read_record


def finish(cwd: Path, *more: str) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """What the command makes of what lies there: candidates, front and result, without times."""
    process = start(cwd, *COMMAND, *more)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    folder = cwd / "runs" / "r" / "optimize"
    candidates, front = read_jsonl(folder / "candidates.jsonl"), read_jsonl(folder / "front.jsonl")
    result = read_record(folder / "result.json")
    for row in [*(r["cost"] for r in candidates), *(r["spent"] for r in candidates), result["spent"]]:
        del row["seconds"]
    return candidates, front, result


def written(cwd: Path) -> int:
    """Bytes of the search's own files."""
    folder = cwd / "runs" / "r" / "optimize"
    return sum(p.stat().st_size for p in folder.rglob("*.jsonl")) if folder.exists() else 0


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[list[Any], list[Any], dict[str, Any]], int]:
    cwd = tmp_path_factory.mktemp("whole")
    return finish(cwd), written(cwd)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_anywhere_then_the_same_command_gives_the_same_search(
    whole: tuple[Any, int], tmp_path: Path, seed: int
) -> None:
    """Killed twice, each time when a random number of bytes has been written."""
    (expected, size), rng = whole, random.Random(seed)
    assert {row["status"] for row in expected[0]} == {"accepted", "rejected", "refused"}
    for place in sorted(rng.uniform(0, 0.7) for _ in range(2)):
        killed_when(lambda: written(tmp_path) >= place * size, tmp_path, *COMMAND)  # noqa: B023 (called in this pass)
    assert not (tmp_path / "runs" / "r" / "optimize" / "result.json").exists()
    assert finish(tmp_path) == expected


def test_kill_9_with_a_language_model_asks_for_no_recorded_reply_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--set", f"optimize.reflection.model=anthropic/{MODEL}")
    (tmp_path / "whole").mkdir()
    with anthropic_api(monkeypatch, by_request) as api:
        expected = finish(tmp_path / "whole", *more)
    asked, size = len(api.messages), written(tmp_path / "whole")
    assert asked == len(expected[0]) - 1 > 4
    cwd = tmp_path / "killed"
    cwd.mkdir()
    with anthropic_api(monkeypatch, by_request) as api:
        for place in (0.3, 0.6):
            killed_when(lambda: written(cwd) >= place * size, cwd, *COMMAND, *more)  # noqa: B023 (called in this pass)
        assert finish(cwd, *more) == expected
    assert "gepa/proposals.jsonl" in recorded(cwd / "runs")
    assert asked <= len(api.messages) <= asked + 2


def test_kill_9_with_calls_under_way_asks_for_no_recorded_reply_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("optimize.reflection.model=openai/gpt-4o-mini", "optimize.reflection.parallel=3")
    more = [word for one in (*model, "optimize.proposals=5") for word in ("--set", one)]
    asked: list[str] = []

    def by_turns(turns: list[dict[str, str]], number: int) -> str:
        """The same reply whenever a kill has lost it; a start asks one more question, which is no proposal."""
        said = json.dumps(turns)
        if "feedback" in said:
            asked.append(said)
        return json.dumps(
            {"new_instruction": f"Say the number after it, variant {zlib.crc32(said.encode())}."}
        )

    (tmp_path / "whole").mkdir()
    with openai_api(monkeypatch, by_turns):
        expected = finish(tmp_path / "whole", *more)
    once, size = len(asked), written(tmp_path / "whole")
    assert once == len(expected[0]) - 1 > 9
    asked.clear()
    cwd = tmp_path / "killed"
    cwd.mkdir()
    with openai_api(monkeypatch, by_turns):
        for place in (0.25, 0.6):
            killed_when(lambda: written(cwd) >= place * size, cwd, *COMMAND, *more)  # noqa: B023 (called in this pass)
        assert finish(cwd, *more) == expected
    # A kill loses what was under way, three calls at most.
    assert once <= len(asked) <= once + 2 * 3
    numbers = [
        row["number"] for row in read_jsonl(cwd / "runs" / "r" / "optimize" / "gepa" / "proposals.jsonl")
    ]
    assert sorted(numbers) == list(range(once))


def test_ctrl_c_in_the_seeds_evaluation_is_clean(tmp_path: Path) -> None:
    # Forty-eight calls of 64 tokens: seconds, of which the first call is a small part.
    long = (
        "sampling.batch=1",
        "sampling.max_tokens=64",
        "task.splits.pareto=48",
        "optimize.max_rollouts=200",
    )
    process = start(tmp_path, *COMMAND, *(word for one in long for word in ("--set", one)))
    seen = tmp_path / "runs" / "r" / "optimize" / "gepa" / "evaluations.jsonl"
    while process.poll() is None and not read_jsonl(seen):
        time.sleep(0.0005)  # the process is watched, not waited for
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Continue with:" in stderr and "Traceback" not in stderr and "Exception" not in stdout + stderr
    assert not (seen.parents[1] / "candidates.jsonl").exists(), "the seed was still being scored"
    assert 0 < len(read_jsonl(seen)) < 48


def test_another_process_reads_a_search_that_runs(tmp_path: Path) -> None:
    def listed() -> str:
        done = subprocess.run(
            [*GEPA_LOOP, "prompts", "list", "r"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    process = start(tmp_path, *COMMAND)
    folder = tmp_path / "runs" / "r" / "optimize"
    while process.poll() is None and len(read_jsonl(folder / "candidates.jsonl")) < 3:
        time.sleep(0.0005)  # the process is watched, not waited for
    process.send_signal(signal.SIGSTOP)
    rows = read_jsonl(folder / "candidates.jsonl")
    assert process.poll() is None and not (folder / "result.json").exists()
    assert [row["number"] for row in rows] == list(range(len(rows))) and len(rows) >= 3
    assert "so far" in listed()
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert read_jsonl(folder / "candidates.jsonl")[: len(rows)] == rows
    assert "stopped by" in listed()

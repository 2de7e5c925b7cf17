"""A loop of two rounds whose prompts a language model writes, killed in its second round and continued."""

from pathlib import Path
from typing import Any

import ladder
import pytest
from anthropic_api import KEY, MODEL, anthropic_api
from processes import by_request, killed_when, start

from gepa_loop.run.files import read_json, read_jsonl

SETS = [
    *ladder.SETS,
    "seed=2",
    "loop.alpha=0.5",
    "optimize.max_rollouts=90",
    "distill.rollouts=32",
    "distill.group=8",
    "distill.steps=5",
    "evaluate.samples=1",
    f"optimize.reflection.model=anthropic/{MODEL}",
]
COMMAND = [
    "loop",
    "--config",
    "smoke",
    "--run-name",
    "r",
    "--rounds",
    "2",
    *(w for s in SETS for w in ("--set", s)),
]


def outcome(root: Path) -> dict[str, Any]:
    """What a run's files say but for times, by name."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name in ("candidates.jsonl", "front.jsonl", "proposals.jsonl"):
            rows = read_jsonl(path)
            for row in rows:
                row.pop("seconds", None)
                for costs in (row.get("cost", {}), row.get("spent", {})):
                    costs.pop("seconds", None)
            found[name] = rows
        elif path.name == "decision.json" or path.suffix in (".safetensors", ".txt"):
            found[name] = path.read_bytes()
    result = read_json(root / "result.json")
    found["result.json"] = {key: result[key] for key in ("status", "adapter", "rounds", "test")}
    return found


def finish(cwd: Path) -> None:
    process = start(cwd, *COMMAND)
    stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr
    assert KEY not in stdout + stderr


def test_a_loop_with_a_language_model_that_is_killed_in_its_second_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the search, then in the distillation: the files, the dollars and the questions of a loop without a kill."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    with anthropic_api(monkeypatch, by_request) as api:
        finish(whole)
        expected, asked = outcome(whole / "runs" / "r"), len(api.messages)
    assert expected["result.json"]["rounds"][0]["winner"], (
        "the second round stands on the first one's student"
    )
    for number in (0, 1):
        rows = expected[f"round_0{number}/optimize/candidates.jsonl"][1:]
        assert len(rows) > 2
        assert all(row["proposer"] == f"anthropic/{MODEL}" and row["cost"]["usd"] > 0 for row in rows)

    second = killed / "runs" / "r" / "round_01"
    proposals = second / "optimize" / "gepa" / "proposals.jsonl"
    with anthropic_api(monkeypatch, by_request) as api:
        killed_when(lambda: len(read_jsonl(proposals)) >= 2, killed, *COMMAND)
        assert not (second / "optimize" / "front.jsonl").exists()
        killed_when(lambda: any(second.glob("distill/*/metrics.jsonl")), killed, *COMMAND)
        assert not (second / "decision.json").exists()
        finish(killed)
    assert outcome(killed / "runs" / "r") == expected
    # A reply that was under way at the kill is asked for again, and no other.
    assert asked <= len(api.messages) <= asked + 1

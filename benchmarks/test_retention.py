"""What the comparison of students rests on: the peer's teacher reads the prompt, and shares are those of the program."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.retention import OURS, Side, slug, table, with_shares
from benchmarks.retention_trl import PromptedTeacher, WallClock
from gepa_loop.run.files import write_jsonl


def test_the_teacher_reads_its_prompt_before_the_same_completion() -> None:
    teacher = PromptedTeacher.__new__(PromptedTeacher)
    teacher.prompts = {(5, 6): [1, 2, 3, 4], (7,): [8, 9]}
    teacher._tokenizer = SimpleNamespace(pad_token_id=0)
    ids = torch.tensor([[0, 5, 6, 20, 21], [0, 0, 7, 22, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0]])
    found, shown = teacher._prompted(ids, mask, 2)
    assert found.tolist() == [[1, 2, 3, 4, 20, 21], [0, 0, 8, 9, 22, 0]]
    assert shown.tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]]


def test_the_rate_falls_to_0_over_the_seconds() -> None:
    clock = WallClock(1e9, 0.5)
    optimizer = SimpleNamespace(param_groups=[{"lr": 9.0}])
    control = SimpleNamespace(should_training_stop=False)
    clock.on_train_begin(None, None, control)
    clock.on_pre_optimizer_step(None, None, control, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    clock.on_step_end(None, None, control)
    assert not control.should_training_stop and clock.steps == 1
    clock.seconds = 0.0
    clock.on_step_end(None, None, control)
    assert control.should_training_stop


def test_shares_are_of_the_same_items_and_seed(tmp_path: Path) -> None:
    def rows(path: Path, *scores: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [{"item": str(n), "sample": 0, "score": score} for n, score in enumerate(scores)])

    test = tmp_path / "runs" / f"{slug(OURS[0].name)}-router-7" / "test"
    for suffix in ("", "_greedy"):
        rows(test / f"base{suffix}.jsonl", *[0.0] * 8)
        rows(test / f"prompted{suffix}.jsonl", *[1.0] * 6, 0.0, 0.0)
    student = {str(n): float(n < 3) for n in range(8)}
    row = {
        "side": Side("peer").name, "task": "router", "seed": 7, "how": None, "steps": 4, "seconds": 2.0,
        "student_greedy": 0.375, "student_sampled": 0.375, "scores": {"greedy": student, "sampled": student},
    }  # fmt: skip
    (found,) = with_shares([row], tmp_path)
    assert found["share_greedy"] == found["share_sampled"] == pytest.approx(0.5)
    low, high = found["share_greedy_ci"]
    assert 0 < low < 0.5 < high <= 1 and "scores" not in found
    assert [column._cells for column in table([found]).columns][:4] == [["router"], ["peer"], ["4"], ["2"]]

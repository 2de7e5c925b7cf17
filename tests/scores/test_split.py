"""Rows of a split, made in batches that a killed run makes again, with long questions among short ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Sampler, Sampling
from gepa_loop.sampling.batches import ROW, shared_length
from gepa_loop.scores.split import evaluate
from gepa_loop.search.plan import SAMPLE_READ, sample_of
from gepa_loop.task.prompts import candidate

LONG = ("0", "5", "11", "12")


@dataclass
class Counting:
    """A sampler that keeps how many rows each call had, and can be made to stop after some calls."""

    inner: Sampler
    calls: list[int] = field(default_factory=list)
    stop_after: int = 10**6

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(len(prompts))
        return self.inner.generate(prompts, sampling, seeds, adapter)

    def sleep(self) -> dict[str, float]:
        return self.inner.sleep()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """32 questions of each split, four of which take over `ROW` tokens; eight rows a batch, two samples an item."""
    rows = [
        {
            "question": f"{split}: what is {n} plus 1? " + "Think. " * (150 if str(n) in LONG else 0),
            "answer": n + 1,
            "split": split,
        }
        for split in ("train", "pareto", "select", "test")
        for n in range(32)
    ]
    path = tmp_path_factory.mktemp("task") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sizes = [f"task.splits.{split}=32" for split in ("train", "pareto", "select", "test")]
    sets = [
        "task.kind=jsonl",
        f"task.name={path}",
        "task.options={}",
        *sizes,
        "sampling.batch=8",
        "sampling.max_tokens=4",
        "evaluate.samples=2",
        "evaluate.temperature=1.0",
    ]
    return open_lab(load_config("smoke", sets, env={}))


def scored(
    lab: Lab, path: Path, stop_after: int = 10**6
) -> tuple[list[dict[str, object]], list[int], list[int]]:
    """Rows, how many each call of the sampler had, and what the bar was told."""
    sampler, told = Counting(lab.rollouts.sampler, stop_after=stop_after), []
    rollouts = replace(lab.rollouts, sampler=sampler)
    try:
        rows = evaluate(lab.config, rollouts, "select", "", path, lambda done, _: told.append(done))
    except KeyboardInterrupt:
        rows = []
    return rows, sampler.calls, told


def test_long_rows_make_smaller_batches_and_a_bar_that_moves(lab: Lab, tmp_path: Path) -> None:
    parts = lab.rollouts.parts("", lab.task.splits["select"], 4, 4)
    assert [item for part in parts for item in part] == list(lab.task.splits["select"])
    lengths = [[len(ids) for ids in lab.rollouts.renderer.all_tokens("", part)] for part in parts]
    assert any(length > 2 * ROW for part in lengths for length in part)
    assert all(len(part) == 1 or sum(part) <= 4 * ROW for part in lengths)
    rows, calls, told = scored(lab, tmp_path / "a.jsonl")
    assert calls == [2 * len(part) for part in parts]
    assert told == [sum(calls[:n]) for n in range(len(calls) + 1)] and told[-1] == len(rows) == 64
    # Elsewhere every row counts as one.
    plain = replace(lab.rollouts, on_cpu=False).parts("", lab.task.splits["select"], 4, 4)
    assert [len(part) for part in plain] == [4] * 8


@pytest.mark.parametrize("torn", [0, 1, 3])
def test_a_killed_evaluation_goes_on_at_its_last_whole_batch(lab: Lab, tmp_path: Path, torn: int) -> None:
    whole, calls, _ = scored(lab, tmp_path / "whole" / "a.jsonl")
    path, part = tmp_path / "a.jsonl", tmp_path / "a.jsonl.part"
    scored(lab, path, stop_after=3)
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) == sum(calls[:3]) and not path.exists()
    part.write_bytes(b"".join(lines[: len(lines) - torn]))
    rows, left, told = scored(lab, path)
    done = 3 if torn == 0 else next(n for n in (2, 1, 0) if sum(calls[:n]) <= len(lines) - torn)
    assert left == calls[done:] and told[0] == sum(calls[:done])
    assert rows == whole and path.read_bytes() == (tmp_path / "whole" / "a.jsonl").read_bytes()


def test_a_plan_measures_few_items_where_they_are_long(lab: Lab) -> None:
    prompt = candidate("Add.", "here")
    items = lab.task.splits["pareto"]
    tokens = lab.rollouts.renderer.all_tokens(prompt.text, items)
    own = [len(ids) - shared_length(tokens) for ids in tokens]
    lengths = dict(zip([item.id for item in items], own, strict=True))
    assert sum(lengths.values()) > SAMPLE_READ
    chosen = [lengths[item.id] for item in sample_of(lab.rollouts, prompt, 32)]
    mean = sum(lengths.values()) / 32
    assert len(chosen) < 32 and len(chosen) * mean <= SAMPLE_READ
    # Of long and of short ones, in their shares.
    assert chosen == sorted(chosen) and chosen[0] < mean < chosen[-1]
    assert len(sample_of(lab.rollouts, prompt, 3)) == 3


def test_rows_of_another_student_are_refused(lab: Lab, tmp_path: Path) -> None:
    path, told = tmp_path / "a.jsonl", lambda *_: None
    model = with_lora(lab.base, lab.config.lora, 0, None)
    adapter = student_adapter(model)
    remove_lora(model)
    rows = evaluate(lab.config, lab.rollouts.by(adapter), "select", "", path, told)
    assert {row["student"] for row in rows} == {adapter.fingerprint}
    for other, words in ((None, "the bare base"), (stack_adapters([adapter]), "the adapter [0-9a-f]{8}")):
        with pytest.raises(
            RunDirectoryError, match=f"of the adapter {adapter.fingerprint}, and it is {words} that is scored"
        ):
            evaluate(lab.config, lab.rollouts.by(other), "select", "", path, told)
    assert evaluate(lab.config, lab.rollouts.by(adapter), "select", "", path, told) == rows

"""What a student keeps of its prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from observers import Watch

from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.show.tables import reply_lines, retention_lines, retention_table
from gepa_loop.stages.distillation import distill_alone
from gepa_loop.stages.retention import SUBJECTS, changes, measure
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import Reading, each

PROMPT = Candidate("Answer with one number.")


def test_changes_are_counted_item_by_item() -> None:
    base = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.5, "e": 0.0}
    prompted = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 0.5}
    student = {"a": 1.0, "b": 0.0, "c": 0.25, "d": 0.75, "e": 0.25}
    found = changes(base, prompted, student)
    assert found["kept"] == pytest.approx((1 + 0 + 0.25) / 2.5)  # of a, b and e
    assert found["beyond"] == pytest.approx(0.25 / 5)  # d above the base, which is above the prompt
    assert found["broke"] == pytest.approx(0.75 / 5)  # c
    assert changes(base, base, student)["kept"] is None


@pytest.fixture(scope="module")
def lab() -> Lab:
    """A reply scores by the share of its letters that are no digits; the prompt's are others than the base's."""
    lab = open_lab(load_config("smoke", ("distill.lr=0.05", "distill.steps=6"), env={})).for_training()

    def score(one: Reading) -> tuple[float, str]:
        return sum(not c.isdigit() for c in one.reply) / max(1, len(one.reply)), ""

    task = replace(lab.task, scorer=each(score), full_marks=False)
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


def test_four_subjects_are_scored_on_test_and_none_twice(lab: Lab, tmp_path: Path) -> None:
    watch = Watch()
    with open_run(tmp_path / "r", lab.identity()) as run:
        done = distill_alone(lab, PROMPT, run, watch)
        result = measure(lab, PROMPT, done.adapter, run, watch)
    assert read_json(tmp_path / "r" / "result.json") == result
    named = [f"test: {name.replace('_', ' ')}" for name in SUBJECTS]
    assert watch.stages[-5:] == [*named, "test: items"]
    means = {name: result["greedy"][name]["mean"] for name in SUBJECTS}
    rows = {name: read_jsonl(tmp_path / "r" / "test" / f"{name}_greedy.jsonl") for name in SUBJECTS}
    for name in SUBJECTS:
        assert means[name] == pytest.approx(sum(row["score"] for row in rows[name]) / len(rows[name]))
    assert len({tuple(row["completion"] for row in rows[name]) for name in SUBJECTS}) == 4
    students = {row["student"] for name in ("student", "student_prompted") for row in rows[name]}
    assert students == {done.adapter.fingerprint}
    assert {row["student"] for name in ("base", "prompted") for row in rows[name]} == {None}
    gap = result["greedy"]["student_minus_prompted"]["mean"]
    assert gap == pytest.approx(means["student"] - means["prompted"])
    count = lab.rollouts.renderer.system_tokens
    assert (
        result["tokens"]["prompt"]
        == count(PROMPT.text, lab.task.splits["test"][0])
        > result["tokens"]["bare"]
    )
    first = result["examples"][0]
    by_item = {name: {row["item"]: row["completion"] for row in rows[name]} for name in SUBJECTS}
    assert [first[name] for name in SUBJECTS[:3]] == [by_item[name][first["item"]] for name in SUBJECTS[:3]]
    assert first["base"] != first["prompted"]

    again = Watch()
    with open_run(tmp_path / "r", lab.identity()) as run:
        assert measure(lab, PROMPT, distill_alone(lab, PROMPT, run, again).adapter, run, again) == result
    counts = [said[1:3] for said in again.said if said[0] == "progress"]
    assert not any(done < total for done, total in counts), "nothing is sampled again"

    lines = [*retention_lines(result), *reply_lines(result)]
    assert sum("student, greedy" in line for line in lines) == 1
    assert retention_table(result).row_count == 8

    silent = {**result["greedy"], "internalisation": None}
    silent["prompted_minus_base"] = {"mean": 0.01, "ci": [-0.1, 0.2], "p": 0.8}
    assert "no teacher gap: the prompt changes the score by +.010" in next(
        iter(retention_lines({**result, "greedy": silent}))
    )
    silent["prompted_minus_base"] = {"mean": -0.1, "ci": [-0.2, -0.01], "p": 0.01}
    assert "no teacher gap" not in next(iter(retention_lines({**result, "greedy": silent})))

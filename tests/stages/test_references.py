"""A task without answers: the prompted model's own replies in their place, on the tiny model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import Narrow
from observers import Killed, KilledAt, Silent

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.forward import Eager
from gepa_loop.model.lora.training import remove_lora, with_lora
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.show.tables import retention_lines
from gepa_loop.stages.distillation import distill_alone
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.references import check_references, with_references
from gepa_loop.stages.retention import measure
from gepa_loop.task.items import load_task
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.training.agreement import divergences, reply_groups
from gepa_loop.training.passes import Passes
from gepa_loop.training.student import METRICS
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.teacher.local import LocalTeacher

PROMPT = Candidate("Answer with one number.")
SIZES = "task.splits={train=16, pareto=8, select=4, test=12}"


def questions(path: Path, answer: str | None = None) -> Path:
    extra = {} if answer is None else {"answer": answer}
    path.write_text("".join(json.dumps({"question": f"What is {n}?", **extra}) + "\n" for n in range(60)))
    return path


def config(file: Path, *sets: str) -> Config:
    own = (f"task.name={file}", "task.kind=jsonl", SIZES, "distill.lr=0.02", "distill.check_every=1")
    return load_config("smoke", [*own, *sets], env={})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return open_lab(config(questions(tmp_path / "q.jsonl"))).for_training()


def test_replies_are_not_scored_before_there_is_something_to_compare_with(lab: Lab) -> None:
    item = lab.task.splits["test"][0]
    assert lab.task.answers == "none" and "no answers" in " ".join(lab.facts())
    with pytest.raises(TaskError, match=f"{item.id} has no answer"):
        lab.task.score(item, "9")
    told = lab.task.with_references({item.id: " a reply \n"})
    [known] = [one for one in told.splits["test"] if one.id == item.id]
    assert [told.score(known, text).value for text in ("a reply", "a  reply", "A reply", "9", "")] == [
        1,
        0,
        0,
        0,
        0,
    ]
    assert told.answers == "references" and told.fingerprint == lab.task.fingerprint


def test_one_answer_among_none_is_an_error_as_before(tmp_path: Path) -> None:
    file = questions(tmp_path / "q.jsonl")
    file.write_text(json.dumps({"question": "And this?", "answer": "1"}) + "\n" + file.read_text())
    with pytest.raises(TaskError, match=r"has no answer, and task.scorer = 'exact' compares with one"):
        open_lab(config(file))
    own = TaskConfig(
        kind="jsonl", name=str(questions(tmp_path / "b.jsonl")), scorer="includes", splits=lab_sizes()
    )
    with pytest.raises(TaskError, match=r"has no answer, and task.scorer = 'includes'"):
        load_task(own, 0)


def lab_sizes() -> dict[str, int]:
    return {"train": 16, "pareto": 8, "select": 4, "test": 12}


def test_references_are_the_prompted_models_greedy_replies(lab: Lab, tmp_path: Path) -> None:
    with open_run(tmp_path / "r", lab.identity()) as run:
        told = with_references(lab, PROMPT, run, Silent())
        assert with_references(told, PROMPT, run, Silent()) is told
    for split in ("pareto", "test"):
        items = lab.task.splits[split]
        found = lab.rollouts.completions(
            PROMPT.text, items, 1, Sampling(0.0, lab.config.sampling.max_tokens), "x"
        )
        replies = [lab.rollouts.renderer.reply(c.token_ids) for c in found]
        assert [item.answer for item in told.task.splits[split]] == replies and any(replies)
    assert not any(item.answer for item in told.task.splits["train"])
    assert told.rollouts.task is told.task


def test_a_student_is_kept_by_its_divergence_and_judged_by_equal_replies(lab: Lab, tmp_path: Path) -> None:
    with open_run(tmp_path / "r", lab.identity()) as run:
        told = with_references(lab, PROMPT, run, Silent())
        done = distill_alone(told, PROMPT, run, Silent())
        result = measure(told, PROMPT, done.adapter, run, Silent())
    folder = tmp_path / "r" / "distill" / PROMPT.id
    rows = read_jsonl(folder / METRICS)
    # 8 items with means of their own: exp of the mean is below the mean of exp, and near it.
    near = [math.exp(-row["held_out_kl"]) for row in rows]
    assert done.last == pytest.approx(near[-1], rel=0.1) and done.last >= near[-1]
    assert done.kl == next(row["held_out_kl"] for row in rows if row["step"] == done.kept.step)
    assert 0 < done.before < done.last < 1
    assert {row["held_out_score"] for row in rows} <= {n / 8 for n in range(9)}
    assert result["answers"] == "references" and result["greedy"]["prompted"]["mean"] == 1.0
    (said,) = retention_lines(result)
    assert "as the task has no answers" in said
    assert read_json(folder / "result.json")["kl"] == done.kl


def test_the_divergence_is_that_of_the_whole_vocabulary(lab: Lab) -> None:
    """Against log-softmaxes of the plain model; each item's mean is over the tokens of both of its replies."""
    items = lab.task.splits["pareto"][:3]
    bare = lab.rollouts.renderer.all_tokens(NO_PROMPT, items)
    asked = lab.rollouts.renderer.all_tokens(PROMPT.text, items)
    completions = lab.rollouts.completions(NO_PROMPT, items, 2, Sampling(1.0, 6), "x")

    def logprobs(prompt: list[int], tokens: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            out = lab.base.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        return out.double().log_softmax(-1)

    exact = {}
    for place, item in enumerate(items):
        parts = []
        for completion in completions[2 * place : 2 * place + 2]:
            own, theirs = (logprobs(p[place], completion.token_ids) for p in (bare, asked))
            parts.append((own.exp() * (own - theirs)).sum(-1))
        exact[item.id] = float(torch.cat(parts).mean())
    model = with_lora(lab.base, lab.config.lora, 0, None)
    try:
        teacher = open_teacher(lab, model, PROMPT.text)
        assert teacher is not None
        groups = reply_groups(teacher, items, bare, completions)
        for passes in (Passes(1), Passes(10_000)):
            found, fitted = divergences(lab.base, teacher, groups, passes, Eager(lab.base.model))
            assert found == pytest.approx(list(exact.values()), rel=1e-4)
            assert fitted == passes
        assert isinstance(teacher, LocalTeacher)
        narrow, trained = replace(teacher, _forward=Narrow(lab.base, 40)), Narrow(lab.base, 40)
        found, fitted = divergences(lab.base, narrow, groups, Passes(10_000), trained)
        assert found == pytest.approx(list(exact.values()), rel=1e-4)
        assert fitted.tokens < 100 and trained.released
    finally:
        remove_lora(model)
    assert len(set(exact.values())) == 3 and min(exact.values()) > 1e-3


def test_a_run_that_is_killed_anywhere_ends_the_same(lab: Lab, tmp_path: Path) -> None:
    def run_in(folder: Path, watch: Observer) -> Any:
        with open_run(folder, lab.identity()) as run:
            told = with_references(lab, PROMPT, run, watch)
            done = distill_alone(told, PROMPT, run, watch)
            return done.adapter.fingerprint, measure(told, PROMPT, done.adapter, run, watch)

    whole = run_in(tmp_path / "whole", Silent())
    for name, at in (("the prompted model's replies: pareto", 1), ("distill", 2), ("test: student", 1)):
        with pytest.raises(Killed):
            run_in(tmp_path / name, KilledAt(name, at))
        assert run_in(tmp_path / name, Silent()) == whole


def test_only_the_prompted_model_itself_is_what_a_student_should_agree_with(tmp_path: Path) -> None:
    file = questions(tmp_path / "q.jsonl")
    other = open_lab(config(file, "teacher.kind=ema"))
    with pytest.raises(ConfigError, match=r"teacher.kind = 'ema': task .* has no answers"):
        check_references(other)
    answered = open_lab(config(questions(tmp_path / "a.jsonl", "1"), "teacher.kind=ema"))
    check_references(answered)
    check_references(replace(other, config=config(file)))

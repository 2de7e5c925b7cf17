"""Our step, timed by phase; run by step.py in a process of its own."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.cases import CASES, LORA, LR, Case, fixed_completion, make_base, make_texts
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.training import student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Sampling, SelfMeasured
from gepa_loop.sampling.choose import open_sampler
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item, Task
from gepa_loop.task.prompts import Renderer
from gepa_loop.task.readings import each
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import collect
from gepa_loop.training.metrics import peak_memory_gib
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import plan_passes
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import update


class Fixed:
    """A sampler of completions that are known beforehand."""

    def __init__(self, case: Case, vocabulary: int) -> None:
        self.case, self.vocabulary = case, vocabulary

    def generate(self, prompts: Any, sampling: Sampling, seeds: Any, adapter: Any) -> list[Completion]:
        out = []
        for number, prompt in enumerate(prompts):
            tokens = fixed_completion(self.case, self.vocabulary, list(prompt), number % self.case.group)
            out.append(Completion(tuple(tokens), (0.0,) * len(tokens), "length"))
        return out

    def sleep(self) -> SelfMeasured:
        return {}

    def close(self) -> None:
        pass


def configure(case: Case, sets: list[str]) -> Config:
    own = [
        f"distill.rollouts={case.rollouts}",
        f"distill.group={case.group}",
        f"sampling.max_tokens={case.new}",
        f"sampling.batch={case.rollouts}",
        f"distill.lr={LR}",
        f"lora.rank={case.rank}",
        f"lora.alpha={2 * case.rank}",
        f"lora.targets={LORA['targets']}",
        "objective.type=full_kl",
    ]
    return load_config("smoke", [*own, *sets], env={})


def open_case(case: Case, sets: list[str]) -> tuple[Lab, str]:
    """The case's model and items, and its teacher's context."""
    base, config = make_base(case), configure(case, sets)
    context, questions = make_texts(case)
    items = tuple(Item(f"q{n}", (("user", text),), "", {}) for n, text in enumerate(questions))
    task = Task(
        "bench", "whole", {"train": items, "pareto": ()}, 1, 1, ("", 0.0), "", each(lambda _: (0.0, ""))
    )
    sampler, engine = open_sampler(base, config.sampling)
    renderer = Renderer(base.tokenizer, base.context)
    assert {len(renderer.tokens("", item)) for item in items} == {case.prompt}
    assert {len(renderer.tokens(context, item)) for item in items} == {case.prompt + case.context}
    return Lab(config, base, task, Rollouts(sampler, renderer, task, 0), engine), context


def run(case: Case, steps: int, warmup: int, sets: list[str]) -> dict[str, Any]:
    lab, context = open_case(case, sets)
    base, config, engine = lab.base, lab.config, lab.engine
    model = with_lora(base, config.lora, 0, None)
    teacher = open_teacher(lab, model, context)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, forward = make_optimizer(config.distill, trained), open_forward(base.model, trained)

    fixed = replace(lab.rollouts, sampler=Fixed(case, base.model.config.vocab_size))
    collected = collect(config, fixed.by(student_adapter(model)), teacher, None, 0)
    passes = plan_passes(config.distill, base, case.prompt + case.new)
    turn, reader = Turn(config, Trainee(optimizer, teacher), collected), Reader(base, forward)
    loss = update(turn, reader, passes, Clock(base.device)).loss

    rows = []
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(warmup + steps):
        start, clock = time.perf_counter(), Clock(base.device)
        collected = collect(config, lab.rollouts.by(student_adapter(model, base.device)), teacher, None, step)
        clock.lap("generate")
        update(replace(turn, collected=collected, updates=step), reader, passes, clock)
        seconds = clock.seconds
        rows.append({"step": time.perf_counter() - start, **seconds})
        assert {len(c.token_ids) for c in collected.completions} == {case.new}
    kept = rows[warmup:]
    return {
        "name": f"gepa-loop, {engine.partition(' (')[0]}",
        "seconds": {name: statistics.median(row[name] for row in kept) for name in kept[0]},
        "steps": [row["step"] for row in rows],
        "peak_gib": peak_memory_gib(base.device),
        "fixed_loss": loss,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", default="tiny")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--warmup", type=int, help="steps before the timed ones; by default until shapes are captured"
    )
    parser.add_argument("--override", default="{}")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    case = replace(CASES[given.case], **json.loads(given.override))
    print(json.dumps(run(case, given.steps, case.warmup(given.warmup), given.set)))

"""Case E: scoring one GEPA candidate. The model, items and prompts, which ours and the peers read alike."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, make_model, make_tokenizer
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import open_lab
from gepa_loop.model.attention import use_grouped_attention
from gepa_loop.model.base import Base, calm_host
from gepa_loop.model.bundled import SMOLLM, TINY
from gepa_loop.sampling.batches import shared_length
from gepa_loop.sampling.choose import open_sampler
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item, Task
from gepa_loop.task.prompts import Candidate, Renderer, candidate, read_prompt
from gepa_loop.task.readings import Reading, each
from gepa_loop.training.metrics import peak_memory_gib

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Scoring:
    """One candidate's evaluation: greedy, one sample an item, no adapter."""

    name: str
    shape: str
    """Of `cases.SHAPES`."""
    weights: str
    """A built-in model's name, which then brings the preset `sums`; or `random`, with questions of random letters."""
    items: int
    prompt: int
    """Fewest tokens of a candidate's prompt."""
    new: int
    """Longest completion, in tokens."""
    batch: int
    """Rows that the sampler decodes together, if so many are asked for at once."""
    dtype: str
    device: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


SCORINGS = {
    case.name: case
    for case in (
        Scoring("E-cpu", "llama-135m", SMOLLM, 200, 384, 16, 128, "float32", "cpu"),
        Scoring("E-gpu", "llama-135m", "random", 200, 384, 16, 256, "bfloat16", "cuda"),
        Scoring("E-tiny", "tiny", TINY, 24, 384, 8, 16, "float32", "cpu"),
    )
}


WARM_ITEMS = 16


@dataclass(frozen=True)
class Setting:
    """What a side scores with."""

    config: Config
    rollouts: Rollouts
    items: tuple[Item, ...]
    train: tuple[Item, ...]

    def candidate(self, case: Scoring, number: int) -> Candidate:
        """The `number`-th candidate: each is another text of another length, as GEPA proposes them."""
        source = random.Random(number)
        if case.weights == "random":
            return Candidate(_letters(source, case.prompt + source.randrange(128)))
        text, tokenizer = (
            read_prompt(ROOT / "prompts" / "sums" / "prog2.txt").text,
            self.rollouts.renderer.tokenizer,
        )
        for item in source.sample(self.train, len(self.train)):
            if len(tokenizer(text)["input_ids"]) >= case.prompt:
                break
            text += f"\n\nExample: {item.question}\nAnswer: {item.answer}"
        return candidate(text, case.name)


def open_setting(case: Scoring) -> Setting:
    """Load the case's model and make its items."""
    sets = [f"sampling.batch={case.batch}", f"sampling.max_tokens={case.new}"]
    if case.weights == "random":
        config = load_config("sums", sets, env={})
        base, task = _random_base(case), _letter_task(case)
        sampler, _ = open_sampler(base, config.sampling)
        rollouts = Rollouts(sampler, Renderer(base.tokenizer, base.context), task, config.seed)
        return Setting(config, rollouts, task.splits["pareto"], ())
    own = [f"model.name={case.weights}", f"model.dtype={case.dtype}", f"model.device={case.device}"]
    config = load_config("sums", [*sets, *own, f"task.splits.pareto={case.items}"], env={})
    lab = open_lab(config)
    return Setting(config, lab.rollouts, lab.task.splits["pareto"], lab.task.splits["train"])


def _random_base(case: Scoring) -> Base:
    model = make_model(Case("", case.shape, 1, 1, 0, 0, 0, case.dtype, case.device)).requires_grad_(False)
    with torch.no_grad():
        for weight in (p for p in model.get_decoder().layers.parameters() if p.ndim == 2):
            weight.mul_(3)  # as they are made, every prompt gets the same completion, one token for ever
    use_grouped_attention(model)
    calm_host(model.device)
    tokenizer, size = make_tokenizer(), model.config.vocab_size
    # Every id needs a text: an empty completion is an error to DSPy.
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), size)])
    return Base(case.shape, model, tokenizer, (size,), 32768, case.shape)


def _letter_task(case: Scoring) -> Task:
    source = random.Random("questions")
    items = tuple(
        Item(f"q{n}", (("user", _letters(source, source.randint(16, 40))),), "", {})
        for n in range(case.items)
    )

    def score(one: Reading) -> tuple[float, str]:
        return float(zlib.crc32(one.reply.encode()) % 2), ""  # any other token is likely to change it

    return Task("letters", "whole", {"pareto": items}, case.items, case.items, ("", 0.0), "", each(score))


def _letters(source: random.Random, count: int) -> str:
    return "".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=count))


@dataclass(frozen=True)
class Scored:
    """What a side found for a candidate, item by item."""

    completions: list[str]
    scores: list[float]
    tokens: list[int]
    """Of each completion, with its stop token; empty where nobody counted."""


Judged = Callable[[Candidate], Scored]

Side = Callable[[Setting], Judged]
"""Makes a side of the comparison: a function that scores a candidate."""


def measure_side(name: str, open_side: Side) -> None:
    """Time a side on the case that the command line names and print what was found as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", default="E-tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--override", default="{}")
    given, _ = parser.parse_known_args()
    case = dataclasses.replace(SCORINGS[given.case], **json.loads(given.override))
    print(json.dumps({"name": name, **time_side(case, open_side, given.repeats, given.warmup)}))


def time_side(case: Scoring, open_side: Side, repeats: int, warmup: int) -> dict[str, Any]:
    """Seconds of scoring `repeats` candidates, each once, and the last one's completions in float32."""
    setting = open_setting(case)
    # Without a GPU nothing is compiled or captured, and a few items warm as well as all.
    few = setting if case.device == "cuda" else dataclasses.replace(setting, items=setting.items[:WARM_ITEMS])
    warm = open_side(few)
    for number in range(repeats, repeats + warmup):
        warm(setting.candidate(case, number))
    score, seconds, work = open_side(setting), [], []
    for number in range(repeats):
        prompt = setting.candidate(case, number)
        start, worked = time.perf_counter(), time.process_time()
        found = score(prompt)
        seconds.append(time.perf_counter() - start)
        work.append(time.process_time() - worked)
    peak = peak_memory_gib(torch.device(case.device))
    exact = found
    if case.dtype != "float32":
        # In bfloat16 a greedy token depends on the batch around it; all sides must agree where rounding is no excuse.
        exact = open_side(open_setting(dataclasses.replace(case, dtype="float32")))(prompt)
    return {
        "seconds": statistics.median(seconds),
        "repeats": seconds,
        "cpu_seconds": statistics.median(work),
        "peak_gib": peak,
        "timed": dataclasses.asdict(found),
        "exact": dataclasses.asdict(exact),
        "prompts": count_prompts(setting, prompt),
    }


def count_prompts(setting: Setting, prompt: Candidate) -> dict[str, int]:
    """Tokens that all prompts begin with, and the sum of what follows in each."""
    prompts = [setting.rollouts.renderer.tokens(prompt.text, item) for item in setting.items]
    shared = shared_length(prompts)
    return {"shared": shared, "rest": sum(len(p) - shared for p in prompts)}

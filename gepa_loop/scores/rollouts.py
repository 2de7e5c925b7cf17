"""Scored completions: (prompt, item, sample) -> row. GEPA, the held-out checks and the evaluation share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion, FinishReason, Request, Sampler, Sampling, Waiting, begin
from gepa_loop.sampling.batches import in_turn, shared_length
from gepa_loop.scores.records import ReplyRow
from gepa_loop.task.answers import open_thought
from gepa_loop.task.items import Item, Task
from gepa_loop.task.prompts import Renderer


@dataclass(frozen=True)
class Row:
    """One scored completion."""

    item: str
    sample: int
    score: float
    """From 0 to 1: what reaches every decision."""
    raw: float
    """What the task's own scorer said."""
    extracted: str | None
    completion: str
    tokens: int
    finish_reason: FinishReason
    feedback: str

    def as_dict(self) -> ReplyRow:
        return {
            "item": self.item,
            "sample": self.sample,
            "score": self.score,
            "raw": self.raw,
            "extracted": self.extracted,
            "completion": self.completion,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "feedback": self.feedback,
        }


@dataclass(frozen=True)
class Rollouts:
    """Turns (prompt, items) into scored rows."""

    sampler: Sampler
    renderer: Renderer
    task: Task
    seed: int
    """The run's."""
    on_cpu: bool = False
    """Reading takes minutes where texts are long, so `parts` of them are smaller."""
    round: int = 0
    adapter: Adapter | None = None
    """Who answers: the base model with this adapter; None is the base alone."""

    def by(self, adapter: Adapter | None) -> Rollouts:
        """The same, answered by another student."""
        return replace(self, adapter=adapter)

    def derived(self, *path: str | int) -> int:
        """A seed of this round. Round 0's are those of the commands that have no rounds."""
        return derive_seed(self.seed, *(("round", self.round) if self.round else ()), *path)

    def parts(self, prompt: str, items: Sequence[Item], rows: int, horizon: int) -> list[Sequence[Item]]:
        """Consecutive items for one sampler call each, between which progress is kept and shown: at most `rows` items.

        They are a function of the items and the prompt.
        """
        lengths = [0] * len(items)
        if self.on_cpu and items:
            tokens = self.renderer.all_tokens(prompt, items)
            lengths = [len(one) - shared_length(tokens) for one in tokens]
        ends = list(accumulate(in_turn(lengths, rows, horizon if self.on_cpu else 0)))
        return [items[start:end] for start, end in pairwise([0, *ends])]

    @cached_property
    def opening(self) -> str:
        """The mark of a thought that the chat template opens and the reply goes on with; else empty."""
        suffix = self.renderer.suffix(next(iter(self.task.splits.values()))[0])
        return open_thought(self.renderer.tokenizer.decode(suffix))

    def completions(
        self, prompt: str, items: Sequence[Item], samples: int, sampling: Sampling, purpose: str
    ) -> list[Completion]:
        """`samples` completions of each item, item by item, in one sampler call.

        The random numbers of a completion depend on (seed, round, purpose, item, sample) and on nothing else, so two
        prompts or two students are compared on common random numbers.
        """
        return self.sample(self.renderer.all_tokens(prompt, items), items, samples, sampling, purpose)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        items: Sequence[Item],
        samples: int,
        sampling: Sampling,
        purpose: str,
    ) -> list[Completion]:
        """`completions` from prompts that are rendered already, one for each item; an item may come with several prompts."""
        wanted = self.wanted(prompts, items, samples, purpose)
        return self.sampler.generate(wanted.prompts, sampling, wanted.seeds, wanted.adapter)

    def begin(
        self, prompt: str, items: Sequence[Item], samples: int, sampling: Sampling, purpose: str
    ) -> Waiting:
        """`completions`, read later; see `sampling.base.begin`."""
        wanted = self.wanted(self.renderer.all_tokens(prompt, items), items, samples, purpose)
        return begin(self.sampler, wanted, sampling)

    def wanted(
        self, prompts: Sequence[Sequence[int]], items: Sequence[Item], samples: int, purpose: str
    ) -> Request:
        """What `sample` asks the sampler for."""
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        seeds, drawn = [], Counter[tuple[str, tuple[int, ...]]]()
        for item, prompt in zip(items, prompts, strict=True):
            # An item that comes twice with one prompt gets other samples the second time, not the same ones again.
            key = item.id, tuple(prompt)
            seeds += [self.derived(purpose, item.id, drawn[key] + n) for n in range(samples)]
            drawn[key] += samples
        return Request(repeated, seeds, self.adapter)

    def rows(
        self, prompt: str, items: Sequence[Item], samples: int, sampling: Sampling, purpose: str
    ) -> list[Row]:
        """`completions`, scored by the task."""
        completions = self.completions(prompt, items, samples, sampling, purpose)
        return self.scored(items, completions)

    def scored(self, items: Sequence[Item], completions: Sequence[Completion]) -> list[Row]:
        """Completions, scored by the task: as many of each item, one item after the other."""
        samples = len(completions) // len(items) if items else 0
        owners = [item for item in items for _ in range(samples)]
        texts = [self.renderer.reply(completion.token_ids) for completion in completions]
        cut = [completion.finish_reason == "length" for completion in completions]
        scores = self.task.score_all(list(zip(owners, texts, cut, strict=True)), self.opening)
        return [
            Row(
                item=item.id,
                sample=place % samples,
                score=score.value,
                raw=score.raw,
                extracted=score.extracted,
                completion=text,
                tokens=len(completion.token_ids),
                finish_reason=completion.finish_reason,
                feedback=score.feedback,
            )
            for place, (item, text, completion, score) in enumerate(
                zip(owners, texts, completions, scores, strict=True)
            )
        ]


def item_means(rows: Sequence[Row]) -> dict[str, float]:
    """Each item's mean score over its samples."""
    samples: dict[str, list[float]] = {}
    for row in rows:
        samples.setdefault(row.item, []).append(row.score)
    return {item: sum(scores) / len(scores) for item, scores in samples.items()}


def mean_score(rows: Sequence[Row]) -> float:
    """Mean score over rows."""
    return sum(row.score for row in rows) / len(rows)

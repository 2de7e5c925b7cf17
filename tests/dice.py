"""A sampler without a model: what it says is a function of the prompt's tokens and the row's seed alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from gepa_loop.sampling.base import Completion, Sampling


@dataclass
class Dice:
    """Says one letter; notes how many completions each call asks for."""

    letters: Sequence[int]
    """Their token ids."""
    calls: list[int] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int], adapter: object
    ) -> list[Completion]:
        self.calls.append(len(prompts))
        return [self._one(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _one(self, prompt: Sequence[int], seed: int) -> Completion:
        thrown = zlib.crc32(f"{list(prompt)} {seed}".encode()) % len(self.letters)
        return Completion((self.letters[thrown],), (0.0,), "stop")

"""The in-process sampler in plain PyTorch: shared prompts read once, one uniform per row and token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gepa_loop.errors import Diverged
from gepa_loop.model.base import Base
from gepa_loop.model.fused.columns import FusedNetwork
from gepa_loop.model.lora.adapter import Adapter, side_by_side
from gepa_loop.sampling.base import Completion, Request, Sampling, SelfMeasured
from gepa_loop.sampling.batches import by_length, shared_length
from gepa_loop.sampling.network import Network, Past, open_network
from gepa_loop.sampling.together import in_order

if TYPE_CHECKING:
    from torch import Tensor


class TorchSampler:
    """Samples from a base model with at most one adapter, or with several students' side by side.

    Args:
        base: The model.
        batch: Most rows decoded together; see `batches`.
        network: What runs the model; None is the fastest for it.
        share_from: Tokens that need not be read again from which on what all prompts begin with is read on its own. That
            takes as long as a token of the whole batch, and each token somewhat longer.
    """

    def __init__(self, base: Base, batch: int, network: Network | None = None, share_from: int = 256) -> None:
        self.base = base
        self.batch = batch
        self.share_from = share_from
        self._network = open_network(base) if network is None else network
        self._adapter: Adapter | None = None
        """What the network computes with."""

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        """One completion for each prompt, in order, drawn with that row's seed; base weights are never written to.

        Raises:
            Diverged: Logits that are not finite.
            ModelError: The adapter changes what is no layer of the model, or one of another shape.
            ValueError: A prompt is empty, or prompts and seeds differ in number.
        """
        if len(prompts) != len(seeds) or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts (none empty) need as many seeds, got {len(seeds)}")
        if adapter is not self._adapter:
            self._network.write(adapter)
            self._adapter = adapter
        return self._generate(prompts, sampling, seeds, None)

    @property
    def joins(self) -> bool:
        return isinstance(self._network, FusedNetwork)

    @torch.inference_mode()
    def generate_together(self, wanted: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert isinstance(self._network, FusedNetwork), "sample_together asks `joins` first"
        adapters = [rows.adapter for rows in wanted if rows.adapter is not None]
        self._adapter = side_by_side(adapters)
        self._network.write(self._adapter, adapters[0].rank)
        prompts, seeds, students = in_order(wanted)
        return self._generate(prompts, sampling, seeds, students)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        students: Sequence[int] | None,
    ) -> list[Completion]:
        # What several students read is no shared past: each reads it with its own adapter.
        skip = shared_length(prompts) if students is None else 0
        # Read and attended to apart, a chat template's few tokens made it 107 ms a token instead of 92 (135M, a CPU).
        if skip * (len(set(map(tuple, prompts))) - 1) < self.share_from:
            skip = 0
        shared = self._network.prefill(list(prompts[0][:skip]))
        lengths = [len(prompt) - skip for prompt in prompts]
        completions: dict[int, Completion] = {}
        for rows in by_length(lengths, self.batch, sampling.max_tokens, self.base.device.type == "cpu"):
            own = [((students[row] if students else None), tuple(prompts[row][skip:])) for row in rows]
            found = self._generate_batch(own, [seeds[row] for row in rows], sampling, shared, skip)
            completions |= zip(rows, found, strict=True)
        return [completions[row] for row in range(len(prompts))]

    def sleep(self) -> SelfMeasured:
        """Nothing is held that training could use."""
        return {}

    def close(self) -> None:
        """Nothing is held."""

    def _generate_batch(
        self,
        prompts: Sequence[tuple[int | None, tuple[int, ...]]],
        seeds: Sequence[int],
        sampling: Sampling,
        shared: Any,
        skip: int,
    ) -> list[Completion]:
        """Completions of prompts without the `skip` tokens that are `shared`, each with the student that reads it, if there are several."""
        device = self.base.device
        unique = list(dict.fromkeys(prompts))
        row_of = {prompt: n for n, prompt in enumerate(unique)}
        index_B = torch.tensor([row_of[prompt] for prompt in prompts], device=device)
        # Drawn at once: a row's numbers must not depend on which others have ended.
        uniforms_BT = torch.from_numpy(np.stack([uniforms(s, sampling.max_tokens) for s in seeds])).to(device)

        logits_UV, past, valid_US = self._prefill(unique, shared, skip)
        capacity = valid_US.shape[1] + sampling.max_tokens
        logits_BV, past, valid_BS = logits_UV[index_B], past.rows(index_B, capacity), valid_US[index_B]
        lengths_B = skip + valid_BS.sum(1)
        stop = torch.tensor(self.base.stop_ids, device=device)

        alive_B = torch.arange(len(prompts), device=device)
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        stopped = [False] * len(prompts)
        for position in range(sampling.max_tokens):
            token_B, logprob_B = draw(logits_BV, uniforms_BT[alive_B, position], sampling.temperature)
            ended_B = torch.isin(token_B, stop)
            for row, token, logprob, ended in zip(
                alive_B.tolist(), token_B.tolist(), logprob_B.tolist(), ended_B.tolist(), strict=True
            ):
                if not stopped[row]:
                    if not math.isfinite(logprob):
                        raise Diverged(
                            "the model's logits are not finite", "Its weights or adapter are broken."
                        )
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
                    stopped[row] = ended
            going = [n for n, row in enumerate(alive_B.tolist()) if not stopped[row]]
            if not going or position + 1 == sampling.max_tokens:
                break
            # Leaving rows out copies the cache of those that go on, so it waits until a quarter has ended.
            if len(going) <= 0.75 * len(alive_B):
                keep = torch.tensor(going, device=device)
                past, alive_B, token_B = past.rows(keep, capacity), alive_B[keep], token_B[keep]
                valid_BS, lengths_B = valid_BS[keep], lengths_B[keep]
            logits_BV = self._decode(token_B, past, valid_BS, lengths_B + position)
        return [
            Completion(tuple(t), tuple(lp), "stop" if s else "length")
            for t, lp, s in zip(tokens, logprobs, stopped, strict=True)
        ]

    def _prefill(
        self, unique: Sequence[tuple[int | None, tuple[int, ...]]], shared: Any, skip: int
    ) -> tuple[Tensor, Past, Tensor]:
        """Read the rest of each distinct prompt, padded on the left, each by its student.

        Returns:
            Logits of the next token [U, V], the past [U, S], and which of the S positions are real [U, S].
        """
        device = self.base.device
        suffixes = [suffix for _, suffix in unique]
        size = max(map(len, suffixes))
        ids_US = torch.zeros(len(suffixes), size, dtype=torch.long)
        valid_US = torch.zeros(len(suffixes), size, dtype=torch.bool)
        for row, suffix in enumerate(suffixes):
            ids_US[row, size - len(suffix) :] = torch.tensor(suffix)
            valid_US[row, size - len(suffix) :] = True
        ids_US, valid_US = ids_US.to(device), valid_US.to(device)
        past: Past
        if isinstance(self._network, FusedNetwork) and unique[0][0] is not None:
            past = self._network.past(None, len(suffixes), size, torch.tensor([s for s, _ in unique]))
        else:
            past = self._network.past(shared, len(suffixes), size)
        positions_US = skip + (valid_US.cumsum(1) - 1).clamp(min=0)
        causal_SS = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        # A padding query sees itself: a row of the mask without any True would give NaN, and NaN spreads.
        mask_USS = (causal_SS & valid_US[:, None, :]) | torch.eye(size, dtype=torch.bool, device=device)
        return self._network.forward(ids_US, past, positions_US, mask_USS), past, valid_US

    def _decode(self, token_B: Tensor, past: Past, valid_BS: Tensor, positions_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token of each row."""
        mask = None
        if not bool(valid_BS.all()):
            rows, size = valid_BS.shape
            mask = torch.cat([valid_BS, valid_BS.new_ones(rows, past.length + 1 - size)], dim=1)[:, None]
        return self._network.forward(token_B[:, None], past, positions_B[:, None], mask)


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at that row's uniform.

    Args:
        logits_BV: Logits of the next token.
        uniform_B: Numbers in [0, 1).
        temperature: 0 takes the most likely token.

    Returns:
        Tokens [B], and their log-probabilities [B] under the temperature-1 distribution, float32.
    """
    logits_BV = logits_BV.float()
    if temperature == 0:
        token_B = logits_BV.argmax(-1)
    else:
        cdf_BV = torch.softmax(logits_BV / temperature, -1).cumsum(-1)
        total_B = cdf_BV[:, -1]
        # Rounding may bring u * total up to the total, behind which no token lies.
        below_B = torch.nextafter(total_B, torch.zeros_like(total_B))
        target_B = torch.minimum(uniform_B * total_B, below_B)
        token_B = torch.searchsorted(cdf_BV, target_B[:, None], right=True)[:, 0]
        token_B = token_B.clamp(
            max=logits_BV.shape[-1] - 1
        )  # NaN logits have no token; the log-probability tells
    logprob_B = logits_BV.gather(-1, token_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
    return token_B, logprob_B


def uniforms(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The row's own random numbers, [count] in [0, 1): a counter-based generator keyed by its seed."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)

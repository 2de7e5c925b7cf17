"""The in-process sampler: the model's own forward, shared prompts read once, one uniform per row and token."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from gepa_loop.errors import Diverged
from gepa_loop.lora import Adapter, merge
from gepa_loop.models import Base
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.kv import KVCache, empty_cache, shared_length

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class TorchSampler:
    """Samples from a base model with at most one adapter merged into a second copy of its weights.

    Args:
        base: The model. Its weights are shared, not copied, where no adapter touches them.
        batch: Rows decoded together.
    """

    def __init__(self, base: Base, batch: int) -> None:
        self.base = base
        self.batch = batch
        self._model = twin(base.model)
        self._weights = dict(self._model.named_parameters())
        self._adapter: Adapter | None = None

    def set_student(self, adapter: Adapter | None) -> None:
        """Use this adapter from now on; base weights are never written to."""
        merged = {} if adapter is None else merge(self._weights, adapter)
        touched = set(merged) | (set() if self._adapter is None else set(self._adapter.weights))
        for name in touched:
            module, _, leaf = name.rpartition(".")
            weight = merged.get(name)
            parameter = (
                self._weights[name] if weight is None else torch.nn.Parameter(weight, requires_grad=False)
            )
            setattr(self._model.get_submodule(module), leaf, parameter)
        self._adapter = adapter

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """One completion for each prompt, in order, drawn with that row's seed.

        Raises:
            Diverged: Logits that are not finite.
            ValueError: A prompt is empty, or prompts and seeds differ in number.
        """
        if len(prompts) != len(seeds) or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts (none empty) need as many seeds, got {len(seeds)}")
        shared = self._shared_prefix(prompts)
        completions: list[Completion] = []
        for start in range(0, len(prompts), self.batch):
            rows = slice(start, start + self.batch)
            completions += self._generate_batch(prompts[rows], seeds[rows], sampling, shared)
        return completions

    def rest(self) -> dict[str, float]:
        """Nothing is held that training could use."""
        return {}

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> tuple[KVCache | None, int]:
        """The past of what all prompts begin with, as one row, and its length; the last token is left to read."""
        length = shared_length(prompts)
        if length < 1:
            return None, 0
        cache = empty_cache(self._model.config, length)
        self._forward(torch.tensor([list(prompts[0][:length])], device=self.base.device), cache, 0)
        return cache, length

    def _generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        shared: tuple[KVCache | None, int],
    ) -> list[Completion]:
        device, prefix, skip = self.base.device, *shared
        unique = list(dict.fromkeys(tuple(p[skip:]) for p in prompts))
        row_of = {suffix: n for n, suffix in enumerate(unique)}
        index_B = torch.tensor([row_of[tuple(p[skip:])] for p in prompts], device=device)
        uniforms_BT = torch.from_numpy(np.stack([uniforms(s, sampling.max_tokens) for s in seeds])).to(device)

        logits_UV, cache, valid_US = self._read(unique, prefix, skip)
        room = skip + valid_US.shape[1] + sampling.max_tokens
        logits_BV, cache, valid_BS = logits_UV[index_B], cache.rows(index_B, room), valid_US[index_B]
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
            if len(going) <= 0.75 * len(alive_B):
                keep = torch.tensor(going, device=device)
                cache, alive_B, token_B = cache.rows(keep, room), alive_B[keep], token_B[keep]
                valid_BS, lengths_B = valid_BS[keep], lengths_B[keep]
            logits_BV = self._step(token_B, cache, skip, valid_BS, lengths_B + position)
        return [
            Completion(tuple(t), tuple(lp), "stop" if s else "length")
            for t, lp, s in zip(tokens, logprobs, stopped, strict=True)
        ]

    def _read(
        self, suffixes: Sequence[tuple[int, ...]], prefix: KVCache | None, skip: int
    ) -> tuple[Tensor, KVCache, Tensor]:
        """Read the rest of each distinct prompt, padded on the left.

        Returns:
            Logits of the next token [U, V], the past [U, skip + S], and which of the S positions are real [U, S].
        """
        device = self.base.device
        size = max(map(len, suffixes))
        ids_US = torch.zeros(len(suffixes), size, dtype=torch.long)
        valid_US = torch.zeros(len(suffixes), size, dtype=torch.bool)
        for row, suffix in enumerate(suffixes):
            ids_US[row, size - len(suffix) :] = torch.tensor(suffix)
            valid_US[row, size - len(suffix) :] = True
        ids_US, valid_US = ids_US.to(device), valid_US.to(device)
        if prefix is None:
            cache = empty_cache(self._model.config, size)
        else:
            cache = prefix.rows(torch.zeros(len(suffixes), dtype=torch.long, device=device), skip + size)
        positions_US = skip + (valid_US.cumsum(1) - 1).clamp(min=0)
        causal_SS = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        # A padding query sees itself: a row of the mask without any True would give NaN, and NaN spreads.
        mask_USS = (causal_SS & valid_US[:, None, :]) | torch.eye(size, dtype=torch.bool, device=device)
        mask = torch.cat([mask_USS.new_ones(len(suffixes), size, skip), mask_USS], dim=2)
        return self._forward(ids_US, cache, positions_US, mask[:, None]), cache, valid_US

    def _step(
        self, token_B: Tensor, cache: KVCache, skip: int, valid_BS: Tensor, positions_B: Tensor
    ) -> Tensor:
        """Logits [B, V] after one more token of each row."""
        mask = None
        if not bool(valid_BS.all()):
            rows, size = valid_BS.shape
            new = cache.get_seq_length() + 1 - skip - size
            mask = torch.cat([valid_BS.new_ones(rows, skip), valid_BS, valid_BS.new_ones(rows, new)], dim=1)
            mask = mask[:, None, None]
        return self._forward(token_B[:, None], cache, positions_B[:, None], mask)

    def _forward(
        self, ids_BT: Tensor, cache: KVCache, positions: Tensor | int, mask: Tensor | None = None
    ) -> Tensor:
        if isinstance(positions, int):
            positions = positions + torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        out = self._model(
            input_ids=ids_BT,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Modules of their own on the same tensors: what is changed in one's structure the other does not see."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


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

"""The in-process sampler on a GPU: each token of a batch is one captured CUDA graph, sampling included.

`decoder.Decoder` computes; its cache keeps what all prompts share once, each prompt once, and each completion. The host asks every few tokens which rows have ended, and goes
on with a smaller graph when many have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gepa_loop.model.base import Base
from gepa_loop.model.capture import record
from gepa_loop.model.fused.decoder import Decoder, make_decoder
from gepa_loop.model.lora.adapter import Adapter, side_by_side
from gepa_loop.sampling.base import Completion, Request, Sampling, SelfMeasured
from gepa_loop.sampling.batches import shared_length
from gepa_loop.sampling.cuda.buffers import Buffers, Writer, fitting_rows, make_buffers, make_writer
from gepa_loop.sampling.cuda.draw import draw_rows
from gepa_loop.sampling.cuda.drawn import completions
from gepa_loop.sampling.cuda.prefill import Prefill
from gepa_loop.sampling.plain import uniforms
from gepa_loop.sampling.together import in_order

if TYPE_CHECKING:
    from torch import Tensor


LOOK_EVERY = 8
"""Tokens between two looks at which rows have ended."""
APART = 32
"""Calls with one adapter after which the columns of several are given back: they make a token a fifth slower, and graphs have to be
captured again without them. A rung scores its students in fewer."""
CACHE = 0.1
"""Share of a GPU's free memory that the cache of several students' rows may take beyond `batch` rows."""


class CudaSampler:
    """Samples from a base model with at most one adapter, or several students' side by side, behind a second copy of its weights.

    Args:
        base: A model for which `decoder.unsupported` is None, on a GPU.
        batch: Rows decoded together.
        share_from: Tokens that need not be read again from which on what all prompts begin with is read on its own. It
            costs a forward, so it does not pay for the few tokens of a chat template.
    """

    def __init__(self, base: Base, batch: int, share_from: int = 4096) -> None:
        self.base = base
        self.batch = batch
        self.share_from = share_from
        self._stops_K = torch.tensor(base.stop_ids, device=base.device)
        self._adapter: Adapter | None = None
        """What the decoder computes with."""
        self._ranks = 0
        """Of each student, where several students' adapters lie side by side in it."""
        self._apart = 0
        """Calls since several students answered together."""
        self._wide = False
        """Their columns are still there."""
        self._writer: Writer | None = None
        self._buffers: Buffers | None = None
        self._graphs: dict[tuple[int, float, int], Callable[[], None]] = {}
        # Without a GPU the kernels run in Triton's interpreter, for tests, and nothing is captured.
        cuda = base.device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if cuda else None
        self._processors = torch.cuda.get_device_properties(base.device).multi_processor_count if cuda else 8
        self._prefill.clear()  # it is there from now on: what is free is measured

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self.base.model)

    @cached_property
    def _prefill(self) -> Prefill:
        return Prefill(self._decoder, self.base.device, self._pool)

    @torch.no_grad()
    def _write(self, adapter: Adapter | None, narrow: bool) -> None:
        """Compute with this adapter from now on; `narrow` as of `Decoder.reserve`."""
        if adapter is None:
            self._decoder.write({}, 1.0)
            return
        if self._decoder.reserve(adapter, narrow):
            self._writer = None
            self._graphs.clear()
            self._prefill.clear()
        key = adapter.rank, adapter.alpha, adapter.modules
        if self._writer is None or self._writer.key != key:
            self._writer = make_writer(self._decoder, adapter, key, self._pool)
        # Copied to where the captured writer reads: one graph scales and places them all.
        pairs = [tensor for module in adapter.modules for tensor in adapter.pair(module)]
        torch._foreach_copy_(self._writer.factors, pairs, non_blocking=True)
        self._writer.write()

    def _current(self) -> AbstractContextManager[Any]:
        """Kernels and captures go to the device that is current, which need not be the model's."""
        device = self.base.device
        return nullcontext() if device.type == "cpu" else torch.cuda.device(device)

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
        with self._current():
            self._apart += 1
            narrow = self._wide and self._apart >= APART and adapter is not None
            if adapter is not self._adapter or narrow:
                self._write(adapter, narrow)
                self._adapter, self._ranks, self._wide = adapter, 0, self._wide and not narrow
            return self._generate(prompts, sampling, seeds, [0] * len(prompts), self.batch)

    @property
    def joins(self) -> bool:
        return True

    @torch.inference_mode()
    def generate_together(self, wanted: Sequence[Request], sampling: Sampling) -> list[Completion]:
        adapters = [rows.adapter for rows in wanted if rows.adapter is not None]
        whole = side_by_side(adapters)
        with self._current():
            self._write(whole, narrow=True)
            self._adapter, self._ranks, self._apart, self._wide = whole, adapters[0].rank, 0, True
            prompts, seeds, students = in_order(wanted)
            tokens = max(map(len, prompts)) + sampling.max_tokens
            fitting = fitting_rows(self._decoder, self._buffers, tokens, CACHE) or self.batch
            rows = min(len(wanted) * self.batch, fitting)
            return self._generate(prompts, sampling, seeds, students, max(self.batch, rows))

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        students: Sequence[int],
        batch: int,
    ) -> list[Completion]:
        # What several students read is no shared past: each reads it with its own adapter.
        skip = 0 if self._ranks else shared_length(prompts)
        if skip * (len(set(map(tuple, prompts))) - 1) < self.share_from:
            skip = 0
        longest = max(map(len, prompts)) - skip
        slots = min(len(prompts), batch)
        buffers = self._reserve(slots, skip, longest, sampling.max_tokens)
        self._prefill.shared(prompts[0][:skip], buffers)
        completions: list[Completion] = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            completions += self._generate_batch(
                list(zip(students[part], (tuple(p[skip:]) for p in prompts[part]), strict=True)),
                seeds[part],
                sampling,
                skip,
                buffers,
            )
        return completions

    def sleep(self) -> SelfMeasured:
        """The cache stays: the captured graphs hold its addresses."""
        return {}

    def close(self) -> None:
        """Give back the copy of the weights, too."""
        self._graphs.clear()
        self._buffers = self._writer = self._adapter = None
        self._ranks, self._wide = 0, False
        for made in ("_prefill", "_decoder"):
            self.__dict__.pop(made, None)
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()  # for other processes

    def _release(self) -> None:
        """Give the cache's memory back; the next `_reserve` makes another."""
        self._graphs.clear()
        self._prefill.clear()
        self._buffers = None

    def _reserve(self, *wanted: int) -> Buffers:
        """Buffers with at least so many slots, shared tokens, prompt tokens and completion tokens."""
        if self._buffers is not None:
            have = self._buffers.capacity
            if all(n <= m for n, m in zip(wanted, have, strict=True)):
                return self._buffers
            slots = have[0] if self._ranks else min(have[0], self.batch)
            # Those of several students would be too many at the length that one of them asks for.
            wanted = max(wanted[0], slots), *map(max, wanted[1:], have[1:])
            self._release()
        self._buffers = make_buffers(self._decoder, self.base.model.dtype, wanted)
        return self._buffers

    def _generate_batch(
        self,
        prompts: Sequence[tuple[int, tuple[int, ...]]],
        seeds: Sequence[int],
        sampling: Sampling,
        skip: int,
        buffers: Buffers,
    ) -> list[Completion]:
        """Completions of prompts, each with the student that reads it."""
        device, count, rows, drawn = self.base.device, len(prompts), buffers.rows, buffers.drawn
        unique = list(dict.fromkeys(prompts))
        owner = {prompt: n for n, prompt in enumerate(unique)}
        owners = torch.tensor([owner[p] for p in prompts], dtype=torch.int32, device=device)
        rows.owners_R[:count] = owners
        rows.prompts_U[: len(unique)] = torch.tensor([len(p) for _, p in unique], device=device)
        rows.students_R[:count] = torch.tensor([student for student, _ in prompts], device=device)
        rows.lengths_R.zero_()
        drawn.done_R.zero_()
        table = np.stack([uniforms(seed, sampling.max_tokens) for seed in seeds])
        drawn.uniforms_RT[:count, : sampling.max_tokens] = torch.from_numpy(table).to(device)

        readers, texts = zip(*unique, strict=True)
        logits_UV = self._prefill.prompts(texts, readers, self._ranks, skip, buffers)
        # Rows of a launch are slots, so that a smaller graph goes on where a larger one stopped and no cache moves.
        alive = torch.arange(count, dtype=torch.int32, device=device)
        launch = rows._replace(slots_B=alive)
        draw_rows(logits_UV[owners], sampling.temperature, self._stops_K, launch, drawn)

        size = self._launch(alive, buffers)
        for place in range(1, sampling.max_tokens):
            # The only place where the host waits: a look costs what the GPU is behind.
            if (place - 1) % LOOK_EVERY == 0:
                going = alive[drawn.done_R[alive] == 0]
                if not len(going):
                    break
                if self._bucket(len(going), buffers) < size:
                    alive = going
                    size = self._launch(alive, buffers)
            self._graph(size, sampling.temperature, buffers)()
        return completions(drawn, count, sampling.max_tokens, self.base.stop_ids)

    def _bucket(self, count: int, buffers: Buffers) -> int:
        """Rows of the smallest graph that holds `count`."""
        # Powers of 2: a batch of 64 needs at most 7 captures, whatever ends when.
        return min(buffers.slots, 1 << (count - 1).bit_length())

    def _launch(self, alive: Tensor, buffers: Buffers) -> int:
        """Make these slots the rows of the next launches; returns how many rows those have."""
        size = self._bucket(len(alive), buffers)
        slots = buffers.rows.slots_B
        # What only fills the launch up writes to the slot that nobody reads.
        slots.fill_(buffers.slots)
        slots[: len(alive)] = alive
        return size

    def _graph(self, size: int, temperature: float, buffers: Buffers) -> Callable[[], None]:
        """One token of `size` rows: a graph that is captured when it is first wanted."""
        ranks = self._ranks
        key = size, temperature, ranks
        if key not in self._graphs:
            rows = buffers.rows._replace(slots_B=buffers.rows.slots_B[:size])
            drawn, splits = buffers.drawn, self._splits(size, buffers)

            def token() -> None:
                tokens = drawn.last_R[rows.slots_B]
                logits = self._decoder.decode(tokens, buffers.keys, buffers.values, rows, splits, ranks)
                draw_rows(logits, temperature, self._stops_K, rows, drawn)

            self._graphs[key] = (
                token if self.base.device.type == "cpu" else self._capture(token, rows.slots_B, buffers.slots)
            )
        return self._graphs[key]

    def _capture(self, token: Callable[[], None], slots_B: Tensor, unread: int) -> Callable[[], None]:
        # The first run must not count as a token: all rows go to the slot that nobody reads.
        kept = slots_B.clone()
        slots_B.fill_(unread)
        graph, _ = record(token, self._pool)
        slots_B.copy_(kept)
        return graph.replay

    def _splits(self, size: int, buffers: Buffers) -> int:
        """Programs that share a row's past, so that all multiprocessors have work; at least 256 keys for each."""
        by_rows = max(1, 2 * self._processors // (size * self._decoder.kv_heads))
        by_keys = max(1, sum(buffers.capacity[1:]) // 256)
        return min(16, 1 << (min(by_rows, by_keys).bit_length() - 1))

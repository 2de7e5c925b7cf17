"""Prompts into the cache, before the first token is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gepa_loop.model.capture import record

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.fused.decoder import Decoder
    from gepa_loop.sampling.cuda.buffers import Buffers

PREFILL_TOKENS = 16_384
"""Prompt tokens that are read together."""
PREFILL_KEYS = 2**17
"""Keys of all rows that are read together, what is shared counted for each: .5 GB in a layer of a 4B model."""
GRAPHS = 32
"""Captured graphs that are kept, one for each shape of prompts; each holds its hidden states."""
GRAPH_TOKENS = 4_096
"""Prompt tokens up to which their forward is captured: above, the GPU takes longer than launching does."""


@dataclass(frozen=True, eq=False)
class PromptForward:
    """The forward of prompts of one shape: their tokens are copied to `ids_UP`, and `run` gives their hidden states [U, P, H]."""

    ids_UP: Tensor
    students_U: Tensor
    """Whose they are, where several students answer."""
    run: Callable[[], Tensor]


class Prefill:
    """Reads prompts with a decoder; short ones by captured graphs, which hold the buffers' addresses.

    Args:
        decoder: The model, with its present adapter.
        device: Where it lies; nothing is captured on the CPU.
        pool: Of captured graphs.
    """

    def __init__(self, decoder: Decoder, device: torch.device, pool: Any) -> None:
        self._decoder, self._device, self._pool = decoder, device, pool
        self._captured: dict[tuple[int, ...], PromptForward] = {}

    def clear(self) -> None:
        """Forget what was captured: matrices or buffers have moved."""
        self._captured.clear()

    def shared(self, tokens: Sequence[int], buffers: Buffers) -> None:
        """Read what all prompts begin with."""
        buffers.rows.shared_1.fill_(len(tokens))
        if tokens:
            ids = torch.tensor([list(tokens)], device=self._device)
            keys, values = (
                [past.shared_GCD[None] for past in side] for side in (buffers.keys, buffers.values)
            )
            self._decoder.prefill(ids, keys, values, None, 0)

    def prompts(
        self,
        prompts: Sequence[tuple[int, ...]],
        students: Sequence[int],
        ranks: int,
        skip: int,
        buffers: Buffers,
    ) -> Tensor:
        """Read each prompt's rest after `skip` shared tokens; logits [U, V] of the token after it.

        Args:
            prompts: Those rests.
            students: Whose each is.
            ranks: Of each student's adapter, where several lie side by side; else 0.
            skip: Shared tokens, which all students read alike.
            buffers: Get their keys and values.
        """
        shared = None
        if skip:
            shared = [p.shared_GCD for p in buffers.keys], [p.shared_GCD for p in buffers.values]
        last, done = [], 0
        while done < len(prompts):
            size = max(map(len, prompts[done:]))
            most = max(1, min(PREFILL_TOKENS // size, PREFILL_KEYS // (skip + size)))
            part = prompts[done : done + most]
            # Rounded up, so that few graphs serve all lengths; padding comes last, where no real token sees it.
            width = -(-max(map(len, part)) // 16) * 16
            ids = np.zeros((len(part), width), np.int64)
            for row, prompt in enumerate(part):
                ids[row, : len(prompt)] = prompt
            here = slice(done, done + len(part))
            forward = self._forward(here, width, shared, (skip, ranks), buffers)
            forward.ids_UP.copy_(torch.from_numpy(ids))
            forward.students_U.copy_(torch.tensor(students[here], dtype=torch.int32))
            x_UPH = forward.run()
            ends = torch.tensor([len(p) - 1 for p in part], device=x_UPH.device)
            last.append(x_UPH[torch.arange(len(part), device=x_UPH.device), ends])
            done += len(part)
        return self._decoder.logits(torch.cat(last))

    def _forward(
        self,
        here: slice,
        length: int,
        shared: tuple[list[Tensor], list[Tensor]] | None,
        kind: tuple[int, int],
        buffers: Buffers,
    ) -> PromptForward:
        """The forward that writes prompts into their places `here` of the cache: a graph where launching would take longer.

        `kind` are the shared tokens and the ranks of each student, as of `prompts`.
        """
        count, (skip, ranks) = here.stop - here.start, kind
        key = here.start, count, length, ranks
        if skip or key not in self._captured:
            keys, values = (
                [past.prompt_UGPD[here] for past in side] for side in (buffers.keys, buffers.values)
            )
            ids_UP = torch.zeros(count, length, dtype=torch.long, device=self._device)
            students_U = torch.zeros(count, dtype=torch.int32, device=self._device)

            def run() -> Tensor:
                own = self._decoder.whose(students_U.repeat_interleave(length), ranks)
                return self._decoder.prefill(ids_UP, keys, values, shared, skip, own)

            # What is shared is a candidate's prompt, whose length seldom comes again.
            if skip or self._device.type == "cpu" or count * length > GRAPH_TOKENS:
                return PromptForward(ids_UP, students_U, run)
            if len(self._captured) == GRAPHS:
                self._captured.clear()
            graph, out_UPH = record(run, self._pool)

            def replay(graph: torch.cuda.CUDAGraph = graph, out_UPH: Tensor = out_UPH) -> Tensor:
                graph.replay()
                return out_UPH

            self._captured[key] = PromptForward(ids_UP, students_U, replay)
        return self._captured[key]

"""Completions that workers sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from gepa_loop.cluster.crew import Crew
from gepa_loop.cluster.piece import KEPT, Desk, Piece, Shared, Tell
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.sampling.base import Completion, Request, Sampler, Sampling, SelfMeasured, Waiting, answers

if TYPE_CHECKING:
    from gepa_loop.lab import Lab

LEAST = 32
"""Rows of a call that a GPU is given at least: it decodes fewer in nearly the same time (4B, H100: 64 rows 6.4 ms a token, 32 rows 5.3)."""


@dataclass
class _Call:
    """What was begun."""

    wanted: Request
    sampling: Sampling
    parts: Sequence[Callable[[], list[Completion]]] | None = None
    """Each waits for a part of it; None until it is given out."""


class CrewSampler:
    """A `Sampler` and `Streaming`: workers answer, each a call or a part of one.

    On a CPU a call is never cut, as rows share what they read: so it is the same to the bit as without workers. On GPUs calls are cut where
    fewer are asked for at once than there are workers, and equal up to bfloat16's order of sums.

    Args:
        crew: The workers, each of which holds the lab.
        own: The command's, which answers as long as no worker has opened.
        cuts: Whether calls are cut.
    """

    def __init__(self, crew: Crew, own: Sampler, cuts: bool) -> None:
        self._crew = crew
        self._own: Sampler | None = own
        self._most = crew.places if cuts else 1
        """Calls from which on none of them is cut."""
        self._held: list[_Call] = []

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        """As of `Sampler`."""
        return self.begin(Request(prompts, seeds, adapter), sampling)()

    def begin(self, wanted: Request, sampling: Sampling) -> Waiting:
        """As of `Streaming`: it is held back until there is one for each worker, or one is read, or `send`."""
        call = _Call(wanted, sampling)
        self._held.append(call)
        if len(self._held) == self._most:
            self.send()

        def completions() -> list[Completion]:
            if call.parts is None:
                self.send()
            assert call.parts is not None, "it was held back until now"
            return [completion for part in call.parts for completion in part()]

        return completions

    def send(self) -> None:
        """As of `Streaming`."""
        workers = 1  # as long as it is answered here
        if self._crew.open:
            apart = any(call.wanted.elsewhere for call in self._held)
            workers = min(self._most, self._crew.elsewhere) if apart else self._most
            self.close()
        rows = cut([len(call.wanted.prompts) for call in self._held], workers)
        for call, own in zip(self._held, rows, strict=True):
            call.parts = self._given_out(call, own)
        self._held.clear()

    def _given_out(self, call: _Call, rows: Sequence[int]) -> list[Callable[[], list[Completion]]]:
        wanted, asked = call.wanted, []
        # In a warm start students are asked nothing, and their adapters need not be sent.
        adapter = shared_adapter(self._crew, wanted.adapter) if rows else None
        for start, end in pairwise(accumulate(rows, initial=0)):
            given = {
                "prompts": wanted.prompts[start:end],
                "seeds": wanted.seeds[start:end],
                "sampling": call.sampling,
                "adapter": adapter,
            }
            asked.append(self._crew.ask(Piece("sampling", answer, given), wanted.elsewhere))
        return asked

    def sleep(self) -> SelfMeasured:
        """The command's own gives back what it holds; all of it, once workers answer in its place."""
        if self._crew.open:
            self.close()
        return {} if self._own is None else self._own.sleep()

    def close(self) -> None:
        """As of `Sampler`."""
        if self._own is not None:
            self._own.close()
        if self._crew.open:
            self._own = None


def cut(calls: Sequence[int], workers: int) -> list[list[int]]:
    """Rows of the parts of each of these calls, of so many rows each, that are given out together."""
    return [shares(rows, max(1, workers // len(calls))) for rows in calls]


def shares(rows: int, most: int) -> list[int]:
    """Rows of each part into which a call is cut, at most `most` of them."""
    parts = min(most, max(1, rows // LEAST)) if rows else 0
    return [(n + 1) * rows // parts - n * rows // parts for n in range(parts)]


def shared_adapter(crew: Crew, adapter: Adapter | None) -> Shared | None:
    """An adapter as workers are sent it, once."""
    return None if adapter is None else crew.share(adapter.digest, lambda: _values(adapter))


def _values(adapter: Adapter) -> dict[str, Any]:
    """As arrays, which processes of one machine read without a copy."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in adapter.tensors.items()}
    return {"rank": adapter.rank, "alpha": adapter.alpha, "targets": adapter.targets, "tensors": tensors}


def adapter_of(desk: Desk, values: Mapping[str, Any] | None) -> Adapter | None:
    """The adapter that was sent; the same object as long as the worker keeps its values, so that its sampler need not write it again."""
    import torch

    if values is None:
        return None
    made: dict[int, tuple[object, Adapter]] = desk.held.adapters
    if id(values) not in made:
        tensors = {name: torch.tensor(array) for name, array in values["tensors"].items()}
        own = Adapter(values["rank"], values["alpha"], values["targets"], tensors)
        made[id(values)] = values, own
    made[id(values)] = made.pop(id(values))  # used last
    while len(made) > KEPT:
        del made[next(iter(made))]
    return made[id(values)][1]


def answer(
    desk: Desk,
    tell: Tell,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    adapter: Mapping[str, Any] | None,
) -> None:
    """Tell one completion for each prompt, in order."""
    lab: Lab = desk.held.lab
    tell(answers(lab.rollouts.sampler, Request(prompts, seeds, adapter_of(desk, adapter)), sampling))

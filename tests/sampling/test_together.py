"""Rows of several students in one batch, beside each student's own; without a GPU the fused kernels run in Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from gepa_loop.config.tables import LoraConfig
from gepa_loop.errors import Diverged
from gepa_loop.model.base import Base
from gepa_loop.model.lora.adapter import Adapter, side_by_side, stack_adapters
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Request, Sampling
from gepa_loop.sampling.cuda.sampler import APART, CudaSampler
from gepa_loop.sampling.network import ModuleNetwork
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.sampling.together import Joint, sample_together

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHARED = [9, 8, 7, 6]
PROMPTS = [[*SHARED, 11, 12, 13], [*SHARED, 14], [*SHARED, 11, 12, 13]]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Counting(TorchSampler):
    """Counts its calls for several students."""

    together = 0

    def generate_together(self, wanted: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.together += 1
        return super().generate_together(wanted, sampling)


SAMPLERS: list[Callable[[Base], Any]] = [
    lambda base: TorchSampler(base, 4, share_from=0),
    lambda base: CudaSampler(base, 16, 1),
]


@pytest.fixture(scope="module")
def base(tiny: Base) -> Base:
    return replace(tiny, model=copy.deepcopy(tiny.model).to(DEVICE))


def students(base: Base, count: int, rank: int = 4, targets: tuple[str, ...] = TARGETS) -> list[Adapter]:
    model = with_lora(base, LoraConfig(rank=rank, alpha=2.0 * rank, targets=targets), 0, None)
    blank = student_adapter(model)
    remove_lora(model)
    made = []
    for number in range(count):
        source = torch.Generator().manual_seed(number)
        tensors = {name: torch.randn(t.shape, generator=source) / 5 for name, t in blank.tensors.items()}
        made.append(replace(blank, tensors=tensors))
    return made


def asked(adapters: list[Adapter]) -> list[Request]:
    """The same rows of each student, on random numbers of its own."""
    return [
        Request(PROMPTS, [10 * n + k for k in range(len(PROMPTS))], adapter)
        for n, adapter in enumerate(adapters)
    ]


def same(one: list[Completion], other: list[Completion]) -> None:
    assert [(c.token_ids, c.finish_reason) for c in one] == [(c.token_ids, c.finish_reason) for c in other]
    flat = [torch.tensor([p for c in found for p in c.logprobs]) for found in (one, other)]
    torch.testing.assert_close(*flat, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("make", SAMPLERS, ids=["torch", "cuda"])
@pytest.mark.parametrize("rank", [4, 3], ids=["rank 4", "rank 3"])
def test_rows_of_several_students_are_those_of_each(
    base: Base, make: Callable[[Base], Any], rank: int
) -> None:
    sampler, alone = make(base), make(base)
    if not sampler.joins:
        pytest.skip("on a GPU the model's own modules answer one student after the other")
    adapters = students(base, 3, rank)
    for sampling in (Sampling(1.0, 4), Sampling(0.0, 3)):
        wanted = asked(adapters)
        found = sampler.generate_together(wanted, sampling)
        theirs = [alone.generate(one.prompts, sampling, one.seeds, one.adapter) for one in wanted]
        same(found, [completion for part in theirs for completion in part])
        assert len({tuple(c.token_ids for c in part) for part in theirs}) == 3  # students differ
    # And afterwards it computes with one again, or with none.
    for adapter in (adapters[1], None):
        same(*(one.generate(PROMPTS, Sampling(1.0, 4), [1, 2, 3], adapter) for one in (sampler, alone)))


@pytest.mark.parametrize("make", SAMPLERS, ids=["torch", "cuda"])
def test_students_on_a_stack_that_changes_other_layers(base: Base, make: Callable[[Base], Any]) -> None:
    [stack] = students(base, 1, 2, ("o_proj", "down_proj"))
    whole = [stack_adapters([stack, own]) for own in students(base, 2, 3, ("q_proj", "up_proj", "o_proj"))]
    sampler, alone, sampling = make(base), make(base), Sampling(1.0, 3)
    found = sample_together(sampler, asked(whole), sampling)
    for mine, one in zip(found, asked(whole), strict=True):
        assert not isinstance(mine, Diverged)
        same(mine, alone.generate(one.prompts, sampling, one.seeds, one.adapter))


def test_a_student_that_is_asked_nothing_gets_nothing(base: Base) -> None:
    """Its neighbours answer in one call all the same."""
    sampler, (one, two) = Counting(base, 4), students(base, 2)
    if not sampler.joins:
        pytest.skip("on a GPU the model's own modules answer one student after the other")
    wanted, sampling = asked([one, two]), Sampling(1.0, 4)
    first, none, second = sample_together(sampler, [wanted[0], Request([], [], two), wanted[1]], sampling)
    assert none == [] and sampler.together == 1
    for found, own in ((first, wanted[0]), (second, wanted[1])):
        assert not isinstance(found, Diverged)
        same(found, TorchSampler(base, 4).generate(own.prompts, sampling, own.seeds, own.adapter))


def test_a_model_without_fused_weights_answers_in_turn(base: Base) -> None:
    sampler = TorchSampler(base, 4, ModuleNetwork(base))
    assert isinstance(sampler, Joint) and not sampler.joins
    wanted = [*asked(students(base, 2)), Request([], [], None)]
    first, second, none = sample_together(sampler, wanted, Sampling(1.0, 4))
    assert none == [] and first != second
    for found, one in zip((first, second), wanted, strict=False):
        assert found == sampler.generate(one.prompts, Sampling(1.0, 4), one.seeds, one.adapter)


def test_one_student_s_broken_logits_are_its_own(base: Base) -> None:
    good, bad, other = students(base, 3)
    broken = {n: t * 1e37 if "lora_A" in n else t for n, t in bad.tensors.items()}
    sampler, wanted = TorchSampler(base, 4), asked([good, replace(bad, tensors=broken), other])
    first, second, third = sample_together(sampler, wanted, Sampling(1.0, 4))
    assert isinstance(second, Diverged)
    for found, one in ((first, wanted[0]), (third, wanted[2])):
        assert found == sampler.generate(one.prompts, Sampling(1.0, 4), one.seeds, one.adapter)


def test_adapters_of_different_shapes_do_not_lie_side_by_side(base: Base) -> None:
    two, three = students(base, 1, 2)[0], students(base, 1, 3)[0]
    assert side_by_side([two, two]).rank == 4 and side_by_side([two, two]).scale == two.scale
    with pytest.raises(ValueError, match="different ranks"):
        side_by_side([two, three])


def test_columns_of_students_who_are_gone_are_given_back(base: Base) -> None:
    sampler, alone, adapters = CudaSampler(base, 16), CudaSampler(base, 16), students(base, 4, 8)

    def width() -> int:
        return sampler._decoder.layers[0].out.rank

    one = Sampling(0.0, 1)
    for count, expected in ((4, 32), (3, 32), (2, 16)):
        wanted = [replace(request, prompts=PROMPTS[:1], seeds=[1]) for request in asked(adapters[:count])]
        theirs = [alone.generate(r.prompts, one, r.seeds, r.adapter)[0] for r in wanted]
        same(sampler.generate_together(wanted, one), theirs)
        assert width() == expected
    # One student alone keeps them for a while: a rung scores each of its students.
    for call in range(1, APART + 1):
        found = sampler.generate(PROMPTS[1:2], one, [1], adapters[0])
        assert width() == (16 if call < APART else 8)
    same(found, alone.generate(PROMPTS[1:2], one, [1], adapters[0]))


def test_a_sampler_that_never_had_several_keeps_its_columns(base: Base) -> None:
    """Adapters of two ranks in turn, as of a teacher and a student on a stack: nothing moves after the wider one came."""
    sampler, one = CudaSampler(base, 16), Sampling(0.0, 1)
    narrow, wide = students(base, 1, 8)[0], students(base, 1, 16)[0]
    sampler.generate(PROMPTS[1:2], one, [1], wide)
    for call in range(APART + 2):
        sampler.generate(PROMPTS[1:2], one, [1], (narrow, wide)[call % 2])
        assert sampler._decoder.layers[0].out.rank == 16

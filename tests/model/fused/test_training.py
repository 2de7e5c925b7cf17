"""The fused training forward against the model's own; without a GPU its kernels run in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gepa_loop.config.tables import LoraConfig
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.fused.training import fused_states
from gepa_loop.model.lora.training import as_teacher, with_lora
from gepa_loop.model.packed import Packed, pack
from gepa_loop.training.head import chunked as head
from gepa_loop.training.head import kernels as head_kernels
from gepa_loop.training.head.compare import Compared, compare
from gepa_loop.training.head.divergence import Kind, from_logprobs, with_gradient

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPTS = [[9, 8, 7], [9, 8, 7, 6, 5]]
COMPLETIONS = [[(1, 2, 3), (4,), (5, 6)], [(7, 7), (3, 2, 1, 4)]]
KINDS = ["llama", "qwen2", "qwen3"]


def adapted(base: Base) -> tuple[torch.nn.Parameter, ...]:
    """Put a random adapter on the model; its trainable parameters."""
    model = with_lora(base, LoraConfig(rank=4, alpha=8.0, targets=TARGETS), 0, None)
    trained = tuple(p for p in model.parameters() if p.requires_grad)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(torch.randn(parameter.shape, generator=source) / 10)
    return trained


def outcome(
    states: Callable[..., torch.Tensor],
    base: Base,
    trained: tuple[torch.nn.Parameter, ...],
    packed: Packed,
    prefix: Prefix,
) -> list[torch.Tensor]:
    """States, and the gradients of their product with a fixed slope."""
    found = states(base.model, packed, prefix)
    source = torch.Generator().manual_seed(1)
    slope = torch.randn(found.shape, generator=source).to(found)
    return [found.detach(), *torch.autograd.grad(found, trained, slope)]


@pytest.mark.parametrize("past", [[], [11, 12, 13, 14]], ids=["whole", "prefix"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_are_the_models_own(
    of_family: Callable[..., Base], kind: str, past: list[int]
) -> None:
    base = of_family(kind)
    trained = adapted(base)
    prefix = read_prefix(base.model, past)
    packed = pack(PROMPTS, COMPLETIONS, len(past), base.device)
    found = outcome(fused_states, base, trained, packed, prefix)
    expected = outcome(hidden_states, base, trained, packed, prefix)
    for mine, own in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, own, atol=1e-4 * float(own.abs().max()), rtol=1e-4)
        assert own.abs().max() > 1e-3


def test_the_teacher_is_the_base_alone(of_family: Callable[..., Base]) -> None:
    base = of_family("llama")
    packed = pack(PROMPTS, COMPLETIONS, 0, base.device)
    with torch.no_grad():
        before = fused_states(base.model, packed, Prefix())
        model = with_lora(base, LoraConfig(rank=4, alpha=8.0, targets=TARGETS), 0, None)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.1)
        with as_teacher(model):
            assert torch.equal(fused_states(base.model, packed, Prefix()), before)
        assert not torch.allclose(fused_states(base.model, packed, Prefix()), before)


def by_kernel(
    student: torch.Tensor, teacher: torch.Tensor, tokens: torch.Tensor, forward: bool
) -> tuple[Compared, torch.Tensor]:
    """What is found, and the gradient, of rows of logits."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gradient = student.to(device, copy=True)
    return head_kernels.compare(gradient, teacher.to(device), tokens.to(device), forward), gradient


def by_passes(
    student: torch.Tensor, teacher: torch.Tensor, tokens: torch.Tensor, forward: bool
) -> tuple[Compared, torch.Tensor]:
    gradient = student.T.contiguous()
    spare = torch.full((2, *gradient.shape), torch.nan)
    found = compare(gradient, teacher.T.contiguous(), spare, tokens, forward)
    return found, gradient.T


@pytest.mark.parametrize("compared", [by_kernel, by_passes])
@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl"])
def test_compared_logits_are_the_objectives_sums(
    compared: Callable[..., tuple[Compared, torch.Tensor]], kind: Kind
) -> None:
    """Against the sums in float64, over a vocabulary that no block fits; one row has equal logits."""
    source = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 2500, generator=source) * 2 for _ in range(2))
    student[1] = teacher[1] + 0.3 * student[1]
    student[2] = teacher[2]
    student[3] += 50
    tokens = torch.tensor([0, 5, 2499, 1024, 7, 8])
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (student, teacher))
    value, slope = with_gradient(log_p, log_q, kind, 0.5)
    found, gradient = compared(student, teacher, tokens, kind == "forward_kl")
    expected = (
        value,
        log_p.gather(-1, tokens[:, None])[:, 0],
        -(log_p.exp() * log_p).sum(-1),
        from_logprobs(log_p, log_q, "reverse_kl"),
        log_q.gather(-1, tokens[:, None])[:, 0],
    )
    for mine, own in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.cpu().double(), own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.cpu().double(), slope, atol=1e-7, rtol=1e-4)
    assert found.divergence_N[2] == 0 and not gradient[2].any()


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl"])
def test_chunks_of_tokens_on_a_cpu_equal_the_dense_divergence(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics and gradient over four uneven chunks, in float32, against one of float64 by the general way."""
    source = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 38, 16, generator=source)
    head_VH, tokens_N = torch.randn(300, 16, generator=source), torch.randint(300, (38,), generator=source)

    def of(dtype: torch.dtype, **divergence: int) -> tuple[head.TokenStats, torch.Tensor]:
        hidden_NH = student.to(dtype, copy=True).requires_grad_()
        sides = head.Dense(teacher.to(dtype), head_VH.to(dtype))
        stats = head.token_stats(
            hidden_NH, sides.head_VH, tokens_N, sides, head.Wanted(head.Divergence(kind, **divergence))
        )
        stats.divergence_N.mean().backward()  # type: ignore[no-untyped-call]
        assert hidden_NH.grad is not None
        return stats, hidden_NH.grad

    exact, slope_NH = of(torch.float64, top_k=300)
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", 10 * 300)
    fast, fast_slope_NH = of(torch.float32)
    for mine, own in zip(fast, exact, strict=True):
        torch.testing.assert_close(mine.detach().double(), own.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast_slope_NH.double(), slope_NH, atol=1e-6, rtol=1e-4)

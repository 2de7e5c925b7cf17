"""Objective, packing and trainer on the tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gepa_loop.config import Config, load_config
from gepa_loop.distill.batch import Group, completion_tokens, micro_batches, pack
from gepa_loop.distill.objectives import full_kl, reverse_kl
from gepa_loop.distill.teacher import Prefix, hidden_states, read_prefix
from gepa_loop.distill.trainer import distill
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab, open_lab
from gepa_loop.models import Base
from gepa_loop.prompts import Candidate
from gepa_loop.runs import read_jsonl


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


def train(
    lab: Lab, folder: Path, *sets: str, prompt: str = "Answer with one number.", progress: Any = None
) -> Any:
    config = smoke(*sets)
    return distill(
        config,
        lab.base,
        lab.rollouts,
        Candidate(prompt),
        folder,
        stack=None,
        before=0.0,
        progress=progress or (lambda row: None),
    )


def test_reverse_kl_by_hand() -> None:
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    torch.testing.assert_close(reverse_kl(p.log(), q.log())[0], expected)
    assert reverse_kl(p.log(), p.log() + 0.0).item() == 0.0


def test_full_kl_and_its_gradient_equal_the_dense_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    student, teacher, head = normal(300, 8).requires_grad_(), normal(300, 8), normal(50, 8)
    tokens = torch.randint(50, (300,), generator=generator)
    weight = torch.rand(300, generator=generator)
    stats = full_kl(student, teacher, head, tokens)
    (gradient,) = torch.autograd.grad((stats.reverse_kl_N * weight).sum(), student)

    double = student.detach().double().requires_grad_()
    logits = double @ head.double().T
    dense = reverse_kl(logits, teacher.double() @ head.double().T)
    (expected,) = torch.autograd.grad((dense * weight.double()).sum(), double)
    torch.testing.assert_close(stats.reverse_kl_N.double(), dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(stats.entropy_N.double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-4, atol=1e-5)
    picked = log_p.gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(stats.student_logprob_N.double(), picked, rtol=1e-4, atol=1e-5)


GROUPS = [
    Group((9, 8, 7), (9, 8, 7), ((1, 2, 3), (4,), (5, 6))),
    Group((9, 8, 7, 6, 5), (9, 8, 7, 6, 5), ((7, 7), (3, 2, 1, 4))),
]


def separate(base: Base, prefix: list[int]) -> torch.Tensor:
    """Hidden states that predict each completion token, one plain forward for each completion."""
    parts = []
    for group in GROUPS:
        for completion in group.completions:
            past = [*prefix, *group.student_prompt]
            ids = torch.tensor([[*past, *completion]])
            states = base.model.get_decoder()(input_ids=ids).last_hidden_state[0]
            parts.append(states[len(past) - 1 : -1])
    return torch.cat(parts)


@pytest.mark.parametrize("prefix", [[], [11, 12, 13, 14]])
def test_packed_equals_separate_sequences(tiny: Base, prefix: list[int]) -> None:
    packed = pack(
        [g.student_prompt for g in GROUPS], [g.completions for g in GROUPS], len(prefix), tiny.device
    )
    with torch.no_grad():
        states = hidden_states(tiny.model, packed, read_prefix(tiny.model, prefix) if prefix else Prefix())
        torch.testing.assert_close(states, separate(tiny, prefix), atol=1e-5, rtol=1e-4)
    assert completion_tokens(GROUPS, tiny.device).tolist() == [1, 2, 3, 4, 5, 6, 7, 7, 3, 2, 1, 4]


@pytest.mark.parametrize("limit", [1, 9, 14, 1000])
def test_micro_batches_keep_order_and_every_token(limit: int) -> None:
    parts = list(micro_batches(GROUPS, limit))
    flat = [c for part in parts for group in part for c in group.completions]
    assert flat == [c for group in GROUPS for c in group.completions]
    for part in parts:
        whole = len(part) * max(len(g.student_prompt) + g.tokens for g in part)
        assert whole <= limit or (len(part) == 1 and len(part[0].completions) == 1)


def test_divergence_with_an_empty_prompt_is_exactly_zero(lab: Lab, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    train(lab, tmp_path, prompt="", progress=rows.append)
    assert [row["reverse_kl"] for row in rows] == [0.0, 0.0, 0.0]


def test_distillation_lowers_the_divergence_and_leaves_the_base_alone(lab: Lab, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in lab.base.model.state_dict().items()}
    done = train(lab, tmp_path, "distill.steps=40", "distill.lr=1e-2", "distill.check_every=40")
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 41))
    kls = [row["reverse_kl"] for row in rows]
    assert sum(kls[-5:]) < 0.85 * sum(kls[:5])
    assert all(row["reverse_kl"] > 0 for row in rows)
    after = lab.base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert done.last.step == 40 and not (tmp_path / "checkpoints").exists()


def test_micro_batch_size_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    one = train(lab, tmp_path / "a", "distill.micro_tokens=1", "distill.steps=1", "distill.check_every=1")
    all_ = train(lab, tmp_path / "b", "distill.steps=1", "distill.check_every=1")
    kl = [read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in "ab"]
    assert kl[0]["reverse_kl"] == pytest.approx(kl[1]["reverse_kl"], rel=1e-4)
    assert kl[0]["grad_norm"] == pytest.approx(kl[1]["grad_norm"], rel=1e-4)
    assert one.last == all_.last


class Killed(Exception):
    pass


def test_resume_equals_an_uninterrupted_run_to_the_byte(lab: Lab, tmp_path: Path) -> None:
    sets = "distill.steps=5", "distill.check_every=2"
    whole = train(lab, tmp_path / "whole", *sets)

    def kill_at_3(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(lab, tmp_path / "torn", *sets, progress=kill_at_3)
    (tmp_path / "torn" / "metrics.jsonl").open("a").write('{"step": 4, "los')
    resumed = train(lab, tmp_path / "torn", *sets)
    assert resumed.adapter.fingerprint == whole.adapter.fingerprint
    assert (resumed.best, resumed.last) == (whole.best, whole.last)
    kls = [[r["reverse_kl"] for r in read_jsonl(tmp_path / n / "metrics.jsonl")] for n in ("whole", "torn")]
    assert kls[0] == kls[1] and len(kls[0]) == 5
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "torn" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step \d+: .* not finite; step \d+ is kept") as caught:
        train(lab, tmp_path, "distill.lr=1e30", "distill.steps=6", "distill.check_every=1")
    assert caught.value.exit_code == 3
    assert list((tmp_path / "checkpoints").glob("step_*/state.json"))

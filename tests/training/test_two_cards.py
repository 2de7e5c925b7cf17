"""A model split over two GPUs, a base on the second, and a teacher on the second: each must come to what one GPU comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.forward import Prefix, hidden_states, recomputed_states
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import (
    load_student,
    remove_lora,
    student_adapter,
    student_parameters,
    with_lora,
)
from gepa_loop.model.packed import pack
from gepa_loop.model.split import by_device, is_split
from gepa_loop.run.files import read_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.checkpoint import load_checkpoint
from gepa_loop.training.trainer import Pupil, distill, train

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

PROMPT = Candidate("Answer with one number.")
SAME = 2e-4
"""Relative, in float32: kernels of fused layers and of modules cut their sums otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with six layers, as a folder: transformers reads it straight to where it belongs."""
    place = tmp_path_factory.mktemp("model")
    tiny, tokenizer = random_tiny(torch.float32)
    torch.manual_seed(0)
    config = tiny.config
    config.num_hidden_layers = 6
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def config_of(folder: Path, *sets: str) -> Config:
    own = (f"model.name={folder}", "model.device=cuda:0", "distill.steps=4", "distill.check_every=2")
    return load_config("smoke", (*own, *sets), env={})


def distilled(lab: Lab, folder: Path) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Rows of metrics.jsonl, and the adapter as one tensor."""
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    found = distill(lab.for_training(), PROMPT, folder, stack=None, before=before, progress=lambda row: None)
    return read_jsonl(folder / "metrics.jsonl"), torch.cat(
        [t.flatten() for t in found.adapter.tensors.values()]
    )


def assert_same(one: Any, other: Any) -> None:
    for mine, theirs in zip(one[0], other[0], strict=True):
        for name in ("loss", "grad_norm", "reverse_kl", "entropy"):
            assert mine[name] == pytest.approx(theirs[name], rel=SAME, abs=1e-6), name
        assert mine["completion_tokens_mean"] == theirs["completion_tokens_mean"]
    assert float((one[1] - other[1]).norm()) <= 1e-3 * float(other[1].norm())


def greedy(lab: Lab) -> list[tuple[int, ...]]:
    prompts = [[9, 8, 7, 6], [9, 8, 7, 5, 4, 3], [20, 21]]
    return [c.token_ids for c in lab.rollouts.sampler.generate(prompts, Sampling(0.0, 24), [1, 2, 3], None)]


@pytest.fixture(scope="module")
def single(folder: Path) -> Lab:
    assert torch.cuda.current_device() == 0
    return open_lab(config_of(folder, "sampling.engine=torch"))


@pytest.fixture(scope="module")
def split(folder: Path) -> Lab:
    return open_lab(config_of(folder, "model.device=split"))


def test_a_split_model_reads_as_one(single: Lab, split: Lab) -> None:
    assert is_split(split.base.model) and split.base.where == "cuda:0, cuda:1"
    assert split.engine.startswith("torch") and split.base.fingerprint == single.base.fingerprint
    assert {p.device.index for p in split.base.model.parameters()} == {0, 1}
    ids = torch.tensor([[5, 6, 7, 8]], device="cuda:0")
    own, whole = (lab.base.model(input_ids=ids).logits for lab in (split, single))
    assert own.device == whole.device
    torch.testing.assert_close(own, whole, rtol=1e-5, atol=1e-5)
    assert greedy(split) == greedy(single)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("teacher.kind=ema", "distill.average=0.2"),
        ("teacher.kind=live", "objective.type=token_kl"),
        ("distill.on_policy=0", 'lora.targets=["q_proj", "down_proj"]'),
    ],
    ids=str,
)
def test_a_split_model_learns_as_one(single: Lab, split: Lab, tmp_path: Path, sets: tuple[str, ...]) -> None:
    labs = [lab.under(changed(lab, sets)) for lab in (split, single)]
    one, other = (distilled(lab, tmp_path / str(n)) for n, lab in enumerate(labs))
    assert_same(one, other)


def changed(lab: Lab, sets: tuple[str, ...]) -> Config:
    mine = (f"model.device={lab.config.model.device}", f"sampling.engine={lab.config.sampling.engine}")
    return config_of(Path(lab.config.model.name), *mine, *sets)


def test_what_is_computed_again_for_the_backward_pass_lies_on_each_gpu(single: Lab, split: Lab) -> None:
    found = []
    for lab in (split, single):
        model = with_lora(lab.base, lab.config.lora, 0, None)
        load_student(model, nonzero(student_adapter(model)))
        packed = pack([[9, 8, 7], [5]], [[(1, 2, 3), (4,)], [(7, 7, 6)]], 0, lab.base.device)
        for states in (
            recomputed_states(lab.base.model, packed),
            hidden_states(lab.base.model, packed, Prefix()),
        ):
            assert states.device == lab.base.device
            model.zero_grad()
            states.sin().sum().backward()
            found.append(
                torch.cat(
                    [states.detach().flatten().cpu()]
                    + [p.grad.flatten().cpu() for p in student_parameters(model)]
                )
            )
        remove_lora(model)
    for one in found[:-1]:
        torch.testing.assert_close(one, found[-1], rtol=1e-4, atol=1e-5)


def nonzero(adapter: Adapter) -> Adapter:
    """An adapter that changes something: a fresh one's B is 0, and so is the gradient of its A."""
    generator = torch.Generator().manual_seed(0)
    tensors = {n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in adapter.tensors.items()}
    return replace(adapter, tensors=tensors)


def test_students_share_the_steps_of_a_split_model(single: Lab, split: Lab, tmp_path: Path) -> None:
    adapters = []
    for name, lab in (("split", split), ("single", single)):
        pupils = [
            Pupil(Candidate(text), tmp_path / name / text, lambda row: None)
            for text in ("Count.", "Say a word.")
        ]
        before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
        reached = train(lab.for_training(), pupils, stack=None, before=before)
        adapters.append([torch.cat([t.flatten() for t in one.adapter.tensors.values()]) for one in reached])
    for mine, theirs in zip(*adapters, strict=True):
        assert float((mine - theirs).norm()) <= 1e-3 * float(theirs.norm())
    assert not torch.equal(*adapters[0])


def test_a_distillation_goes_on_in_one_piece(single: Lab, split: Lab, tmp_path: Path) -> None:
    """As a model that was split otherwise, after a restart with other free memory, would."""
    before = dict.fromkeys((item.id for item in split.task.splits["pareto"]), 0.0)
    pupil = Pupil(PROMPT, tmp_path / "a", lambda row: None)
    train(split.for_training(), [pupil], stack=None, before=before, until=2)
    half = load_checkpoint(pupil.checkpoints)
    assert half is not None and half.step == 2
    assert set(half.moments) == {"0.exp_avg", "0.exp_avg_sq", "0.step"}
    train(single.for_training(), [pupil], stack=None, before=before)
    whole = Pupil(PROMPT, tmp_path / "b", lambda row: None)
    train(single.for_training(), [whole], stack=None, before=before)
    ends = [load_checkpoint(one.checkpoints) for one in (pupil, whole)]
    one, other = (torch.cat([t.flatten() for t in end.adapter.tensors.values()]) for end in ends if end)
    assert float((one - other).norm()) <= 1e-3 * float(other.norm())


@pytest.mark.parametrize("engine", ["torch", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_on_the_second_gpu(folder: Path, tmp_path: Path, engine: str, dtype: str) -> None:
    """While the first is the current one: kernels, graphs and streams all have to be told."""
    sets = f"sampling.engine={engine}", f"model.dtype={dtype}", "distill.steps=8", "sampling.temperature=0.7"
    labs = [open_lab(config_of(folder, f"model.device=cuda:{n}", *sets)) for n in (1, 0)]
    assert greedy(labs[0]) == greedy(labs[1])
    one, other = (distilled(lab, tmp_path / str(n)) for n, lab in enumerate(labs))
    assert_same(one, other)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("share", ["1", "0.5"])
@pytest.mark.parametrize("place", ["cuda:1", "split"])
def test_a_teacher_on_the_second_gpu_and_a_split_one(
    single: Lab, folder: Path, tmp_path: Path, place: str, share: str
) -> None:
    sets = (
        "teacher.kind=model",
        f"teacher.name={folder}",
        "teacher.dtype=float32",
        f"distill.on_policy={share}",
        "distill.steps=8",
        "sampling.engine=torch",
    )
    labs = [single.under(config_of(folder, *sets, f"teacher.device={one}")) for one in (place, "cuda:0")]
    assert labs[0].teacher is not None and labs[0].teacher.device.index == (1 if place == "cuda:1" else 0)
    one, other = (distilled(lab, tmp_path / str(n)) for n, lab in enumerate(labs))
    assert_same(one, other)


def test_a_teachers_output_layer_is_copied_once(single: Lab, folder: Path) -> None:
    from gepa_loop.training.batch import Group
    from gepa_loop.training.teacher.local import LocalTeacher

    sets = "teacher.kind=model", f"teacher.name={folder}", "teacher.device=cuda:1", "sampling.engine=torch"
    lab = single.under(config_of(folder, *sets))
    assert lab.teacher is not None
    teacher = LocalTeacher(lab.teacher, None, (), {"x": (9, 8, 7)}, 0)
    heads = [teacher.read([Group((9,), (9, 8, 7), ((1, 2),))], lab.base.device).head_VH for _ in range(2)]
    assert heads[0] is heads[1] and heads[0].device == lab.base.device
    assert len(by_device([heads[0], lab.teacher.model.get_output_embeddings().weight])) == 2

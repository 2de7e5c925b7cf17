"""Families beside transformers + PEFT: greedy replies, log-probabilities, and the LoRA gradients of one step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from families import EXPERTS, MIXED, write_model
from places import ROOT
from torch import Tensor
from transformers import AutoModelForCausalLM

from gepa_loop.config.tables import LoraConfig, ModelConfig
from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.graphs import distance
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.lora.training import as_teacher, student_adapter, with_lora
from gepa_loop.model.packed import pack
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.sampling.selfcheck import check_reading
from gepa_loop.training.batch import Group, completion_tokens
from gepa_loop.training.head.chunked import Dense, Divergence, Wanted, token_stats

SHARED = [9, 80, 7, 60, 5, 40, 33, 21]
RESTS = [[11, 120, 13], [14], [15, 160], [17, 18, 19, 200, 21]]
"""What prompts begin with and how they go on: together longer than every window below."""

MLA = {
    "head_dim": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "deepseek_v3": {**MLA, **EXPERTS},
    "ernie4_5": {},
    "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2},
    "flex_olmo": EXPERTS,
    "gemma": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "gpt_neox": {"rotary_pct": 0.5},
    "granitemoe": EXPERTS,
    "granitemoeshared": {**EXPERTS, "shared_intermediate_size": 24},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": EXPERTS,
    "hyperclovax": {},
    "internlm3": {},
    "llama": {},
    "minimax_m2": EXPERTS,
    "ministral3": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmoe": EXPERTS,
    "opt": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": EXPERTS,
    "seed_oss": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {},
}
"""Families without a window that work: `model_type` -> what its tiny config needs."""

WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "mixtral": {"sliding_window": 4, **EXPERTS},
    "phi3": {"sliding_window": 4},
    "starcoder2": {"sliding_window": 4},
    "qwen2": {"sliding_window": 4, "use_sliding_window": True, "layer_types": MIXED},
    "qwen3": {"sliding_window": 4, "use_sliding_window": True, "layer_types": MIXED},
    "gemma4_text": {"sliding_window": 4, "layer_types": MIXED},
    "gemma3_text": {"sliding_window": 4, "layer_types": MIXED},
    "olmo3": {"sliding_window": 4, "layer_types": MIXED},
    "afmoe": {"sliding_window": 4, "layer_types": MIXED, **EXPERTS},
    "cwm": {"sliding_window": 4, "layer_types": MIXED},
    "exaone4": {"sliding_window": 4, "layer_types": MIXED},
    "exaone_moe": {"sliding_window": 4, "layer_types": MIXED, **EXPERTS, "first_k_dense_replace": 1},
    "phimoe": {"sliding_window": 4, **EXPERTS},
    "ministral": {"sliding_window": 4, "layer_types": MIXED},
}
"""Families whose layers have, or can have, a sliding window."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({}, "attention is not plain"),
    "cohere": ({"logit_scale": 0.0625}, "logits are not"),
    "falcon": ({"without": "head_dim"}, "no linear layers"),
    "falcon_h1": ({}, "layers of kind hybrid"),
    "gemma2": ({}, "Gemma2ForCausalLM cannot be used: its attention is not plain"),
    "gpt2": ({}, "no linear layers"),
    "gpt_oss": (EXPERTS, "attention is not plain"),
    "granite": ({"logits_scaling": 8.0}, "logits are not"),
    "jamba": ({}, "layers of kind linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
    "llama4_text": (EXPERTS, "layers of kind chunked_attention"),
    "phi": ({}, "logits are not"),
    "qwen3_next": ({}, "layers of kind linear_attention"),
}
"""Families that are refused: what the tiny config needs, and what is said."""


class Peer:
    """A model and an adapter as transformers and PEFT load them, with eager attention; one plain forward for each text."""

    def __init__(self, model: Path, adapter: Path) -> None:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
        self.model = peft.PeftModel.from_pretrained(loaded, str(adapter), is_trainable=True).eval()

    def log_p(self, prompt: list[int], completion: tuple[int, ...]) -> Tensor:
        """Of each token of the vocabulary at each of the completion's, [T, V]."""
        ids = torch.tensor([[*prompt, *completion]])
        log_p: Tensor = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return log_p

    def gradients(self, groups: list[Group], shared: list[int]) -> dict[str, Tensor]:
        """Of the sum of KL(student || teacher), the teacher without the adapter and with the shared tokens."""
        for group in groups:
            for completion in group.completions:
                with torch.no_grad(), self.model.disable_adapter():
                    teacher = self.log_p([*shared, *group.teacher_prompt], completion)
                student = self.log_p(list(group.student_prompt), completion)
                (student.exp() * (student - teacher)).sum().backward()  # type: ignore[no-untyped-call]
        return grads(self.model)


def grads(model: Any) -> dict[str, Tensor]:
    named = {re.sub(r"\.(default|student)\b", "", n): p.grad for n, p in model.named_parameters()}
    return {name: grad for name, grad in named.items() if grad is not None}


def adapted(base: Base, folder: Path) -> Any:
    """The model with a student that changes it, which is also written to the folder."""
    model = with_lora(base, LoraConfig(rank=4, alpha=8.0), 0, None)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 8)
    write_adapter(folder, student_adapter(model), base.origin)
    return model


def replies(base: Base, model: Any, prompts: list[list[int]]) -> list[Completion]:
    sampler = TorchSampler(base, 8, share_from=0)
    return sampler.generate(prompts, Sampling(0.0, 8), range(len(prompts)), student_adapter(model))


def step(base: Base, model: Any, groups: list[Group], shared: list[int]) -> dict[str, Tensor]:
    """LoRA gradients of the packed training pass for the same loss as `Peer.gradients`."""
    head = base.model.get_output_embeddings().weight
    completions = [group.completions for group in groups]
    with torch.no_grad(), as_teacher(model):
        prefix = read_prefix(base.model, shared)
        packed = pack([g.teacher_prompt for g in groups], completions, prefix.length, base.device)
        teacher = Dense(hidden_states(base.model, packed, prefix), head)
    packed = pack([g.student_prompt for g in groups], completions, 0, base.device)
    student = hidden_states(base.model, packed, Prefix())
    stats = token_stats(student, head, completion_tokens(groups, base.device), teacher, Wanted(Divergence()))
    stats.divergence_N.sum().backward()  # type: ignore[no-untyped-call]
    return grads(model)


def compare(kind: str, tmp_path: Path, **more: Any) -> None:
    """All of the program's readings of a model beside transformers and PEFT."""
    folder = write_model(kind, tmp_path / "model", **more)
    base = load_base(ModelConfig(name=str(folder), dtype="float32", device="cpu"))
    check_reading(base)
    model = adapted(base, tmp_path / "adapter")
    peer = Peer(folder, tmp_path / "adapter")
    # All from one network that has nothing shared with the model under training.
    prompts = [[*SHARED, *rest] for rest in RESTS]
    found = replies(load_base(ModelConfig(name=str(folder), dtype="float32", device="cpu")), model, prompts)
    for prompt, completion in zip(prompts, found, strict=True):
        with torch.no_grad():
            log_p_TV = peer.log_p(prompt, completion.token_ids)
        assert completion.token_ids == tuple(log_p_TV.argmax(-1).tolist())
        torch.testing.assert_close(torch.tensor(completion.logprobs), log_p_TV.amax(-1), atol=1e-4, rtol=1e-4)
    groups = [
        Group((9, 8, 7), (9, 8, 7), ((1, 2, 3, 250), (4,), (5, 6, 77, 8, 9, 3))),
        Group((9, 8, 7, 6, 5, 4), (9, 8, 7, 6, 5, 4), ((7, 7), (3, 2, 1, 4))),
    ]
    ours, theirs = step(base, model, groups, SHARED), peer.gradients(groups, SHARED)
    assert len(ours) == sum(p.requires_grad for p in model.parameters()) and ours.keys() == theirs.keys()
    pairs = [(ours[name], theirs[name]) for name in sorted(ours)]
    assert all(bool(grad.any()) for _, grad in pairs)
    one, other = zip(*pairs, strict=True)
    assert distance([torch.zeros(1), *one], [torch.zeros(1), *other]) < 1e-4


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_kept_in_sampling_and_training(kind: str, tmp_path: Path) -> None:
    compare(kind, tmp_path, **WINDOWS[kind])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_reads_samples_and_trains_as_transformers_and_peft_do(kind: str, tmp_path: Path) -> None:
    compare(kind, tmp_path, **FAMILIES[kind])


@pytest.mark.parametrize("kind", REFUSED)
def test_other_families_are_refused_when_they_are_loaded(kind: str, tmp_path: Path) -> None:
    more, message = REFUSED[kind]
    folder = write_model(kind, tmp_path, **more)
    with pytest.raises(ModelError, match=message) as caught:
        check_reading(load_base(ModelConfig(name=str(folder), dtype="float32", device="cpu")))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_the_page_of_models_lists_the_families_that_were_compared() -> None:
    text = (ROOT / "docs" / "reference" / "models.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| full attention", "| sliding windows"))]
    listed = [sorted(re.findall(r"`(\w+)`", row)) for row in rows]
    assert listed == [sorted(FAMILIES), sorted(WINDOWS)]

"""The benchmark's cases: shapes, sizes and inputs, which ours and the peers read alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch

from gepa_loop.model.attention import use_grouped_attention
from gepa_loop.model.base import Base, calm_host, resolve_dtype
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.graphs import LAUNCHED
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Renderer

LORA = {
    "rank": 16,
    "alpha": 32,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
LR = 1e-4


@dataclass(frozen=True)
class Case:
    """One step of on-policy context distillation: sizes in tokens and rows."""

    name: str
    shape: str
    rollouts: int
    group: int
    prompt: int
    """Tokens of the student's prompt."""
    context: int
    """Tokens that only the teacher sees."""
    new: int
    """Tokens of each completion; none stops earlier."""
    dtype: str
    device: str
    rank: int = LORA["rank"]  # type: ignore[assignment]

    def warmup(self, asked: int | None) -> int:
        """Steps before the timed ones: on a GPU until their shapes are captured."""
        usual = 2 if self.device == "cpu" else LAUNCHED + 2
        return usual if asked is None else asked

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


CPU_TYPE = str(resolve_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
"""What the program takes on this processor, for ours and the peers alike."""

CASES = {
    case.name: case
    for case in (
        Case("A", "llama-135m", 64, 4, 128, 1024, 64, "bfloat16", "cuda"),
        Case("B", "qwen3-4b", 16, 4, 256, 1024, 128, "bfloat16", "cuda"),
        Case("C", "qwen3-4b", 32, 4, 256, 1024, 2048, "bfloat16", "cuda"),
        Case("D", "llama-135m", 16, 4, 48, 256, 24, CPU_TYPE, "cpu"),
        Case("F", "llama-135m", 16, 4, 128, 1024, 64, "bfloat16", "cuda"),
        Case("F-half", "qwen2-half", 32, 4, 128, 1024, 64, "bfloat16", "cuda"),
        Case("F-cpu", "llama-135m", 16, 4, 48, 256, 24, CPU_TYPE, "cpu"),
        Case("tiny", "tiny", 8, 4, 48, 64, 8, "float32", "cpu"),
    )
}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "llama",
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512},
    ),
    "llama-135m": (
        "llama",
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
    ),
    "qwen2-half": (
        "qwen2",
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936},
    ),
    "qwen3-4b": (
        "qwen3",
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151936},
    ),
}
HEADS = {"tiny": (4, 2, 16), "llama-135m": (9, 3, 64), "qwen2-half": (14, 2, 64), "qwen3-4b": (32, 8, 128)}
"""Query heads, key heads, width."""


def make_config(case: Case) -> Any:
    """The configuration of the case's model."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[case.shape]
    heads, kv_heads, width = HEADS[case.shape]
    return AutoConfig.for_model(
        kind,
        **sizes,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )


def make_model(case: Case) -> Any:
    """The case's model with random weights; the same on every call on one device."""
    from transformers import AutoModelForCausalLM

    config = make_config(case)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(case.torch_dtype)
    try:
        with torch.device(case.device):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(case.device)  # its frequencies stay float32
    return model.eval()


def make_tokenizer() -> Any:
    """One token a byte, and a chat template."""
    tokenizer = random_tiny(torch.float32)[1]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "left"
    return tokenizer


def make_base(case: Case) -> Base:
    """The model as the program holds one; no token stops a completion."""
    model = make_model(case).requires_grad_(False)
    use_grouped_attention(model)
    calm_host(model.device)
    never = model.config.vocab_size
    return Base(case.shape, model, make_tokenizer(), (never,), 32768, case.shape)


def make_texts(case: Case) -> tuple[str, list[str]]:
    """The teacher's system turn, and the questions of one step; in tokens they are as long as the case says."""
    renderer = Renderer(make_tokenizer(), 32768)

    def letters(count: int, seed: int) -> str:
        return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=count))

    def item(text: str) -> Item:
        return Item("x", (("user", text),), "", {})

    plain = len(renderer.tokens("", item("q")))
    questions = [letters(case.prompt - plain + 1, n + 1) for n in range(case.rollouts // case.group)]
    turn = len(renderer.tokens("c", item("q"))) - plain
    return letters(case.context - turn + 1, 0), questions


def fixed_completion(case: Case, vocabulary: int, prompt: list[int], sample: int) -> list[int]:
    """Tokens for the comparison of losses: a function of the prompt and the number of the sample."""
    source = random.Random(f"{prompt} {sample}")
    return [source.randrange(3, vocabulary) for _ in range(case.new)]

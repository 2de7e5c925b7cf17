"""How llama.cpp lays out a model: names, the order of rotary halves, angles, and how a tokenizer splits texts.

As its `convert_hf_to_gguf.py` has it (November 2026). For families and tokenizers that are not known here that program takes what `export --merged` wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' `model_type` -> llama.cpp's architecture."""

PERMUTED = "llama"
"""The architecture whose q and k have their rotary halves interleaved."""

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {SPLIT % r"\p{N}": "qwen2", SPLIT % r"\p{N}{1,3}": "llama-bpe"}
"""Patterns by which a byte-level tokenizer splits texts -> llama.cpp's name for it."""


@dataclass(frozen=True)
class Shape:
    """What of a model's config its layout depends on."""

    arch: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


def shape_of(config: PretrainedConfig) -> Shape:
    """The layout of a model.

    Raises:
        ConfigError: Its family is not known here.
    """
    arch = FAMILIES.get(config.model_type)
    if arch is None:
        raise ConfigError(
            f"--gguf: the layout of {config.model_type} models is not known here, only of {', '.join(FAMILIES)}",
            "Export with --merged, and convert that with llama.cpp's convert_hf_to_gguf.py.",
        )
    heads = int(config.num_attention_heads)
    return Shape(
        arch,
        int(config.num_hidden_layers),
        heads,
        int(getattr(config, "num_key_value_heads", None) or heads),
        int(getattr(config, "head_dim", None) or config.hidden_size // heads),
    )


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of how a tokenizer splits texts before it looks for merges.

    Raises:
        ConfigError: It is none that is known here.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    steps = (whole.get("pre_tokenizer") or {}).get("pretokenizers") or []
    bpe = whole.get("model", {}).get("type") == "BPE" and not whole["model"].get("byte_fallback")
    kinds = [step["type"] for step in steps]
    if bpe and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if bpe and kinds == ["Split", "ByteLevel"] and (found := PRE.get(steps[0]["pattern"].get("Regex", ""))):
        return found
    raise ConfigError(
        "--gguf: how the model's tokenizer splits texts is not known here",
        "Export with --merged, and convert that with llama.cpp's convert_hf_to_gguf.py. --gguf lora needs no tokenizer.",
    )


def tensor_names(shape: Shape) -> Any:
    """The `gguf` package's map from transformers' names of tensors to llama.cpp's."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.arch)
    return gguf.get_tensor_name_map(arch, shape.layers)


def llama_order(module: str, tensor: Tensor, shape: Shape) -> Tensor:
    """The rows of q and k in llama.cpp's order: transformers has the first halves of all pairs before the second ones."""
    last = module.rpartition(".")[2]
    if shape.arch != PERMUTED or last not in ("q_proj", "k_proj"):
        return tensor
    heads = shape.heads if last == "q_proj" else shape.kv_heads
    return (
        tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        .swapaxes(1, 2)
        .reshape(tensor.shape)
    )


def transformers_order(module: str, tensor: Tensor, shape: Shape) -> Tensor:
    """`llama_order` taken back."""
    last = module.rpartition(".")[2]
    if shape.arch != PERMUTED or last not in ("q_proj", "k_proj"):
        return tensor
    heads = shape.heads if last == "q_proj" else shape.kv_heads
    return (
        tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
        .swapaxes(1, 2)
        .reshape(tensor.shape)
    )


def rope_of(config: PretrainedConfig) -> Mapping[str, Any]:
    """The rotary settings of a config, with those that it leaves out."""
    found = dict(getattr(config, "rope_parameters", None) or {})
    return {"rope_type": "default", "rope_theta": getattr(config, "rope_theta", 10_000.0), **found}


def rope_factors(config: PretrainedConfig, shape: Shape) -> Any:
    """By what rotary frequencies are divided, [head_dim / 2] float32; None where they are plain."""
    import numpy as np

    rope = rope_of(config)
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "llama3":
        raise ConfigError(
            f"--gguf: rotary angles of type {rope['rope_type']!r} are not written here",
            "Export with --merged, and convert that with llama.cpp's convert_hf_to_gguf.py.",
        )
    # Llama 3: long waves are stretched by `factor`, short ones stay, those between are in between.
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    turns = rope["original_max_position_embeddings"] / waves
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = (turns - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(turns > high, 1.0, np.where(turns < low, factor, between)).astype(np.float32)

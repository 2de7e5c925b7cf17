"""Adapters in PEFT's format: read with care, written with their base."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gepa_loop.errors import ModelError
from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter, module_of
from gepa_loop.model.origin import Origin, read_origin, write_origin
from gepa_loop.outside.files import SETTINGS, parse_json, read_file
from gepa_loop.run.files import disk_errors, write_bytes, write_text

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS_FILE, _CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"

T = TypeVar("T")

_PLAIN = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
}
"""Keys of a PEFT configuration that leave the tensors their plain meaning. Any other that is set may give them another one, as
may those that PEFT will have."""
_NARROWING = {"exclude_modules", "layers_pattern", "layers_to_transform"}
"""Keys that say which layers are changed, as the names of the tensors do; PEFT leaves out tensors that they do not name."""
_SCALING = {"alpha_pattern", "rank_pattern", "use_rslora"}
"""Keys by which layers have ranks and scales of their own."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them."""


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter that `write_adapter` or PEFT wrote.

    Raises:
        ModelError: A file is missing or damaged, it is no plain LoRA, or tensors do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    hint = "Name a folder with a plain LoRA adapter in PEFT's format."
    try:
        config = parse_json(read_file(folder / _CONFIG_FILE, SETTINGS))
        tensors = load_file(folder / _WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no adapter can be read there: {error}", hint) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise ModelError(f"{folder / _CONFIG_FILE}: peft_type is {found!r}, not 'LORA'", hint)
    used = [key for key in config if key not in _PLAIN | _NARROWING | _SCALING and config[key]]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS:
        used.append(f"init_lora_weights = {start!r}, which changes the base's weights,")
    if used:
        raise ModelError(f"{folder / _CONFIG_FILE}: {', '.join(used)} cannot be used here", hint)
    rank, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if not (
        isinstance(rank, int)
        and rank > 0
        and isinstance(alpha, int | float)
        and 0 < alpha < math.inf
        and (isinstance(targets, str) or (isinstance(targets, list) and all(map(_is_text, targets))))
    ):
        raise ModelError(
            f"{folder / _CONFIG_FILE}: r = {rank!r}, lora_alpha = {alpha!r}, target_modules = {targets!r}; "
            "they must be a positive integer, a positive number, and a list or a pattern",
            hint,
        )
    if not tensors:
        raise ModelError(f"{folder / _WEIGHTS_FILE}: there are no tensors in it", hint)
    for key in ("rank_pattern", "alpha_pattern"):
        if not _is_pattern(config.get(key) or {}):
            raise ModelError(
                f"{folder / _CONFIG_FILE}: {key} = {config[key]!r}; it must give positive numbers to patterns of names",
                hint,
            )
    own = _Scaling(rank, alpha, config.get("rank_pattern") or {}, config.get("alpha_pattern") or {})
    for name, tensor in tensors.items():
        _check_tensor(folder / _WEIGHTS_FILE, name, tensor, tensors, own.rank_of(module_of(name)))
    _check_targets(folder / _CONFIG_FILE, config, tensors)
    named = {name: tensor.float() for name, tensor in sorted(tensors.items())}
    narrowed = isinstance(targets, str) or any(config.get(key) for key in _NARROWING)
    adapter = Adapter(rank, float(alpha), tuple(sorted(targets)), named, read_origin(folder))
    if narrowed:
        adapter = replace(adapter, targets=adapter.modules)
    return own.folded(adapter, bool(config.get("use_rslora"))) if any(map(config.get, _SCALING)) else adapter


@dataclass(frozen=True)
class _Scaling:
    """Ranks and alphas of an adapter's layers, as PEFT finds them."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    """By patterns of names; a layer that none fits has `rank`."""
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        return self._own(module, self.ranks, self.rank)

    def folded(self, adapter: Adapter, by_root: bool) -> Adapter:
        """The same weight change with one rank for all layers, filled up with zeros; each B carries its own scale.

        The scale is alpha / sqrt(rank) if `by_root`, as rsLoRA has it, and else alpha / rank.
        """
        from torch.nn.functional import pad

        most = max(map(self.rank_of, adapter.modules))
        tensors = {}
        for module in adapter.modules:
            (a, b), rank = adapter.pair(module), self.rank_of(module)
            scale = self._own(module, self.alphas, self.alpha) / (math.sqrt(rank) if by_root else rank)
            tensors[f"{PREFIX}{module}{LORA_A}"] = pad(a, (0, 0, 0, most - rank))
            tensors[f"{PREFIX}{module}{LORA_B}"] = pad(b * scale, (0, most - rank))
        return replace(adapter, rank=most, alpha=float(most), tensors=tensors)

    def _own(self, module: str, patterns: Mapping[str, T], other: T) -> T:
        if not patterns:
            return other
        from peft.utils.other import get_pattern_key

        return patterns.get(get_pattern_key(patterns.keys(), module), other)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_pattern(value: object) -> bool:
    """Whether it is patterns of names, with a positive number each."""
    try:
        return isinstance(value, dict) and all(re.compile(k) and 0 < v < math.inf for k, v in value.items())
    except (TypeError, re.error):
        return False


def _check_tensor(file: Path, name: str, tensor: Tensor, tensors: Mapping[str, Tensor], rank: int) -> None:
    side, other = (LORA_A, LORA_B) if name.endswith(LORA_A) else (LORA_B, LORA_A)
    partner = name.removesuffix(side) + other
    if not (name.startswith(PREFIX) and name.endswith(side)) or partner not in tensors:
        raise ModelError(f"{file}: {name} is not one of a pair of LoRA tensors")
    axis = 0 if side == LORA_A else 1
    if tensor.ndim != 2 or tensor.shape[axis] != rank or not tensor.is_floating_point():
        raise ModelError(f"{file}: {name} is {tensor.dtype} {tuple(tensor.shape)}; the rank is {rank}")
    if not tensor.isfinite().all():
        raise ModelError(f"{file}: {name} holds a number that is not finite", "The adapter is damaged.")


def _check_targets(file: Path, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse tensors of layers that the configuration leaves alone: PEFT would read them and compute without."""
    if config["target_modules"] == "all-linear":
        return
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    keys = ("target_modules", *sorted(_NARROWING))
    try:
        targets = LoraConfig(**{key: config.get(key) for key in keys})
        odd = [name for name in sorted(names) if not check_target_module_exists(targets, module_of(name))]
    except (TypeError, ValueError, re.error) as error:
        odd, why = [""], f": {error}"
    else:
        why = (
            f" leave {module_of(odd[0])} alone, and the weights beside it have tensors for that"
            if odd
            else ""
        )
    if odd:
        said = ", ".join(f"{key} = {config[key]!r}" for key in keys if config.get(key))
        raise ModelError(f"{file}: {said}{why}", "Use the configuration that was saved with these weights.")


def write_adapter(folder: Path, adapter: Adapter, base: Origin) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained` and `read_adapter` load.

    The folder is complete exactly when its adapter_config.json exists.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """
    from safetensors.torch import save

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapter.targets),
        "bias": "none",
    }
    # First of all, or a process killed in between leaves new weights beside an old configuration.
    with disk_errors(folder):
        (folder / _CONFIG_FILE).unlink(missing_ok=True)
    write_bytes(folder / _WEIGHTS_FILE, save(dict(adapter.tensors), {"format": "pt"}))
    write_origin(folder, base)
    write_text(folder / _CONFIG_FILE, json.dumps(config, indent=2) + "\n")

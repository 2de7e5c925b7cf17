"""LoRA adapters: as values, on disk in PEFT's format, and in training.

A base model's weights are never written to. In training the student is the PEFT adapter "student", beside
the frozen PEFT adapter "stack" of the earlier rounds and, for some teachers, an adapter "teacher".
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.runs import disk_errors, write_bytes, write_text
from gepa_loop.schema import LoraConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from gepa_loop.models import Base

STUDENT, STACK, TEACHER = "student", "stack", "teacher"
"""Names of the adapters in a PEFT model; only a moving average or an adapter of its own needs the third."""

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_WEIGHTS_FILE, _CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_UNSUPPORTED = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "fan_in_fan_out",
    "target_parameters",
    "trainable_token_indices",
    "exclude_modules",
)
"""Keys of a PEFT configuration that give the tensors another meaning when they are set."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter as a value: for module m the weight change is (alpha / rank) * B @ A."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Last parts of the modules' names."""
    tensors: Mapping[str, Tensor]
    """Float32 on the CPU under PEFT's names: "base_model.model.<module>.lora_A.weight" [rank, in] and
    "base_model.model.<module>.lora_B.weight" [out, rank]."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the linear layers that are changed, as the base model calls them."""
        return tuple(n.removeprefix(_PREFIX).removesuffix(_A) for n in self.tensors if n.endswith(_A))

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the base weights that are changed."""
        return tuple(f"{module}.weight" for module in self.modules)

    def pair(self, module: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one module."""
        return self.tensors[f"{_PREFIX}{module}{_A}"], self.tensors[f"{_PREFIX}{module}{_B}"]

    @cached_property
    def fingerprint(self) -> str:
        """8 hex digits over rank, alpha, and the tensors' names, shapes and bytes."""
        digest = hashlib.sha256(f"{self.rank} {float(self.alpha)}".encode())
        hash_tensors(digest, sorted(self.tensors.items()))
        return digest.hexdigest()[:8]


def hash_tensors(digest: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Feed names, types, shapes and bytes into a hash, in place; a tensor with two names goes in once."""
    import torch

    seen = set()
    for name, tensor in tensors:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter that `write_adapter` or PEFT wrote.

    Raises:
        ModelError: A file is missing or damaged, it is no plain LoRA, or tensors do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    hint = "Name a folder with a plain LoRA adapter in PEFT's format."
    try:
        config = json.loads((folder / _CONFIG_FILE).read_text("utf-8"))
        tensors = load_file(folder / _WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no adapter can be read there: {error}", hint) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise ModelError(f"{folder / _CONFIG_FILE}: peft_type is {found!r}, not 'LORA'", hint)
    if used := [key for key in _UNSUPPORTED if config.get(key)] + (
        ["bias"] if config.get("bias", "none") != "none" else []
    ):
        raise ModelError(f"{folder / _CONFIG_FILE}: {', '.join(used)} cannot be used here", hint)
    rank, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if not (
        isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and isinstance(targets, list)
    ):
        raise ModelError(
            f"{folder / _CONFIG_FILE}: r = {rank!r}, lora_alpha = {alpha!r}, target_modules = {targets!r}; "
            "they must be a positive integer, a number and a list",
            hint,
        )
    for name, tensor in tensors.items():
        _check_tensor(folder / _WEIGHTS_FILE, name, tensor, tensors, rank)
    return Adapter(
        rank, float(alpha), tuple(sorted(targets)), {n: t.float() for n, t in sorted(tensors.items())}
    )


def _check_tensor(file: Path, name: str, tensor: Tensor, tensors: Mapping[str, Tensor], rank: int) -> None:
    side, other = (_A, _B) if name.endswith(_A) else (_B, _A)
    partner = name.removesuffix(side) + other
    if not (name.startswith(_PREFIX) and name.endswith(side)) or partner not in tensors:
        raise ModelError(f"{file}: {name} is not one of a pair of LoRA tensors")
    axis = 0 if side == _A else 1
    if tensor.ndim != 2 or tensor.shape[axis] != rank or not tensor.is_floating_point():
        raise ModelError(f"{file}: {name} is {tensor.dtype} {tuple(tensor.shape)}; the rank is {rank}")


def write_adapter(folder: Path, adapter: Adapter, base_name: str) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained` and `read_adapter` load.

    The folder is complete exactly when its adapter_config.json exists.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """
    from safetensors.torch import save

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapter.targets),
        "bias": "none",
    }
    with disk_errors(folder):
        (folder / _CONFIG_FILE).unlink(missing_ok=True)
    write_bytes(folder / _WEIGHTS_FILE, save(dict(adapter.tensors), {"format": "pt"}))
    write_text(folder / _CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def stack_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter whose weight change is the sum of the others', by concatenating their ranks.

    Its alpha equals its rank: each B carries its own scale. A module that an adapter leaves alone gets zeros.

    Raises:
        ValueError: There is no adapter.
    """
    import torch

    if not adapters:
        raise ValueError("there is no adapter to stack")
    rank = sum(adapter.rank for adapter in adapters)
    tensors = {}
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.modules):
        one, two = next(adapter.pair(module) for adapter in adapters if module in adapter.modules)
        parts_A, parts_B = [], []
        for adapter in adapters:
            if module in adapter.modules:
                a, b = adapter.pair(module)
            else:
                a, b = one.new_zeros(adapter.rank, one.shape[1]), two.new_zeros(two.shape[0], adapter.rank)
            parts_A.append(a)
            parts_B.append(b * adapter.scale)
        tensors[f"{_PREFIX}{module}{_A}"] = torch.cat(parts_A, 0)
        tensors[f"{_PREFIX}{module}{_B}"] = torch.cat(parts_B, 1)
    targets = sorted({target for adapter in adapters for target in adapter.targets})
    return Adapter(rank, float(rank), tuple(targets), tensors)


def merge(weights: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The changed weights: W + (alpha / rank) * B @ A, summed in float32, in W's own type; W stays as it is.

    Args:
        weights: The base model's weights by name; more than the adapter changes is fine.
        adapter: Its tensors are moved to where the weights lie.

    Raises:
        ModelError: A weight is missing or has another shape.
    """
    import torch

    merged = {}
    with torch.no_grad():
        for module in adapter.modules:
            name = f"{module}.weight"
            a, b = adapter.pair(module)
            shape = (b.shape[0], a.shape[1])
            if name not in weights or weights[name].shape != shape:
                found = tuple(weights[name].shape) if name in weights else "absent"
                raise ModelError(f"the adapter changes {name} {shape}, which is {found} in the base model")
            weight = weights[name]
            delta = b.to(weight.device) @ a.to(weight.device) * adapter.scale
            merged[name] = (weight.float() + delta).to(weight.dtype)
    return merged


# ---------------------------------------------------------------------------------- adapters in training


def with_lora(base: Base, lora: LoraConfig, seed: int, stack: Adapter | None) -> PeftModel:
    """Put a new student, whose B is zero, and the earlier rounds' stack on a base model.

    The base's modules are wrapped in place, not copied: `base.model` computes with the active adapters until
    `remove_lora`. Only the student is trainable; it is float32 and depends on the seed alone.

    Raises:
        ConfigError: A name in `lora.targets` is no linear layer.
        ModelError: The stack does not fit the base.
        ValueError: The base already has adapters.
    """
    import peft
    import torch

    if hasattr(base.model, "peft_config"):
        raise ValueError(f"{base.name} already has adapters; call remove_lora first")
    _check_targets(base, lora.targets, "lora.targets")
    if stack is not None:
        _check_targets(base, stack.targets, "the targets of the earlier rounds' adapter")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.default_generator.manual_seed(seed)
        model = peft.get_peft_model(base.model, _peft_config(lora.rank, lora.alpha, lora.targets), STUDENT)
        if stack is not None:
            model.add_adapter(STACK, _peft_config(stack.rank, stack.alpha, stack.targets))
            try:
                _put(model, STACK, stack)
            except ModelError:
                remove_lora(model)
                raise
    _activate(model, [STUDENT] if stack is None else [STACK, STUDENT])
    return model.eval()


def add_teacher(peft_model: PeftModel, adapter: Adapter) -> None:
    """Put one more frozen adapter on the model, in place, which computes only in `as_teacher`.

    Raises:
        ModelError: The adapter does not fit the base.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        peft_model.add_adapter(TEACHER, _peft_config(adapter.rank, adapter.alpha, adapter.targets))
    _put(peft_model, TEACHER, adapter)
    _activate(peft_model, [*_stack(peft_model), STUDENT])


def student_adapter(peft_model: PeftModel) -> Adapter:
    """A copy of the student's present weights."""
    return _value(peft_model, STUDENT)


def teacher_adapter(peft_model: PeftModel) -> Adapter:
    """A copy of the present weights of the adapter that `add_teacher` added."""
    return _value(peft_model, TEACHER)


def load_student(peft_model: PeftModel, adapter: Adapter) -> None:
    """Copy an adapter's values into the student, in place; an optimiser keeps its parameters.

    Raises:
        ModelError: The adapter has another alpha, other modules or other shapes.
    """
    _put(peft_model, STUDENT, adapter)


def load_teacher(peft_model: PeftModel, adapter: Adapter) -> None:
    """Copy an adapter's values into the teacher's, in place; raises as `load_student` does."""
    _put(peft_model, TEACHER, adapter)


def follow_student(peft_model: PeftModel, rate: float) -> None:
    """Move the teacher's adapter towards the student's, in place: rate * student + (1 - rate) * teacher, A and B each."""
    import torch

    student, teacher = _parameters(peft_model, STUDENT), _parameters(peft_model, TEACHER)
    with torch.no_grad():
        for name, parameter in teacher.items():
            parameter.lerp_(student[name], rate)


@contextmanager
def as_teacher(peft_model: PeftModel, names: Sequence[str] | None = None) -> Iterator[None]:
    """Within the block the model computes with these adapters only.

    By default without the student: the base, with the stack where there is one.
    """
    stack = _stack(peft_model)
    _activate(peft_model, stack if names is None else list(names))
    try:
        yield
    finally:
        _activate(peft_model, [*stack, STUDENT])


def _stack(peft_model: PeftModel) -> list[str]:
    return [STACK] if STACK in peft_model.peft_config else []


def _value(peft_model: PeftModel, name: str) -> Adapter:
    config = peft_model.peft_config[name]
    tensors = {
        key: parameter.detach().to("cpu", copy=True)
        for key, parameter in _parameters(peft_model, name).items()
    }
    return Adapter(config.r, float(config.lora_alpha), tuple(sorted(config.target_modules)), tensors)


def remove_lora(peft_model: PeftModel) -> None:
    """Take all adapters off the base model, in place; its weights are those it was loaded with."""
    peft_model.unload()


def _peft_config(rank: int, alpha: float, targets: Sequence[str]) -> Any:
    import peft

    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _check_targets(base: Base, targets: Sequence[str], source: str) -> None:
    from torch import nn

    # The output layer is read as a plain matrix by the objective, so an adapter there would train nothing.
    head = base.model.get_output_embeddings()
    linears = [n for n, m in base.model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    unknown = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in linears)]
    if unknown:
        names = ", ".join(dict.fromkeys(n.rpartition(".")[2] for n in linears))
        raise ConfigError(
            f"{source}: {', '.join(map(repr, unknown))} names no linear layer of {base.name} that can have an adapter",
            f"Its linear layers are {names}.",
        )


def _parameters(peft_model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """The live tensors of one adapter under their names on disk."""
    ends = {f".lora_A.{adapter}.weight": _A, f".lora_B.{adapter}.weight": _B}
    return {
        name.removesuffix(end) + on_disk: parameter
        for name, parameter in peft_model.named_parameters()
        for end, on_disk in ends.items()
        if name.endswith(end)
    }


def _put(peft_model: PeftModel, name: str, adapter: Adapter) -> None:
    import torch

    parameters = _parameters(peft_model, name)
    if peft_model.peft_config[name].lora_alpha != adapter.alpha:
        raise ModelError(
            f"adapter {name!r}: alpha is {adapter.alpha}, not {peft_model.peft_config[name].lora_alpha}"
        )
    if odd := sorted(parameters.keys() ^ adapter.tensors.keys()):
        raise ModelError(f"adapter {name!r} and the model differ in {len(odd)} tensors, {odd[0]} among them")
    for key, parameter in parameters.items():
        if parameter.shape != adapter.tensors[key].shape:
            found, needed = tuple(adapter.tensors[key].shape), tuple(parameter.shape)
            raise ModelError(f"adapter {name!r}: {key} is {found}, not {needed}")
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(adapter.tensors[key])


def _activate(peft_model: PeftModel, names: list[str]) -> None:
    """Compute with these adapters only, in place."""
    tuner = peft_model.base_model
    if names:
        tuner.enable_adapter_layers()
        tuner.set_adapter(names)
    else:
        tuner.disable_adapter_layers()
    # peft makes every active adapter trainable.
    for adapter in peft_model.peft_config:
        for parameter in _parameters(peft_model, adapter).values():
            parameter.requires_grad_(adapter == STUDENT and STUDENT in names)

"""LoRA adapters in training: PEFT's adapters on a base model whose weights are never written to.

The student is the PEFT adapter "student", beside the frozen PEFT adapter "stack" of the earlier rounds and, for some
teachers, an adapter "teacher". Students that are trained together are "student", "student_1", "student_2" and so on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gepa_loop.config.tables import LoraConfig
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.families import is_linear
from gepa_loop.model.lora.adapter import LORA_A, LORA_B, Adapter
from gepa_loop.model.split import copied

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from gepa_loop.model.base import Base
    from gepa_loop.model.lora.layer import Adapted

STUDENT, STACK, TEACHER = "student", "stack", "teacher"
"""Names of the adapters in a PEFT model; only a moving average or an adapter of its own needs the third."""


def student_name(number: int) -> str:
    """What the student of this number, from 0, is called in a PEFT model."""
    return f"{STUDENT}_{number}" if number else STUDENT


def with_lora(base: Base, lora: LoraConfig, seed: int, stack: Adapter | None, students: int = 1) -> PeftModel:
    """Put new students, whose B is zero, and the earlier rounds' stack on a base model.

    The base's modules are wrapped in place, not copied: `base.model` computes with the active adapters until
    `remove_lora`. Only students are trainable; they are float32, equal to each other, and depend on the seed alone. Of several
    each position computes with its own: `divide` says whose it is.

    Raises:
        ConfigError: A name in `lora.targets` is no linear layer.
        ModelError: The stack does not fit the base.
        ValueError: The base already has adapters.
    """
    import peft
    import torch

    if hasattr(base.model, "peft_config"):
        raise ValueError(f"{base.name} already has adapters; call remove_lora first")
    targets = block_layers(base) if lora.targets == "auto" else lora.targets
    _check_targets(base, targets, "lora.targets")
    if stack is not None:
        _check_targets(base, stack.targets, "the targets of the earlier rounds' adapter")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.default_generator.manual_seed(seed)
        model = peft.get_peft_model(base.model, _peft_config(lora.rank, lora.alpha, targets), STUDENT)
        if stack is not None:
            model.add_adapter(STACK, _peft_config(stack.rank, stack.alpha, stack.targets))
            _share(model)
            try:
                _put(model, STACK, stack)
            except ModelError:
                remove_lora(model)
                raise
        for number in range(1, students):
            model.add_adapter(student_name(number), _peft_config(lora.rank, lora.alpha, targets))
    _share(model)
    for number in range(1, students):
        load_student(model, student_adapter(model), number)
    _activate(model, _training(model))
    return model.eval()


def add_teacher(base: Base, peft_model: PeftModel, adapter: Adapter, source: str) -> None:
    """Put one more frozen adapter on the model, in place, which computes only in `as_teacher`.

    Raises:
        ConfigError: A target of the adapter is no linear layer of the base; the message names `source`.
        ModelError: The adapter does not fit the base otherwise.
    """
    _check_targets(base, adapter.targets, source)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        peft_model.add_adapter(TEACHER, _peft_config(adapter.rank, adapter.alpha, adapter.targets))
    _share(peft_model)
    _put(peft_model, TEACHER, adapter)
    _activate(peft_model, _training(peft_model))


def student_adapter(peft_model: PeftModel, device: str | torch.device = "cpu", number: int = 0) -> Adapter:
    """A copy of a student's present weights; on the model's own device it does not wait for the GPU."""
    return _value(peft_model, student_name(number), device)


def student_parameters(peft_model: PeftModel, number: int = 0) -> list[torch.nn.Parameter]:
    """A student's own parameters, always in the same order."""
    return list(_adapted(peft_model).parameters[student_name(number)].values())


def several_students(model: PreTrainedModel) -> bool:
    """Whether a model carries more than one student."""
    return student_name(1) in getattr(model, "peft_config", {})


def divide(model: PreTrainedModel, students_B: Tensor | None, length: int) -> None:
    """Say whose each of the rows is, of `length` positions, that the model reads from now on; None where it has one student."""
    from gepa_loop.model.lora.layer import LoraLinear

    if students_B is not None:
        layer = next(m for m in model.modules() if isinstance(m, LoraLinear))
        layer.shared.divide(students_B, length)


def teacher_adapter(peft_model: PeftModel) -> Adapter:
    """A copy of the present weights of the adapter that `add_teacher` added."""
    return _value(peft_model, TEACHER)


def load_student(peft_model: PeftModel, adapter: Adapter, number: int = 0) -> None:
    """Copy an adapter's values into a student, in place; an optimiser keeps its parameters.

    Raises:
        ModelError: The adapter has another alpha, other modules or other shapes.
    """
    _put(peft_model, student_name(number), adapter)


def load_teacher(peft_model: PeftModel, adapter: Adapter) -> None:
    """Copy an adapter's values into the teacher's, in place; raises as `load_student` does."""
    _put(peft_model, TEACHER, adapter)


def follow_student(peft_model: PeftModel, rate: float) -> None:
    """Move the teacher's adapter towards the student's, in place: rate * student + (1 - rate) * teacher, A and B each."""
    import torch

    student, teacher = _parameters(peft_model, STUDENT), _parameters(peft_model, TEACHER)
    with torch.no_grad():
        torch._foreach_lerp_(list(teacher.values()), [student[name] for name in teacher], rate)


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
        _activate(peft_model, _training(peft_model))


def _training(peft_model: PeftModel) -> list[str]:
    """What computes in training: the stack, then the students."""
    return [*_stack(peft_model), *(name for name in peft_model.peft_config if name.startswith(STUDENT))]


def _stack(peft_model: PeftModel) -> list[str]:
    return [STACK] if STACK in peft_model.peft_config else []


def _value(peft_model: PeftModel, name: str, device: str | torch.device = "cpu") -> Adapter:
    import torch

    config, parameters = peft_model.peft_config[name], _parameters(peft_model, name)
    with torch.no_grad():
        parts = copied(list(parameters.values()), device)
    tensors = dict(zip(parameters, parts, strict=True))
    return Adapter(config.r, float(config.lora_alpha), tuple(sorted(config.target_modules)), tensors)


def remove_lora(peft_model: PeftModel) -> None:
    """Take all adapters off the base model, in place; its weights are those it was loaded with."""
    peft_model.unload()


def _peft_config(rank: int, alpha: float, targets: Sequence[str]) -> Any:
    import peft
    from torch import nn

    from gepa_loop.model.lora.layer import LoraLinear

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({nn.Linear: LoraLinear})
    return config


def block_layers(base: Base) -> tuple[str, ...]:
    """Last parts of the names of all linear layers that can have an adapter: what `lora.targets = "auto"` means."""
    names = dict.fromkeys(name.rpartition(".")[2] for name in _linear_layers(base))
    return tuple(name for name in names if _stays(base, name))


def _linear_layers(base: Base) -> list[str]:
    # The output layer is read as a plain matrix by the objective, so an adapter there would train nothing.
    head = base.model.get_output_embeddings()
    # A layer that has adapters already is wrapped, and keeps the layer itself as `base_layer`.
    layers = [(n, m) for n, m in base.model.named_modules() if ".base_layer" not in n and ".lora_" not in n]
    return [n for n, m in layers if (is_linear(m) or hasattr(m, "base_layer")) and m is not head]


def _stays(base: Base, target: str) -> bool:
    """Whether PEFT takes a target for a linear layer; in mixtures of experts it takes some names for the experts' parameters."""
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = peft.LoraConfig(target_modules=[target])
    try:
        convert_peft_config_for_transformers(config, base.model, None)
    except ValueError:  # it is half of a fused parameter
        return False
    return target in config.target_modules


def _check_targets(base: Base, targets: Sequence[str], source: str) -> None:
    usable = block_layers(base)
    linears = [name for name in _linear_layers(base) if name.rpartition(".")[2] in usable]
    unknown = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in linears)]
    if unknown:
        names = ", ".join(dict.fromkeys(n.rpartition(".")[2] for n in linears))
        raise ConfigError(
            f"{source}: {', '.join(map(repr, unknown))} names no linear layer of {base.name} that can have an adapter",
            f"Its linear layers are {names}.",
        )


def _share(peft_model: PeftModel) -> None:
    """Give all LoRA layers one value that says which adapters compute, in place; only the student is trainable."""
    from gepa_loop.model.lora.layer import Adapted, LoraLinear

    layers = {name: m for name, m in peft_model.named_modules() if isinstance(m, LoraLinear)}
    parameters = {
        adapter: {
            name + on_disk: side[adapter].weight
            for name, layer in layers.items()
            for on_disk, side in ((LORA_A, layer.lora_A), (LORA_B, layer.lora_B))
            if adapter in side
        }
        for adapter in peft_model.peft_config
    }
    students = [name for name in parameters if name.startswith(STUDENT)]
    shared = Adapted(parameters, places={name: number for number, name in enumerate(students)})
    for layer in layers.values():
        layer.shared = shared
    for adapter, named in parameters.items():  # PEFT makes every adapter trainable that it adds
        for parameter in named.values():
            parameter.requires_grad_(adapter in students)


def _adapted(peft_model: PeftModel) -> Adapted:
    from gepa_loop.model.lora.layer import LoraLinear

    return next(m for m in peft_model.modules() if isinstance(m, LoraLinear)).shared


def _parameters(peft_model: PeftModel, adapter: str) -> Mapping[str, Tensor]:
    """The live tensors of one adapter under their names on disk."""
    return _adapted(peft_model).parameters[adapter]


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


def _activate(peft_model: PeftModel, names: Sequence[str]) -> None:
    """Compute with these adapters only, in place."""
    _adapted(peft_model).active = tuple(names)

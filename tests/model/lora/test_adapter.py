"""Adapters: their files against PEFT's, stacks and sums, and a student's weights on a base that stays as it was."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from gepa_loop.config.tables import LoraConfig, ModelConfig
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.files import read_adapter, write_adapter
from gepa_loop.model.lora.training import as_teacher, load_student, remove_lora, student_adapter, with_lora
from gepa_loop.model.origin import check_origin

LORA = LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "up_proj"))
IDS = torch.tensor([[1, 50, 60, 70, 80, 2, 90]])


def fresh(dtype: str = "float32") -> Base:
    """A model of its own, so that a test which fails half-way leaves no adapter to the next."""
    return load_base(ModelConfig.model_validate({"name": "random:tiny", "dtype": dtype, "device": "cpu"}))


@pytest.fixture
def base() -> Base:
    return fresh()


def made(lora: LoraConfig, seed: int) -> Adapter:
    """An adapter whose B is not zero."""
    adapter = student_adapter(with_lora(fresh(), lora, seed, None))
    generator = torch.Generator().manual_seed(seed)
    noisy = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in adapter.tensors.items()}
    return replace(adapter, tensors=noisy)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(IDS).logits
    return out


def merged_logits(base: Base, adapter: Adapter) -> torch.Tensor:
    """Those of weights that are changed in float64."""
    weights = {
        f"{module}.weight": (
            base.model.get_parameter(f"{module}.weight").double() + delta(adapter, module)
        ).float()
        for module in adapter.modules
    }
    with torch.no_grad():
        out: torch.Tensor = torch.func.functional_call(base.model, weights, (IDS,)).logits
    return out


def delta(adapter: Adapter, module: str) -> torch.Tensor:
    """The weight change in float64; 0 where the adapter has no such module."""
    if module not in adapter.modules:
        return torch.zeros(1, dtype=torch.float64)
    a, b = adapter.pair(module)
    return adapter.alpha / adapter.rank * (b.double() @ a.double())


def trainable(model: Any) -> set[str]:
    return {n for n, p in model.named_parameters() if p.requires_grad}


# --- values and files


def test_peft_reads_what_is_written(base: Base, tmp_path: Path) -> None:
    adapter = made(LORA, 1)
    write_adapter(tmp_path / "a", adapter, base.origin)
    model = with_lora(base, LORA, 2, None)
    load_student(model, adapter)
    ours = logits(model)
    remove_lora(model)

    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), str(tmp_path / "a"))
    torch.testing.assert_close(logits(theirs), ours, atol=1e-5, rtol=0)
    assert (ours - logits(base.model)).abs().max() > 0.1


def test_read_gives_back_what_was_written(base: Base, tmp_path: Path) -> None:
    first, second = made(LORA, 1), made(LoraConfig(rank=2, alpha=3.0, targets=("o_proj",)), 2)
    for adapter in (first, second):  # the second replaces the first
        write_adapter(tmp_path, adapter, base.origin)
        back = read_adapter(tmp_path)
        assert (back.rank, back.alpha, back.targets) == (adapter.rank, adapter.alpha, adapter.targets)
        assert back.fingerprint == adapter.fingerprint
        assert back.tensors.keys() == adapter.tensors.keys()
        assert all(torch.equal(back.tensors[n], t) for n, t in adapter.tensors.items())


def test_what_peft_writes_is_read(base: Base, tmp_path: Path) -> None:
    model = with_lora(base, LORA, 3, None)
    model.save_pretrained(str(tmp_path), selected_adapters=["student"])
    expected = student_adapter(model)
    remove_lora(model)
    assert read_adapter(tmp_path / "student").fingerprint == expected.fingerprint


def test_fingerprint_sees_every_part() -> None:
    adapter = made(LORA, 1)
    name = next(iter(adapter.tensors))
    changed = {**adapter.tensors, name: adapter.tensors[name] + torch.tensor(1e-6)}
    others = [replace(adapter, alpha=9.0), replace(adapter, rank=5), replace(adapter, tensors=changed)]
    prints = {a.fingerprint for a in [adapter, *others]}
    assert len(prints) == 4
    assert {len(p) for p in prints} == {8}


def edit_config(key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors, sorted(tensors)[0])
        save_file(tensors, folder / "adapter_model.safetensors")

    return edit


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "no adapter can be read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter can be read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "no adapter can be read"),
        (lambda f: (f / "adapter_config.json").write_text("[1]"), r"peft_type is \[1\]"),
        (cut, "no adapter can be read"),
        *[
            (
                lambda f, n=name: (f / n).write_bytes(b" " * 2**20 + b"{}"),
                "at most 1,048,576 are read",
            )
            for name in ("adapter_config.json", "base.json")
        ],
        *[
            (lambda f, n=name: (f / n).write_bytes(b"[" * 10**5), "nested too deeply")
            for name in ("adapter_config.json", "base.json")
        ],
        (edit_config("peft_type", "IA3"), "peft_type is 'IA3'"),
        (edit_config("use_dora", True), "use_dora cannot be used"),
        (edit_config("bias", "all"), "bias cannot be used"),
        *[
            (edit_config("init_lora_weights", start), f"init_lora_weights = '{start}', which changes")
            for start in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "mica")
        ],
        (edit_config("alora_invocation_tokens", [3, 4]), "alora_invocation_tokens cannot be used"),
        (edit_config("kasa_config", {"beta": 1}), "kasa_config cannot be used"),
        (edit_config("what_comes_next_year", "yes"), "what_comes_next_year cannot be used"),
        (lambda f: (f / "base.json").write_text("{}"), r"base\.json: it does not say which base"),
        (edit_config("r", 0), "r = 0"),
        *[(edit_config("lora_alpha", a), "they must be") for a in (0, -8.0, math.nan, math.inf, "16", None)],
        (edit_tensors(lambda t, _: t.clear()), "there are no tensors in it"),
        (edit_tensors(lambda t, n: t[n][0, 0].fill_(math.nan)), "holds a number that is not finite"),
        *[(edit_config("target_modules", t), "target_modules = ") for t in (None, 5, ["q_proj", 5])],
        *[
            (edit_config(key, value), f"{key} = .*; it must give positive numbers")
            for key in ("rank_pattern", "alpha_pattern")
            for value in (5, {"q_proj": 0}, {"q_proj": "4"}, {"q_proj": math.nan}, {"(": 4})
        ],
        (edit_config("rank_pattern", {"q_proj": 2}), "the rank is 2"),
        (edit_config("r", 8), r"the rank is 8"),
        (
            edit_config("target_modules", ["q_proj"]),
            r"target_modules = .* leave model\.layers\.\d\.\S+ alone",
        ),
        (
            edit_config("target_modules", ".*q_proj"),
            r"target_modules = .* leave model\.layers\.\d\.\S+ alone",
        ),
        (edit_config("exclude_modules", ["q_proj"]), r"exclude_modules = .* leave \S+\.q_proj alone"),
        (
            edit_config("layers_to_transform", [0]),
            r"layers_to_transform = .* leave model\.layers\.1\.\S+ alone",
        ),
        (edit_config("layers_pattern", "("), r"layers_pattern = '\(': "),
        (edit_tensors(lambda t, n: t.pop(n)), "not one of a pair"),
        (edit_tensors(lambda t, _: t.update(extra=torch.zeros(2))), "extra is not one of a pair"),
        (
            edit_tensors(lambda t, n: t.update({n: t[n][0].clone()})),
            r"lora_A\.weight is torch\.float32 \(64,\)",
        ),
    ],
)
def test_damaged_adapter(base: Base, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_adapter(tmp_path, made(LORA, 1), base.origin)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        read_adapter(tmp_path)
    assert str(tmp_path) in str(caught.value)


EVERY = ["q_proj", "v_proj", "up_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": EVERY, "exclude_modules": ["up_proj"]},
        {"target_modules": EVERY, "exclude_modules": r".*layers\.0\..*"},
        {"target_modules": r".*layers\.1\..*(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": EVERY, "layers_to_transform": [1]},
        {"target_modules": EVERY, "rank_pattern": {"q_proj": 2, r"layers\.1\..*v_proj": 7}},
        {"target_modules": EVERY, "alpha_pattern": {"q_proj": 2.0, r"layers\.1\.mlp\.up_proj": 5}},
        {"target_modules": EVERY, "use_rslora": True},
        {"target_modules": EVERY, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": EVERY, "init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=2.0)},
    ],
    ids=lambda settings: "+".join(settings),
)  # fmt: skip
def test_whatever_is_plain_lora_in_the_end_computes_what_peft_does(
    base: Base, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Read, merged, in training, and written once more."""
    torch.manual_seed(0)
    plain = logits(base.model)
    theirs = peft.get_peft_model(copy.deepcopy(base.model), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    if "eva_config" in settings:
        batches = [{"input_ids": torch.randint(3, 250, (4, 16))} for _ in range(6)]
        peft.initialize_lora_eva_weights(theirs, batches)
        assert theirs.peft_config["default"].rank_pattern, "its ranks are shared out anew"
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    expected = logits(theirs.eval())
    assert (expected - plain).abs().max() > 0.1

    adapter = read_adapter(tmp_path / "theirs")
    torch.testing.assert_close(merged_logits(base, adapter), expected, atol=1e-4, rtol=0)
    model = with_lora(base, LORA, 2, adapter)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    remove_lora(model)
    write_adapter(tmp_path / "ours", stack_adapters([adapter]), base.origin)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*missing adapter keys.*")
        again = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), str(tmp_path / "ours"))
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_alone_are_read(base: Base, tmp_path: Path, start: object) -> None:
    write_adapter(tmp_path, made(LORA, 1), base.origin)
    edit_config("init_lora_weights", start)(tmp_path)
    assert read_adapter(tmp_path).fingerprint == made(LORA, 1).fingerprint


def test_an_adapter_knows_its_base_by_the_weights(base: Base, tmp_path: Path) -> None:
    write_adapter(tmp_path, made(LORA, 1), base.origin)
    adapter = read_adapter(tmp_path)
    # The same model in another type, under another name, and with adapters on it.
    assert check_origin(adapter.origin, fresh("bfloat16").origin, "here") is None
    moved = fresh()
    model = with_lora(moved, LORA, 0, None)
    assert check_origin(adapter.origin, replace(moved, name="elsewhere").origin, "here") is None
    remove_lora(model)
    with torch.no_grad():
        changed = copy.deepcopy(base.model)
        changed.model.layers[1].mlp.up_proj.weight[5, 7] *= 1.02
    other = replace(base, name="other", model=changed)
    with pytest.raises(
        ModelError, match=r"^here: the adapter was trained on random:tiny .*'other'"
    ) as caught:
        check_origin(adapter.origin, other.origin, "here")
    assert base.origin.weights in str(caught.value) and other.origin.weights in str(caught.value)
    (tmp_path / "base.json").unlink()
    note = check_origin(read_adapter(tmp_path).origin, other.origin, "here")
    assert note is not None and "does not say on which weights" in note


def test_stack_is_the_sum() -> None:
    one = made(LORA, 1)
    two = made(LoraConfig(rank=3, alpha=5.0, targets=("v_proj", "o_proj")), 2)
    stack = stack_adapters([one, two])
    assert (stack.rank, stack.alpha) == (7, 7.0)
    assert stack.targets == ("o_proj", "q_proj", "up_proj", "v_proj")
    assert set(stack.modules) == {*one.modules, *two.modules}
    assert len(stack.modules) == 8
    for module in stack.modules:
        expected = delta(one, module) + delta(two, module)
        torch.testing.assert_close(delta(stack, module), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="no adapter"):
        stack_adapters([])


# --- training


def test_merged_forward_is_the_unmerged_forward(base: Base) -> None:
    stack, adapter = made(LORA, 1), made(LORA, 2)
    model = with_lora(base, LORA, 3, stack)
    load_student(model, adapter)
    unmerged = logits(model)
    remove_lora(model)
    torch.testing.assert_close(
        merged_logits(base, stack_adapters([stack, adapter])), unmerged, atol=1e-4, rtol=0
    )


def test_new_student_changes_nothing_and_depends_on_its_seed_alone(base: Base) -> None:
    before, state = logits(base.model), torch.get_rng_state()
    students = []
    for seed, stack in [(1, None), (1, made(LORA, 9)), (2, None)]:
        model = with_lora(base, LORA, seed, stack)
        if stack is None:
            assert torch.equal(logits(model), before)
        students.append(student_adapter(model))
        remove_lora(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert students[0].fingerprint == students[1].fingerprint != students[2].fingerprint
    assert all(not students[0].pair(m)[1].any() for m in students[0].modules)


def test_only_the_student_trains_and_the_teacher_is_the_base(base: Base) -> None:
    before = logits(base.model)
    model = with_lora(base, LORA, 1, None)
    load_student(model, made(LORA, 2))
    student, names = logits(model), trainable(model)
    assert len(names) == 2 * 2 * 3  # A and B, two layers, three targets
    assert all(".student." in name for name in names)
    with as_teacher(model):
        assert torch.equal(logits(model), before)
        assert torch.equal(logits(base.model), before)
        assert not model(IDS).logits.requires_grad
    with pytest.raises(RuntimeError, match="inside"), as_teacher(model):
        raise RuntimeError("inside")
    assert torch.equal(logits(model), student)
    assert trainable(model) == names
    remove_lora(model)


def test_teacher_keeps_the_stack(base: Base) -> None:
    stack = made(LoraConfig(rank=3, alpha=5.0, targets=("o_proj", "q_proj")), 1)
    expected = merged_logits(base, stack)
    model = with_lora(base, LORA, 2, stack)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    load_student(model, made(LORA, 3))
    student, names = logits(model), trainable(model)
    assert all(".student." in name for name in names)
    with as_teacher(model):
        teacher = logits(model)
        assert not model(IDS).logits.requires_grad
    torch.testing.assert_close(teacher, expected, atol=1e-4, rtol=0)
    assert (teacher - student).abs().max() > 0.1
    assert torch.equal(logits(model), student)
    assert trainable(model) == names
    remove_lora(model)


def test_training_and_removal_leave_the_base_bitwise_as_it_was(base: Base) -> None:
    weights = {n: t.clone() for n, t in base.model.state_dict().items()}
    modules = dict(base.model.named_modules())
    model = with_lora(base, LORA, 1, made(LORA, 2))
    start = student_adapter(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves B only, since B = 0 gives A no gradient
        optimizer.zero_grad()
        model(IDS).logits.logsumexp(-1).mean().backward()
        optimizer.step()
    trained = student_adapter(model)
    assert all(not torch.equal(trained.tensors[n], t) for n, t in start.tensors.items())
    remove_lora(model)

    assert dict(base.model.named_modules()) == modules
    assert base.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(t, weights[n]) for n, t in base.model.state_dict().items())
    assert not any(p.requires_grad for p in base.model.parameters())
    remove_lora(with_lora(base, LORA, 1, None))


def test_student_is_copied_out_and_loaded_in_place(base: Base) -> None:
    model = with_lora(base, LORA, 1, None)
    parameters = [p for p in model.parameters() if p.requires_grad]
    first, other = student_adapter(model), made(LORA, 2)
    load_student(model, other)
    assert student_adapter(model).fingerprint == other.fingerprint != first.fingerprint
    assert all(
        a is b for a, b in zip(parameters, [p for p in model.parameters() if p.requires_grad], strict=True)
    )
    for lora in (LORA.model_copy(update={"alpha": 9.0}), LORA.model_copy(update={"rank": 2})):
        with pytest.raises(ModelError, match="adapter 'student'"):
            load_student(model, made(lora, 3))
    with pytest.raises(ModelError, match="differ in 4 tensors"):
        load_student(model, made(LORA.model_copy(update={"targets": ("q_proj", "v_proj")}), 3))
    assert student_adapter(model).fingerprint == other.fingerprint
    remove_lora(model)


def test_student_of_a_bfloat16_base_is_float32() -> None:
    base = fresh("bfloat16")
    model = with_lora(base, LORA, 1, made(LORA, 2))
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    assert {t.dtype for t in student_adapter(model).tensors.values()} == {torch.float32}
    remove_lora(model)
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("target", ["qproj", "lm_head", "layers"])
def test_unknown_target_lists_the_linear_layers(base: Base, target: str) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.targets: '{target}'") as caught:
        with_lora(base, LoraConfig(targets=("q_proj", target)), 1, None)
    expected = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    assert caught.value.hint == f"Its linear layers are {expected}."
    remove_lora(with_lora(base, LORA, 1, None))  # and the base is still clean


def test_stack_of_another_model_is_refused_and_the_base_stays_clean(base: Base) -> None:
    stack = made(LORA, 1)
    wrong = replace(
        stack, tensors={n: torch.cat([t, t], 1 if ".lora_A." in n else 0) for n, t in stack.tensors.items()}
    )
    with pytest.raises(ModelError, match="adapter 'stack'"):
        with_lora(base, LORA, 1, wrong)
    model = with_lora(base, LORA, 1, None)
    with pytest.raises(ValueError, match="already has adapters"):
        with_lora(base, LORA, 1, None)
    remove_lora(model)

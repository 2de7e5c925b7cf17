"""Where a split model's layers go, and what follows them; on two GPUs it is tried in tests/training/test_two_cards.py."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.base import Base, find_device
from gepa_loop.model.forward import read_prefix
from gepa_loop.model.kv import empty_cache
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.layer import Adapted
from gepa_loop.model.lora.training import remove_lora, student_adapter, student_parameters, with_lora
from gepa_loop.model.split import by_device, is_split, join_layers, layers_by_device, layout, spread
from gepa_loop.run.files import read_jsonl
from gepa_loop.sampling.choose import TWICE, no_room, resolve_engine
from gepa_loop.sampling.network import ModuleNetwork
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.average import Average
from gepa_loop.training.checkpoint import optimizer_moments, restore_moments
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.trainer import distill

CPU, META = torch.device("cpu"), torch.device("meta")


def test_each_gpu_is_filled_by_the_same_share_of_what_is_free_on_it() -> None:
    assert spread([1] * 8, 0, [10, 10]) == [0] * 4 + [1] * 4
    # What lies beside the layers is on the first: 2 + 3 layers, and 5.
    assert spread([1] * 8, 2, [10, 10]) == [0] * 3 + [1] * 5
    assert spread([1] * 8, 0, [30, 10]) == [0] * 6 + [1] * 2
    assert spread([1] * 9, 0, [10, 10, 10]) == [0] * 3 + [1] * 3 + [2] * 3
    # A large vocabulary alone fills the first.
    assert spread([1] * 2, 8, [10, 10]) == [1, 1]
    # The middle of the second layer lies before the end of the first GPU's share.
    assert spread([4, 4, 1], 0, [10, 8]) == [0, 1, 1] and spread([4, 4, 1], 0, [15, 3]) == [0, 0, 1]


def test_every_part_of_a_model_has_a_place(tiny: Base) -> None:
    size = tiny.model.get_memory_footprint()
    parts = layout("x", tiny.model, {CPU: size, META: size})
    names = {name for name, _ in tiny.model.named_parameters()}
    assert all(any(name == part or name.startswith(f"{part}.") for part in parts) for name in names)
    assert "" not in parts and "model" not in parts
    assert {part: str(place) for part, place in parts.items() if "layers" in part} == {
        "model.layers.0": "cpu",
        "model.layers.1": "meta",
    }
    assert parts["lm_head"] == parts["model.embed_tokens"] == parts["model.norm"] == CPU


def test_a_model_that_all_gpus_together_do_not_hold_is_refused(tiny: Base) -> None:
    size = tiny.model.get_memory_footprint()
    layout("x", tiny.model, {CPU: int(size / 1.7), META: int(size / 1.7)})
    with pytest.raises(
        ModelError, match=r"model\.name = 'x': its weights take .* GiB, and of the GPUs' .* and .* GiB"
    ):
        layout("x", tiny.model, {CPU: int(size / 1.9), META: int(size / 1.9)})


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are two GPUs")
def test_one_device_is_not_enough() -> None:
    with pytest.raises(ModelError, match=r"'split': this machine has . CUDA devices .* it takes two"):
        find_device("split")


@pytest.fixture
def halved(tiny: Base) -> Base:
    """The tiny model whose first layer lies on another device, which has no data."""
    model = copy.deepcopy(tiny.model)
    join_layers(model)
    model.get_decoder().layers[0].to("meta")
    return replace(tiny, model=model)


def test_what_a_layer_reads_comes_to_it_and_the_last_one_sends_it_home(halved: Base) -> None:
    decoder = halved.model.get_decoder()
    first, last = decoder.layers
    x_BTH, places_BT = torch.zeros(1, 3, halved.model.config.hidden_size), torch.arange(3)[None]
    cache = empty_cache(halved.model.config, 3)
    more = {"position_embeddings": decoder.rotary_emb(x_BTH, places_BT), "past_key_values": cache}
    assert first(x_BTH, attention_mask=torch.ones(1, 1, 3, 3, dtype=torch.bool), **more).device == META
    assert cache.layers[0].keys.device == META
    assert last(x_BTH, **more).device == CPU
    last.to("meta")
    more["past_key_values"] = empty_cache(halved.model.config, 3)
    # It computed there, and its output has no data that could be sent.
    with pytest.raises(NotImplementedError, match="meta"):
        last(x_BTH, **more)


def test_it_is_told_where_a_split_model_lies(halved: Base, tiny: Base) -> None:
    assert is_split(halved.model) and not is_split(tiny.model)
    assert layers_by_device(halved.model) == {META: 1, CPU: 1} and layers_by_device(tiny.model) == {CPU: 2}
    assert (halved.where, tiny.where) == ("cpu, meta", "cpu")
    # Its layers all beside its embedding.
    halved.model.get_decoder().layers[1].to("meta")
    assert is_split(halved.model) and halved.where == "cpu, meta"


def test_a_second_copy_of_the_weights_is_not_made_beside_a_split_model(halved: Base) -> None:
    settings = load_config("smoke", env={}).sampling
    assert resolve_engine(halved, settings) == ("torch", "random:tiny is split over cpu, meta")
    for engine in ("cuda", "vllm"):
        with pytest.raises(ConfigError, match=f"'{engine}': random:tiny is split over cpu, meta") as error:
            resolve_engine(halved, settings.model_copy(update={"engine": engine}))
        assert error.value.hint == "Set sampling.engine to auto or torch."


def test_a_second_copy_is_not_made_where_a_gpu_does_not_hold_it() -> None:
    assert no_room(TWICE * 40, 80, TWICE) is None and no_room(40, 80, 1.0) is None
    assert no_room(TWICE * 40 + 1, 80, TWICE) and no_room(41, 80, 1.0)
    reason = no_room(61 * 2**30, 80 * 2**30, TWICE)
    assert reason == "its weights, 61.0 GiB, do not fit twice on a GPU of 80.0 GiB"


def test_the_past_of_a_layer_is_taken_where_it_lies(halved: Base) -> None:
    cache = empty_cache(halved.model.config, 2)
    for number, device in enumerate((META, CPU)):
        keys = torch.zeros(1, 1, 2, 4, device=device)
        cache.update(keys, keys, number)
    rows = cache.rows(torch.zeros(3, dtype=torch.long), 5)
    assert [layer.keys.device for layer in rows.layers] == [META, CPU]
    assert [tuple(layer.keys.shape) for layer in rows.layers] == [(3, 1, 5, 4)] * 2


def test_an_adapter_lies_beside_its_layers_and_in_one_tensor_on_each_device(halved: Base) -> None:
    config = load_config("smoke", env={})
    model = with_lora(halved, config.lora, 0, None)
    try:
        parameters = student_parameters(model)
        runs = by_device(parameters)
        assert [run[0].device for run in runs] == [META, CPU] and sum(map(len, runs)) == len(parameters)
        optimizer = make_optimizer(config.distill, parameters)
        [wholes] = [group["params"] for group in optimizer.param_groups]
        for whole, run in zip(wholes, runs, strict=True):
            assert whole.numel() == whole.grad.numel() == sum(p.numel() for p in run)
        with torch.no_grad():
            wholes[1].fill_(3.0)
            wholes[1].grad.fill_(4.0)
        for parameter in runs[1]:
            assert (parameter == 3).all() and parameter.grad is not None and (parameter.grad == 4).all()
    finally:
        remove_lora(model)


def test_students_side_by_side_are_told_apart_on_each_device() -> None:
    adapted = Adapted({}, ("a", "b"), {"a": 0, "b": 1})
    adapted.divide(torch.tensor([1, 0]), 2)
    ranks = [("a", 1), ("b", 2)]
    here = adapted.others_NR(ranks, CPU)
    there = adapted.others_NR(ranks, META)
    assert here is not None and there is not None and (here.device, there.device) == (CPU, META)
    assert here.tolist() == [[True, False, False]] * 2 + [[False, True, True]] * 2


def test_moments_and_average_are_the_same_in_one_tensor_and_in_several() -> None:
    """So a distillation goes on however its model is split next time."""
    values = torch.arange(1.0, 6.0)

    def trained(*sizes: int) -> tuple[torch.optim.AdamW, Average]:
        parameters = [torch.nn.Parameter(part.clone()) for part in torch.split(values, sizes)]
        optimizer = torch.optim.AdamW(parameters, lr=0.1)
        average = Average(optimizer, 0.25)
        for step in (1, 2, 3):
            for parameter in parameters:
                parameter.grad = parameter.detach() * step
            optimizer.step()
            average.add(step)
        return optimizer, average

    def now(optimizer: torch.optim.AdamW) -> torch.Tensor:
        return torch.cat([p.detach() for p in optimizer.param_groups[0]["params"]])

    (one, mean), (two, means) = trained(5), trained(2, 3)
    assert torch.equal(now(one), now(two))
    moments, others = optimizer_moments(one), optimizer_moments(two)
    assert moments.keys() == others.keys() and all(torch.equal(moments[key], others[key]) for key in moments)
    with mean.in_place(), means.in_place():
        averaged = now(one)
        assert torch.equal(averaged, now(two))
    assert not torch.equal(averaged, now(one)) and torch.equal(now(one), now(two))
    restore_moments(two, {key: value * 2 for key, value in moments.items()})
    assert all(torch.equal(value, 2 * moments[key]) for key, value in optimizer_moments(two).items())
    restore_moments(two, {})
    assert optimizer_moments(two) == {}


def test_hooks_change_nothing_of_a_model_in_one_piece(tmp_path: Path) -> None:
    """Twins, adapters, prefixes, checks and samplers all go through them."""
    lab = open_lab(load_config("smoke", ("sampling.engine=torch", "teacher.kind=live"), env={}))
    model = copy.deepcopy(lab.base.model)
    join_layers(model)
    base = replace(lab.base, model=model)
    network = ModuleNetwork(base)
    hooked = replace(
        lab,
        base=base,
        rollouts=replace(lab.rollouts, sampler=TorchSampler(base, lab.config.sampling.batch, network)),
    )
    plain = replace(
        lab,
        rollouts=replace(
            lab.rollouts,
            sampler=TorchSampler(lab.base, lab.config.sampling.batch, ModuleNetwork(lab.base)),
        ),
    )
    assert read_prefix(model, [5, 6]).cache is not None
    found = [_distilled(one, tmp_path / name) for name, one in (("hooked", hooked), ("plain", plain))]
    assert found[0].fingerprint == found[1].fingerprint
    rows = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("hooked", "plain")]
    for name in ("loss", "grad_norm", "reverse_kl"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]


def _distilled(lab: Lab, folder: Path) -> Adapter:
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    prompt = Candidate("Answer with one number.")
    return distill(lab, prompt, folder, stack=None, before=before, progress=lambda row: None).adapter


def test_accelerates_hooks_do_not_stay(tiny: Base) -> None:
    from accelerate import dispatch_model

    model = copy.deepcopy(tiny.model)
    parts = dict.fromkeys(layout("x", model, {CPU: 2**30}), "cpu")
    dispatch_model(model, parts, force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    join_layers(model)
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    ids = torch.tensor([[5, 6, 7]])
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(input_ids=ids).logits, tiny.model(input_ids=ids).logits)
    config = load_config("smoke", env={})
    adapted = with_lora(replace(tiny, model=model), config.lora, 0, None)
    assert student_adapter(adapted).rank == config.lora.rank
    remove_lora(adapted)


def test_the_word_is_a_device() -> None:
    with pytest.raises(ConfigError, match="'splits': no such device") as error:
        find_device("splits")
    assert error.value.hint == "Use auto, cpu, cuda, cuda:N or split."
    assert ModelConfig(device="split").device == "split"

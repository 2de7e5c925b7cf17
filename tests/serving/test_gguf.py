"""GGUF files as llama.cpp's converters lay them out, read back by another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter
from gepa_loop.model.lora.rank import padded
from gepa_loop.serving.gguf_file import _copied, check_lora, read_model, write_lora, write_model
from gepa_loop.serving.gguf_layout import pre_tokenizer, rope_factors, shape_of
from gepa_loop.serving.merge import merged_into

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 128}),
]


def _model(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **more}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
    return model.eval()


def _written(model: Any, smollm: Base, path: Path, kind: str = "f32") -> Any:
    write_model(model, smollm.tokenizer, str(smollm.tokenizer.chat_template), path, kind)
    return gguf.GGUFReader(path)


@pytest.mark.parametrize(("kind", "more"), FAMILIES)
def test_what_is_written_is_read_again_number_by_number(
    kind: str, more: dict[str, Any], smollm: Base, tmp_path: Path
) -> None:
    model = _model(kind, **more)
    _written(model, smollm, tmp_path / "m.gguf")
    again = read_model(tmp_path / "m.gguf", model, model.device)
    assert again.config.tie_word_embeddings == (
        again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    # And is another one.
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    assert not torch.equal(
        again.model.layers[0].self_attn.q_proj.weight, model.model.layers[0].self_attn.q_proj.weight
    )


@pytest.mark.parametrize(
    # transformers does not read `rope_freqs`, and takes a Mistral for a Llama.
    ("kind", "more"),
    [one for one in FAMILIES if one[0] != "mistral" and "rope_parameters" not in one[1]],
)
def test_transformers_reads_the_same_model(
    kind: str, more: dict[str, Any], smollm: Base, tmp_path: Path
) -> None:
    model = _model(kind, **more)
    _written(model, smollm, tmp_path / "m.gguf")
    other = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.tensor([[5, 900, 41, 7, 13]])
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_keys_are_those_of_llama_cpp(smollm: Base, tmp_path: Path) -> None:
    reader = _written(_model("llama"), smollm, tmp_path / "m.gguf")
    known = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tokens, merges = known.pop("tokenizer.ggml.tokens"), known.pop("tokenizer.ggml.merges")
    kinds, template = known.pop("tokenizer.ggml.token_type"), known.pop("tokenizer.chat_template")
    eps = known.pop("llama.attention.layer_norm_rms_epsilon")
    assert known == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "m",
        "general.quantization_version": 2,
        "general.file_type": 0,
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.rope.dimension_count": 16,
        "llama.vocab_size": 49152,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": smollm.tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": smollm.tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": smollm.tokenizer.pad_token_id,
        **(
            {}
            if smollm.tokenizer.unk_token_id is None
            else {"tokenizer.ggml.unknown_token_id": smollm.tokenizer.unk_token_id}
        ),
        "tokenizer.ggml.add_bos_token": False,
    }
    assert eps == pytest.approx(1e-6) and template == smollm.tokenizer.chat_template
    vocabulary = smollm.tokenizer.get_vocab()
    assert len(tokens) == 49152 and all(vocabulary[token] == n for n, token in enumerate(tokens[:300]))
    assert kinds[:3] == [gguf.TokenType.CONTROL] * 3 and kinds[300] == gguf.TokenType.NORMAL
    assert all(len(merge.split(" ")) == 2 for merge in merges)


def test_rotary_halves_of_llama_are_interleaved(smollm: Base, tmp_path: Path) -> None:
    for kind, moved in (("llama", True), ("qwen2", False)):
        model = _model(kind)
        reader = _written(model, smollm, tmp_path / f"{kind}.gguf")
        tensors = {one.name: one.data for one in reader.tensors}
        for name, layer in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")):
            ours = getattr(model.model.layers[1].self_attn, layer).weight.detach().numpy()
            # Of a head of 16: rows 0, 8, 1, 9 and so on.
            order = [
                16 * head + half + 8 * n
                for head in range(len(ours) // 16)
                for half in range(8)
                for n in (0, 1)
            ]
            expected = ours[order] if moved and name != "attn_v" else ours
            assert np.array_equal(tensors[f"blk.1.{name}.weight"], expected), (kind, name)
    biases = {one.name: one.data for one in reader.tensors if one.name.endswith(".bias")}
    assert np.array_equal(
        biases["blk.0.attn_q.bias"], model.model.layers[0].self_attn.q_proj.bias.detach().numpy()
    )


@pytest.mark.parametrize(("kind", "apart"), [("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 1e-2)])
def test_smaller_kinds_round_weights_and_not_norms(
    kind: str, apart: float, smollm: Base, tmp_path: Path
) -> None:
    model = _model("qwen3")
    reader = _written(model, smollm, tmp_path / "m.gguf", kind)
    types = {one.name: one.tensor_type.name for one in reader.tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper() and types["token_embd.weight"] == kind.upper()
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_q_norm.weight"] == "F32"
    again = read_model(tmp_path / "m.gguf", model, model.device)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        if a.ndim == 1:
            assert torch.equal(a, b), name
        else:
            assert 0 < float((a - b).abs().max()) <= apart * float(a.abs().max()), name


def test_stretched_rotary_angles() -> None:
    config = AutoConfig.for_model("llama", **{**SHAPE, "rope_parameters": LLAMA3})
    factors = rope_factors(config, shape_of(config))
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 500_000.0 ** (torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(torch.from_numpy(factors), plain / stretched, rtol=1e-5, atol=1e-6)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    other = AutoConfig.for_model("llama", **{**SHAPE, "rope_parameters": yarn})
    with pytest.raises(ConfigError, match="rotary angles of type 'yarn'"):
        rope_factors(other, shape_of(other))


def _adapter(model: Any, rank: int = 3) -> Adapter:
    generator, tensors = torch.Generator().manual_seed(1), {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            tensors[f"{PREFIX}{name}{LORA_A}"] = torch.randn(rank, layer.in_features, generator=generator)
            tensors[f"{PREFIX}{name}{LORA_B}"] = (
                torch.randn(layer.out_features, rank, generator=generator) * 0.05
            )
    return Adapter(rank, 6.0, ("q_proj",), tensors)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_an_adapter_changes_the_weights_as_the_merged_ones_are(
    kind: str, smollm: Base, tmp_path: Path
) -> None:
    model = _model(kind)
    adapter = _adapter(model)
    write_lora(adapter, model.config, tmp_path / "lora.gguf")
    check_lora(tmp_path / "lora.gguf", adapter, model.config)
    reader = gguf.GGUFReader(tmp_path / "lora.gguf")
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert keys == {
        "general.architecture": kind,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
    }
    base = Base("m", model, smollm.tokenizer, (2,), 512, "f")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = {one.name: one.data for one in _written(model, smollm, tmp_path / "plain.gguf").tensors}
    with merged_into(base, adapter) as merged:
        whole = {one.name: one.data for one in _written(merged, smollm, tmp_path / "whole.gguf").tensors}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    found = {one.name: one.data for one in reader.tensors}
    assert len(found) == 2 * 7 * 2
    for name in {name.rpartition(".")[0] for name in found}:
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        # llama.cpp's sum: W + alpha / rank * B A.
        np.testing.assert_allclose(plain[name] + 6.0 / len(a) * b @ a, whole[name], atol=1e-5)
    with pytest.raises(ModelError, match="is not as the adapter has it"):
        check_lora(tmp_path / "lora.gguf", padded(adapter, 4), model.config)


def test_what_is_not_known_is_refused(tiny: Base, smollm: Base, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the layout of gemma models is not known") as caught:
        shape_of(AutoConfig.for_model("gemma", **SHAPE))
    assert "convert_hf_to_gguf.py" in caught.value.hint
    assert pre_tokenizer(smollm.tokenizer) == "smollm"
    with pytest.raises(ConfigError, match="how the model's tokenizer splits texts"):
        pre_tokenizer(tiny.tokenizer)
    model = _model("qwen3")
    _written(model, smollm, tmp_path / "m.gguf")
    larger = _model("qwen3", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"blk\.2\.\w+\.weight is missing"):
        read_model(tmp_path / "m.gguf", larger, larger.device)


def test_a_copy_lies_on_its_device_with_all_that_it_needs(smollm: Base, tmp_path: Path) -> None:
    model = _model("llama", rope_parameters=LLAMA3)
    _written(model, smollm, tmp_path / "m.gguf")
    again = read_model(tmp_path / "m.gguf", model, torch.device("cpu"))
    ids = torch.tensor([[5, 900, 41, 7, 13]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    ours = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert ours.isdisjoint(tensor.data_ptr() for tensor in (*again.parameters(), *again.buffers()))
    # Not by way of the model's own device: a whole copy there is what there may be no room for.
    moved = _copied(model, torch.device("meta"))
    assert {tensor.device.type for tensor in (*moved.parameters(), *moved.buffers())} == {"meta"}

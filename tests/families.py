"""Tiny random models of families that transformers has, in a folder as a user has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    # More rows than tokens, as most models have.
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
MIXED = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def write_model(kind: str, folder: Path, without: str = "", **more: Any) -> Path:
    """A model of a `model_type` with random weights and one token a byte, whose config takes all of `SHAPE` but one key."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from gepa_loop.model.bundled import random_tiny

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        shape = {key: value for key, value in SHAPE.items() if key != without}
        config = AutoConfig.for_model(kind, **{**shape, **more})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Zeros and ones, with which models begin, would hide whether a bias or a norm is used.
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    model.save_pretrained(folder)
    random_tiny(torch.float32)[1].save_pretrained(folder)
    return folder

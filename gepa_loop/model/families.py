"""Which models can be used, as far as a config or a look at the output layer tells; `sampling.selfcheck` compares the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose past is a cache of keys and values that a mask of ours covers."""
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What modules raise that cannot take our masks, positions or cache."""
SAME = {"float32": 1e-4, "bfloat16": 0.02}
"""Largest difference between logits and hidden states times the output layer, relative to the largest logit."""


def check_config(name: str, config: PretrainedConfig) -> None:
    """Refuse, before any weights are read, what can be seen from a config.

    Raises:
        ModelError: Quantised weights, a wrapper around a language model, or layers without attention.
    """
    kind = config.model_type
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else type(quantised).__name__
        raise ModelError(
            f"model.name = {name!r}: its weights are quantised ({method}), and adapters are trained on plain ones",
            "Choose the model it was quantised from.",
        )
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise ModelError(
            f"model.name = {name!r}: models of type {kind} are a language model inside another (for images, sound or translation)",
            "Choose a model of text alone.",
        )
    if odd := sorted(set(getattr(config, "layer_types", None) or ()) - LAYERS):
        raise ModelError(
            f"model.name = {name!r}: models of type {kind} have layers of kind {', '.join(odd)}; only attention layers can be used",
            "Choose a model whose layers all have full attention or a sliding window.",
        )


def longest_context(name: str, config: PretrainedConfig) -> int:
    """Tokens up to which every token is read in the same way, however many follow.

    Raises:
        ModelError: The config does not say how long a text may be.
    """
    context = getattr(config, "max_position_embeddings", None)
    if not isinstance(context, int):
        raise ModelError(f"model.name = {name!r}: its config has no max_position_embeddings")
    # These turn all positions by other angles as soon as one lies behind the original context: also those in a cache.
    limits = [
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        for rope in _ropes(getattr(config, "rope_parameters", None))
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]
    limits.append(getattr(config, "attention_chunk_size", None))
    return min([context, *(limit for limit in limits if isinstance(limit, int))])


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a layer is a linear one; some routers, and Falcon's layers, are so only by name and compute in a way of their own."""
    from torch.nn import Linear

    return isinstance(module, Linear) and type(module).forward is Linear.forward


def _ropes(parameters: Any) -> Iterator[dict[str, Any]]:
    """All rotary settings of a config, which may have some for each kind of layer."""
    if isinstance(parameters, dict):
        yield parameters
        for value in parameters.values():
            yield from _ropes(value)


def check_layers(name: str, model: PreTrainedModel) -> None:
    """Refuse a model without linear layers, or whose logits are more than last hidden states times a matrix.

    The losses assume no more.

    Raises:
        ModelError: There is no linear layer; or its logits are scaled, capped, shifted, not finite, or cannot be computed.
    """
    import torch

    head = model.get_output_embeddings()
    if not any(is_linear(module) and module is not head for module in model.modules()):
        raise ModelError(
            f"model.name = {name!r}: models of type {model.config.model_type} have no linear layers that can have an adapter",
            "docs/reference/models.md lists families that work.",
        )
    ids = torch.arange(8, device=model.device)[None]
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids).logits.float()
            hidden = model.get_decoder()(input_ids=ids).last_hidden_state
            product = (hidden @ head.weight.T).float() if isinstance(head, torch.nn.Linear) else None
    except FAULTS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"model.name = {name!r}: models of type {model.config.model_type} cannot be used: they cannot read eight tokens as "
            f"a language model does ({type(error).__name__}: {reason})",
        ) from error
    if not bool(logits.isfinite().all()):
        raise ModelError(
            f"model.name = {name!r}: its logits are not finite",
            "Its weights are damaged; copy or download them again.",
        )
    bias = getattr(head, "bias", None)
    if (
        product is None
        or product.shape != logits.shape
        or (bias is not None and bool(bias.any()))
        or float((product - logits).abs().max())
        > SAME[str(model.dtype).removeprefix("torch.")] * float(logits.abs().max())
        or getattr(model.config, "final_logit_softcapping", None)
    ):
        raise ModelError(
            f"model.name = {name!r}: its logits are not its last hidden states times its output layer",
            "Models that scale, cap or shift their logits (Granite, Cohere, Phi 2, some of Gemma) are not supported.",
        )

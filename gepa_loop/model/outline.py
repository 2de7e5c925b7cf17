"""What is known of a model before its weights are read: tokenizer, context, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ModelError
from gepa_loop.model.base import check_tokenizer
from gepa_loop.model.bundled import TINY, random_tiny
from gepa_loop.model.depth import check_depth
from gepa_loop.model.families import check_config, longest_context
from gepa_loop.model.files import UNLOADABLE, load_reason, model_place

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Outline:
    """A model without its weights."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    context: int
    """Longest sequence, in tokens."""
    parameters: int
    trained: int
    """Parameters of the linear layers that an adapter of rank 1 adds."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache that one token of one sequence takes in bfloat16."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * 2)


def outline(settings: ModelConfig, place: str | None = None) -> Outline:
    """Find a model, read its config and tokenizer, and count its parameters; of a model on the hub only these small files are loaded.

    Args:
        settings: Of the model.
        place: Where it is, as `model_place` says; None asks that.

    Raises:
        ConfigError: The chat template does not take an argument of `model.template`.
        ModelError: As `load_base`, as far as it can be told without weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    name = settings.name
    if name == TINY:
        model, tokenizer = random_tiny(torch.float32)
        config = model.config
    else:
        place = place or model_place(name)
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            check_config(name, config)
            check_depth(name, config, place)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except UNLOADABLE as error:
            raise ModelError(
                f"model.name = {name!r} cannot be loaded: {load_reason(error)}",
                f"{place} must hold config, tokenizer and *.safetensors of a causal language model.",
            ) from error
    check_tokenizer(settings, tokenizer)
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return Outline(
        name=name,
        tokenizer=tokenizer,
        config=config,
        context=longest_context(name, config),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(layer.in_features + layer.out_features for layer in layers),
    )

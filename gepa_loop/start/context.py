"""Whether a prompt leaves room for a completion at all, before there are items, which may take minutes to make."""

from __future__ import annotations

from gepa_loop.errors import PromptError
from gepa_loop.model.outline import Outline


def check_context(model: Outline, prompt: str, horizon: int, source: str) -> int:
    """The tokens of a prompt alone, without a question and what the chat template adds.

    Args:
        model: Whose context it is to fit.
        prompt: Its text.
        horizon: Longest completion, in tokens.
        source: Where the prompt came from, for the message of an error.

    Raises:
        PromptError: It and the completion are over the context.
    """
    tokens = len(model.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    if tokens + horizon > model.context:
        raise PromptError(
            f"{source}: the prompt takes {tokens:,} tokens and a completion up to {horizon:,}, over the model's context of "
            f"{model.context:,}",
            "Shorten the prompt, lower sampling.max_tokens, or choose a model with a longer context.",
        )
    return tokens

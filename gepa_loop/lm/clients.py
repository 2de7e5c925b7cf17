"""litellm, quiet, and Anthropic's SDK, both with HTTP clients that follow no redirect.

They would: a key in `x-api-key` goes along to any other host then, whose answer is taken as the model's.
"""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx

from gepa_loop.errors import ProviderError
from gepa_loop.outside.redact import redacted

LOOKUP_SECONDS = 30.0
"""Longest wait for Anthropic's answer about a model or a number of tokens, which no model writes."""


def open_litellm() -> Any:
    """litellm, which fetches nothing but replies and prints nothing."""
    # Else it gets prices and beta headers from GitHub, at its import and at Anthropic's first call.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    import litellm

    _refuse_redirects(litellm)
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    for name in ("LiteLLM", "dspy", "anthropic", "openai", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


def _refuse_redirects(litellm: Any) -> None:
    """Have a redirect be an error for every client that litellm makes from now on; a second call changes nothing."""
    from litellm.caching.llm_caching_handler import LLMClientCache

    if getattr(litellm.in_memory_llm_clients_cache, "redirects", True):

        class Cache(LLMClientCache):  # type: ignore[misc]
            """Where litellm puts each client that it makes, before it is used."""

            redirects = False

            def set_cache(self, key: str, value: Any, *args: Any, **options: Any) -> None:
                _refuse(value)
                super().set_cache(key, value, *args, **options)

        litellm.in_memory_llm_clients_cache = Cache()
        _refuse(litellm.module_level_client)


def _refuse(handler: Any) -> None:
    """Of litellm's own handlers, of OpenAI's client, and of the HTTP clients within them."""
    inner: list[Any] = [getattr(handler, name, None) for name in ("client", "_client")]
    for one in (handler, *inner):
        if hasattr(one, "follow_redirects"):
            one.follow_redirects = False


def open_anthropic(what: str, seconds: float) -> anthropic.Anthropic:
    """Anthropic's client for lookups: what a model is, how many tokens a text has.

    Args:
        what: The key and the model that it is for, as errors name them.
        seconds: Longest silence.

    Raises:
        ProviderError: The address in the environment is none.
    """
    # litellm's address: it reads two variables and adds this path where it is missing, the SDK reads one.
    base = os.environ.get("ANTHROPIC_API_BASE") or os.environ.get("ANTHROPIC_BASE_URL")
    try:
        urlsplit(base or "")
        httpx.URL(base or "")
    except (ValueError, httpx.InvalidURL) as error:
        raise ProviderError(
            f"{what}: the address {redacted(repr(base))} is none: {redacted(str(error))}",
            "Mend ANTHROPIC_API_BASE or ANTHROPIC_BASE_URL.",
        ) from None
    return anthropic.Anthropic(
        # Without the spaces and line breaks around it, as litellm sends it.
        api_key=os.environ.get("ANTHROPIC_API_KEY", "").strip() or None,
        base_url=base and base.removesuffix("/v1/messages"),
        timeout=min(seconds, LOOKUP_SECONDS),
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(follow_redirects=False),
    )


def usd_of(lm: Any) -> float:
    """What one of DSPy's models has cost, in US dollars; 0 where litellm knows no price."""
    return sum(call["cost"] or 0.0 for call in lm.history)

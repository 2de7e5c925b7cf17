"""litellm, quiet, and with HTTP clients that follow no redirect.

They would: a key in `x-api-key` goes along to any other host then, whose answer is taken as the model's.
"""

from __future__ import annotations

import logging
import os
from typing import Any


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

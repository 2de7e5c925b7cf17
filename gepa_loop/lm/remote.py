"""A model behind an API: found out about before anything is spent, then asked until it answers.

Keys come from the environment, and nobody's words but ours go into an error: a provider's may repeat a part of the
key. litellm and DSPy retry too, but litellm loses the provider's `retry-after`, so one loop here retries and both of
theirs are off. No temperature is sent: models that always think refuse every one but 1, which is the usual default.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anthropic
import dspy
from dspy.utils.exceptions import LMConfigurationError, LMError

from gepa_loop.config.tables import CallConfig
from gepa_loop.errors import CallFailed, ProviderError
from gepa_loop.lm.clients import LOOKUP_SECONDS, open_anthropic, open_litellm, usd_of
from gepa_loop.lm.connections import check_connections
from gepa_loop.lm.deadline import within
from gepa_loop.lm.faults import LATER, NoReply, check_reply, fault_of
from gepa_loop.outside.redact import redacted

T = TypeVar("T")

DEADLINE = 4
"""Longest call, as a multiple of `timeout_seconds`; one that drips for so long is not tried again."""

CHECK = "check"
"""What the call before anything is spent is named in errors."""

MAX_PAUSE = 60.0
"""Longest pause between two tries, in seconds, whatever the provider asks for."""

LONGEST_REPLY = 200_000
"""Characters of the longest reply that is read."""


@dataclass(frozen=True)
class Reply:
    """What a model wrote, and what that cost."""

    text: str
    """Without keys."""
    ended: str | None
    """litellm's finish_reason: "stop", "length", or a refusal's."""
    refusal: str
    """What the provider says of one, where it says so apart from the text; without keys."""
    usd: float
    """0 where litellm knows no price."""
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class RemoteModel:
    """A model that litellm reaches.

    Args:
        model: A litellm model string.
        settings: The reply's cap, the timeout and the number of retries.
        key: Where the configuration has these settings, for messages.
        instead: What `model` can be set to where no model can be had; empty: nothing.
        pause: Seconds before the first retry where the provider does not say; every further one is twice as long.
    """

    model: str
    settings: CallConfig
    key: str
    instead: str = ""
    pause: float = 1.0

    @property
    def named(self) -> str:
        """The key and the model, as errors name them."""
        return f"{self.key}.model = {self.model!r}"

    def check(self) -> None:
        """Find out, before anything is spent, whether the model can be asked.

        Anthropic's models are looked up, which is free; any other model writes one word.

        Raises:
            ProviderError: The key is missing or refused, there is no such model, or it cannot be reached.
        """
        provider, name = self.provider()
        if provider != "anthropic":
            # With the settings of later calls: a cap of one token is itself refused by models that think.
            self.ask(CHECK, [{"role": "user", "content": "Reply with the word yes."}])
            return
        with open_anthropic(self.named, self.settings.timeout_seconds) as client:
            found = self.call(CHECK, lambda: client.models.retrieve(name))
        if not isinstance(found, anthropic.types.ModelInfo) or found.id is None:
            raise ProviderError(
                f"{self.named}, check: the answer is no model's description",
                "Check ANTHROPIC_API_BASE: something else than Anthropic's API answers there.",
            )
        most = found.max_tokens
        if most and most < self.settings.max_tokens:
            raise ProviderError(
                f"{self.key}.max_tokens = {self.settings.max_tokens}, {self.model} writes at most {most}",
                f"Lower it: --set {self.key}.max_tokens={most}",
            )

    def ask(self, what: str, messages: Sequence[Mapping[str, str]]) -> Reply:
        """The reply to chat turns; `what` names the call in errors.

        Raises:
            ProviderError: The key, the model or the request is refused.
            CallFailed: Every try failed in a way that may pass.
        """
        lm = self.lm()
        turns = [dict(turn) for turn in messages]
        try:
            self.call(what, lambda: [lm(messages=turns), check_reply(lm)])
        except CallFailed as error:
            raise CallFailed(str(error), error.hint, usd_of(lm)) from None
        return reply_of(lm)

    def provider(self) -> tuple[str, str]:
        """The provider's name and its name of the model; raises when there is none or its key is missing."""
        check_connections(self.named)
        litellm = open_litellm()
        try:
            name, provider, _, _ = litellm.get_llm_provider(self.model)
        except litellm.BadRequestError:
            name = ""
        if not name:
            raise ProviderError(
                f"{self.named} names no provider and model that litellm knows",
                "Write it as in anthropic/claude-opus-5-5 or openai/gpt-5"
                + (f", or use {self.instead}." if self.instead else "."),
            )
        own = f"{provider.upper()}_API_KEY"
        key = os.environ.get(own, "unset").strip()
        missing = litellm.validate_environment(self.model)["missing_keys"] if key else [own]
        # Other variables (regions, roles, addresses) have defaults that litellm's list does not know of.
        absent = missing and all(variable.endswith("_API_KEY") for variable in missing)
        if absent or not (key.isascii() and key.isprintable()):
            why = (
                f"{' or '.join(missing)} is not set" if absent else f"{own} holds a character that no key has"
            )
            instead = f", or use --set {self.key}.model={self.instead}" if self.instead else ""
            raise ProviderError(f"{self.named}: {why}", f"Set it in the environment{instead}.")
        return provider, name

    def lm(self) -> Any:
        """DSPy's model, which keeps a history of its calls."""
        try:
            return dspy.LM(
                self.model,
                max_tokens=self.settings.max_tokens,
                timeout=self.settings.timeout_seconds,
                num_retries=0,
                cache=False,
                engine="litellm",
            )
        except LMConfigurationError as error:
            # DSPy's own words, from before any request.
            raise ProviderError(
                f"{self.named} with max_tokens = {self.settings.max_tokens}: {error.message}",
                f"OpenAI's models that think need room for it: --set {self.key}.max_tokens=16000",
            ) from None

    def count(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of messages, the first of which is the system's."""
        provider, name = self.provider()
        if provider == "anthropic":
            try:
                with open_anthropic(self.named, self.settings.timeout_seconds) as client:
                    count: Any = client.messages.count_tokens
                    system, *turns = messages
                    found = within(
                        LOOKUP_SECONDS, lambda: count(model=name, system=system["content"], messages=turns)
                    )
                    if isinstance(tokens := getattr(found, "input_tokens", None), int):
                        return tokens
            except (anthropic.AnthropicError, json.JSONDecodeError, TimeoutError):
                pass
        return self.estimate(messages)

    def estimate(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of messages as litellm counts them, which asks nobody."""
        return int(open_litellm().token_counter(model=self.model, messages=list(messages)))

    def usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """The price of a call in US dollars; None where litellm knows none."""
        litellm = open_litellm()
        try:
            prices = litellm.cost_per_token(
                self.model, prompt_tokens=input_tokens, completion_tokens=output_tokens
            )
        except litellm.exceptions.ModelNotMappedError:
            return None
        return float(sum(prices))

    def call(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call, tried again while it fails in a way that may pass."""
        pause, where = 0.0, f"{self.named}, {what}"
        for attempt in range(self.settings.retries + 1):
            time.sleep(pause)
            start = time.monotonic()
            try:
                return within(DEADLINE * self.settings.timeout_seconds, call)
            except TimeoutError as error:
                raise CallFailed(f"{where}: {error}", LATER) from None
            except (LMError, anthropic.AnthropicError, json.JSONDecodeError, NoReply) as error:
                fault = fault_of(error, time.monotonic() - start)
            # Out here, where the provider's exception is in no chain and so in no traceback.
            if fault.of_request and what != CHECK:
                # The model answers others: too long for it, or filtered. Another request may pass.
                raise CallFailed(f"{where}: {fault.why}", fault.mend(self.key))
            if fault.fatal:
                raise ProviderError(f"{where}: {fault.why}", fault.mend(self.key))
            pause = self.pause * 2**attempt if fault.retry_after is None else fault.retry_after
            pause = min(pause, MAX_PAUSE)
        tries = self.settings.retries + 1
        raise CallFailed(
            f"{where}: {fault.why} ({tries} {'try' if tries == 1 else 'tries'})", fault.mend(self.key)
        )


def reply_of(lm: Any) -> Reply:
    """The last answer to one of DSPy's models, and what all of its calls cost."""
    last = [choice for call in lm.history for choice in call["response"].choices][-1]
    return Reply(
        text=redacted(last.message.content or ""),
        ended=last.finish_reason,
        refusal=redacted(getattr(last.message, "refusal", None) or ""),
        usd=usd_of(lm),
        input_tokens=sum(call["usage"].get("prompt_tokens", 0) for call in lm.history),
        output_tokens=sum(call["usage"].get("completion_tokens", 0) for call in lm.history),
    )

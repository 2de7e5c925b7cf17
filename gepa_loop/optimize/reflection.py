"""The reflection model: DSPy's instruction proposer with any model that litellm reaches.

Keys come from the environment, and nobody's words but ours go into an error: a provider's may repeat a part of the
key. litellm and DSPy retry too, but litellm loses the provider's `retry-after`, so one loop here retries and both of
theirs are off. No temperature is sent: models that always think refuse every one but 1, which is the usual default.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anthropic
import dspy
from dspy.teleprompt.gepa.instruction_proposal import InstructionProposer
from dspy.utils.exceptions import AdapterParseError, LMConfigurationError, LMError

from gepa_loop.connections import check_connections
from gepa_loop.deadline import within
from gepa_loop.errors import ReflectionError, ReflectionFailed
from gepa_loop.optimize.adapter import COMPONENT
from gepa_loop.optimize.clients import LOOKUP_SECONDS, open_anthropic, open_litellm, usd_of
from gepa_loop.optimize.faults import LATER, LIMITS, NoReply, check_reply, fault_of
from gepa_loop.optimize.proposer import Proposal, Quote, without_kinds
from gepa_loop.optimize.reply import instruction, kept, shown
from gepa_loop.redact import redacted
from gepa_loop.schema import ReflectionConfig

T = TypeVar("T")

DEADLINE = 4
"""Longest call, as a multiple of `timeout_seconds`; one that drips for so long is not tried again."""

LONGEST_REPLY = 200_000
"""Characters of the longest reply that is read."""

CHECK = "check"
"""What the call before the first rollout is named in errors."""

MAX_PAUSE = 60.0
"""Longest pause between two tries, in seconds, whatever the provider asks for."""

BREVITY = """\
The new instruction must be at most {tokens} tokens long, about {words} words; shorter is better, and the length of \
the current instruction is no guide. Every sentence must earn its place: leave out whatever would not change the \
assistant's answers. Do not copy inputs or answers of the examples into it; state the rule that they show."""


@dataclass(frozen=True)
class LMProposer:
    """Writes prompts with a language model.

    Args:
        model: A litellm model string.
        settings: The reply's cap, the timeout and the number of retries.
        max_prompt_tokens: Longest prompt, in the student's tokens; the model is told.
        pause: Seconds before the first retry where the provider does not say; every further one is twice as long.
    """

    model: str
    settings: ReflectionConfig
    max_prompt_tokens: int
    pause: float = 1.0

    @property
    def name(self) -> str:
        return self.model

    @property
    def about(self) -> str:
        return self.model

    def check(self) -> None:
        """Find out, before anything is spent, whether the model can be asked.

        Anthropic's models are looked up, which is free; any other model writes one word.

        Raises:
            ReflectionError: The key is missing or refused, there is no such model, or it cannot be reached.
        """
        provider, name = self._provider()
        if provider != "anthropic":
            # With the settings of a proposal: a cap of one token is itself refused by models that think.
            lm = self._lm()
            self._call(CHECK, lambda: [lm("Reply with the word yes."), check_reply(lm)])
            return
        with open_anthropic(self.model, self.settings.timeout_seconds) as client:
            found = self._call(CHECK, lambda: client.models.retrieve(name))
        if not isinstance(found, anthropic.types.ModelInfo) or found.id is None:
            raise ReflectionError(
                f"optimize.reflection.model = {self.model!r}, check: the answer is no model's description",
                "Check ANTHROPIC_API_BASE: something else than Anthropic's API answers there.",
            )
        most = found.max_tokens
        if most and most < self.settings.max_tokens:
            raise ReflectionError(
                f"optimize.reflection.max_tokens = {self.settings.max_tokens}, {self.model} writes at most {most}",
                f"Lower it: --set optimize.reflection.max_tokens={most}",
            )

    def quote(self, parent: str, examples: Sequence[Mapping[str, Any]]) -> Quote:
        """The dearest that `propose` of the same parent and examples may be."""
        litellm = open_litellm()
        proposer = self._proposer()
        inputs = {
            "additional_instructions": proposer.additional_instructions,
            "current_instruction": parent,
            "examples_with_feedback": without_kinds(examples),
        }
        messages = proposer.adapter.format(proposer.propose.signature, [], inputs)
        tokens, most = self._count(messages), self.settings.max_tokens
        try:
            usd = sum(litellm.cost_per_token(self.model, prompt_tokens=tokens, completion_tokens=most))
        except litellm.exceptions.ModelNotMappedError:
            usd = None
        return Quote(tokens, most, usd)

    def propose(
        self,
        parent: str,
        examples: Sequence[Mapping[str, Any]],
        number: int,
        known: Collection[str] = (),  # noqa: ARG002 (the model is not told what there is already)
    ) -> Proposal:
        """One call of DSPy's instruction proposer; an empty text when the reply holds no instruction.

        What DSPy cannot read is read by `reply.instruction`. A refusal, or a reply of over `LONGEST_REPLY` characters, is a
        failed proposal: it is paid.

        Raises:
            ReflectionError: The key, the model or the request is refused.
            ReflectionFailed: Every try failed in a way that may pass.
        """
        self._provider()
        lm = self._lm()

        def ask() -> str | None:
            try:
                with dspy.context(lm=lm):
                    made = self._proposer()(
                        {COMPONENT: parent}, {COMPONENT: without_kinds(examples)}, [COMPONENT]
                    )
            except (AdapterParseError, AttributeError, ValueError):
                # DSPy's complaint about a reply; without a reply it is a mistake of ours.
                if not lm.history:
                    raise
                check_reply(lm)
                return None
            # DSPy makes the word None of a null.
            return "" if made[COMPONENT] == "None" else str(made[COMPONENT])

        where = f"proposal {number}"
        try:
            text = self._call(where, ask)
        except ReflectionFailed as error:
            raise ReflectionFailed(str(error), error.hint, usd_of(lm)) from None
        # DSPy may ask twice; the last answer is the one it gave up on, or read.
        choices = [choice for call in lm.history for choice in call["response"].choices]
        reply = redacted(choices[-1].message.content or "")
        ended = choices[-1].finish_reason
        refused = None if ended in (None, "stop", "length") else ended
        failed = None
        if refused:
            words = redacted(getattr(choices[-1].message, "refusal", None) or reply)
            failed = f"it refused (finish_reason {refused}): {shown(words)}"
        elif len(reply) > LONGEST_REPLY:
            failed = f"it wrote {len(reply):,} characters, at most {LONGEST_REPLY:,} are read"
        text = "" if failed else redacted(instruction(reply) if text is None else text)
        return Proposal(
            text=text,
            usd=usd_of(lm),
            how=f"reflection by {self.model}" if text else f"{self.model} gave no instruction",
            cut=ended == "length",
            failed=failed and f"{self._named(where)}: {failed}",
            reply=kept(reply),
            input_tokens=sum(call["usage"].get("prompt_tokens", 0) for call in lm.history),
            output_tokens=sum(call["usage"].get("completion_tokens", 0) for call in lm.history),
        )

    def _named(self, what: str) -> str:
        return f"optimize.reflection.model = {self.model!r}, {what}"

    def _provider(self) -> tuple[str, str]:
        """The provider's name and its name of the model; raises when there is none or its key is missing."""
        check_connections(f"optimize.reflection.model = {self.model!r}")
        litellm = open_litellm()
        try:
            name, provider, _, _ = litellm.get_llm_provider(self.model)
        except litellm.BadRequestError:
            name = ""
        if not name:
            raise ReflectionError(
                f"optimize.reflection.model = {self.model!r} names no provider and model that litellm knows",
                "Write it as in anthropic/claude-opus-5-5 or openai/gpt-5, or use offline.",
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
            raise ReflectionError(
                f"optimize.reflection.model = {self.model!r}: {why}",
                "Set it in the environment, or use --set optimize.reflection.model=offline.",
            )
        return provider, name

    def _lm(self) -> Any:
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
            raise ReflectionError(
                f"optimize.reflection.model = {self.model!r}: {error.message}", LIMITS
            ) from None

    def _proposer(self) -> Any:
        # Three quarters of a word a token is usual for English; two thirds leaves room for other tokenizers.
        words = self.max_prompt_tokens * 2 // 3
        return InstructionProposer(
            additional_instructions=BREVITY.format(tokens=self.max_prompt_tokens, words=words)
        )

    def _count(self, messages: list[dict[str, Any]]) -> int:
        """Tokens of messages, the first of which is the system's."""
        provider, name = self._provider()
        if provider == "anthropic":
            try:
                with open_anthropic(self.model, self.settings.timeout_seconds) as client:
                    count = client.messages.count_tokens
                    system, *turns = messages
                    found = within(
                        LOOKUP_SECONDS, lambda: count(model=name, system=system["content"], messages=turns)
                    )
                    if isinstance(tokens := getattr(found, "input_tokens", None), int):
                        return tokens
            except (anthropic.AnthropicError, json.JSONDecodeError, TimeoutError):
                pass
        return int(open_litellm().token_counter(model=self.model, messages=messages))

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call, tried again while it fails in a way that may pass."""
        pause, where = 0.0, self._named(what)
        for attempt in range(self.settings.retries + 1):
            time.sleep(pause)
            start = time.monotonic()
            try:
                return within(DEADLINE * self.settings.timeout_seconds, call)
            except TimeoutError as error:
                raise ReflectionFailed(f"{where}: {error}", LATER) from None
            except (LMError, anthropic.AnthropicError, json.JSONDecodeError, NoReply) as error:
                fault = fault_of(error, time.monotonic() - start)
            # Out here, where the provider's exception is in no chain and so in no traceback.
            if fault.of_request and what != CHECK:
                # The model answers others: too long for it, or filtered. The next minibatch may pass.
                raise ReflectionFailed(f"{where}: {fault.why}", fault.hint)
            if fault.fatal:
                raise ReflectionError(f"{where}: {fault.why}", fault.hint)
            pause = self.pause * 2**attempt if fault.retry_after is None else fault.retry_after
            pause = min(pause, MAX_PAUSE)
        tries = self.settings.retries + 1
        raise ReflectionFailed(
            f"{where}: {fault.why} ({tries} {'try' if tries == 1 else 'tries'})", fault.hint
        )

"""The reflection model: DSPy's instruction proposer with any model that litellm reaches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt.gepa.instruction_proposal import InstructionProposer
from dspy.utils.exceptions import AdapterParseError

from gepa_loop.config.search import ReflectionConfig
from gepa_loop.errors import CallFailed
from gepa_loop.lm.clients import usd_of
from gepa_loop.lm.faults import check_reply
from gepa_loop.lm.remote import LONGEST_REPLY, RemoteModel, reply_of
from gepa_loop.outside.redact import redacted
from gepa_loop.search.adapter import COMPONENT
from gepa_loop.search.propose.base import OFFLINE, Example, Proposal, Quote, without_kinds
from gepa_loop.search.propose.reply import instruction, kept, shown

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

    @property
    def parallel(self) -> int:
        return self.settings.parallel

    @property
    def remote(self) -> RemoteModel:
        return RemoteModel(self.model, self.settings, "optimize.reflection", OFFLINE, self.pause)

    def check(self) -> None:
        """Find out, before anything is spent, whether the model can be asked; raises as `RemoteModel.check` does."""
        self.remote.check()

    def quote(self, parent: str, examples: Sequence[Example]) -> Quote:
        """The dearest that `propose` of the same parent and examples may be."""
        proposer, remote = self._proposer(), self.remote
        inputs = {
            "additional_instructions": proposer.additional_instructions,
            "current_instruction": parent,
            "examples_with_feedback": without_kinds(examples),
        }
        messages = proposer.adapter.format(proposer.propose.signature, [], inputs)
        tokens, most = remote.count(messages), self.settings.max_tokens
        return Quote(tokens, most, remote.usd(tokens, most))

    def propose(
        self,
        parent: str,
        examples: Sequence[Example],
        number: int,
        known: Collection[str] = (),  # noqa: ARG002 (the model is not told what there is already)
    ) -> Proposal:
        """One call of DSPy's instruction proposer; an empty text when the reply holds no instruction.

        What DSPy cannot read is read by `reply.instruction`. A refusal, or a reply of over `LONGEST_REPLY` characters, is a
        failed proposal: it is paid.

        Raises:
            ProviderError: The key, the model or the request is refused.
            CallFailed: Every try failed in a way that may pass.
        """
        remote = self.remote
        remote.provider()
        lm = remote.lm()

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
            text = remote.call(where, ask)
        except CallFailed as error:
            raise CallFailed(str(error), error.hint, usd_of(lm)) from None
        # DSPy may ask twice; the last answer is the one it gave up on, or read.
        reply = reply_of(lm)
        refused = None if reply.ended in (None, "stop", "length") else reply.ended
        failed = None
        if refused:
            failed = f"it refused (finish_reason {refused}): {shown(reply.refusal or reply.text)}"
        elif len(reply.text) > LONGEST_REPLY:
            failed = f"it wrote {len(reply.text):,} characters, at most {LONGEST_REPLY:,} are read"
        text = "" if failed else redacted(instruction(reply.text) if text is None else text)
        return Proposal(
            text=text,
            usd=reply.usd,
            how=f"reflection by {self.model}" if text else f"{self.model} gave no instruction",
            cut=reply.ended == "length",
            failed=failed and f"{remote.named}, {where}: {failed}",
            reply=kept(reply.text),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
        )

    def _proposer(self) -> Any:
        # Three quarters of a word a token is usual for English; two thirds leaves room for other tokenizers.
        words = self.max_prompt_tokens * 2 // 3
        return InstructionProposer(
            additional_instructions=BREVITY.format(tokens=self.max_prompt_tokens, words=words)
        )

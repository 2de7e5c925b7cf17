"""Who writes more questions of a task's kind: the run's own model, or the reflection model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from gepa_loop.errors import TaskError
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.records import Item, Messages
from gepa_loop.writing.sieve import as_list, read_json, read_list, shown

if TYPE_CHECKING:
    from gepa_loop.lm.remote import RemoteModel

SHOWN = 12
"""Questions of `train` that the run's own model is shown in one list."""

ROWS = 32
"""Lists of one call of it."""

TRIES = 8
"""Most lists for each question that is asked for."""

PATIENCE = 4
"""Calls in a row that give nothing new, after which no more are made."""

EACH = 20
"""Questions that one call of the reflection model is asked for, and shown at most."""

LIST = "Write a list of questions, each one different from the others."
"""What is asked of a model that is then given the beginning of its reply."""

LETTER = """\
Below are instructions that an assistant follows, and examples of what its users send, one JSON string a line. Write {count} \
more of what such users could send: of the same kind, in the same language, form and length, different from the examples and from \
each other in what they are about, and as varied as real ones. Do not answer them. Reply with JSON strings alone, one a line.

<instructions>
{prompt}
</instructions>

<examples>
{examples}
</examples>"""


@dataclass(frozen=True)
class Reply:
    """What a writer wrote in one piece."""

    text: str
    ended: bool
    """By the writer; else it was cut at its token limit."""


@dataclass(frozen=True)
class Call:
    """One call of a writer, as it is kept in the run."""

    replies: tuple[Reply, ...]
    usd: float = 0.0
    failed: str = ""
    """Why there is no reply, which may cost something all the same."""


class Writer(Protocol):
    """Writes questions, call by call; `number` says which, from 0 on."""

    @property
    def name(self) -> str:
        """Whom rows name."""
        ...

    @property
    def calls(self) -> int:
        """Most that are made, but for those that fail."""
        ...

    def usd(self, number: int) -> float | None:
        """The dearest that call `number` may be; None where nobody knows its price."""
        ...

    def ask(self, number: int) -> Call:
        """Call `number`. What it shows, and what a sampler draws, depends on the run's seed and the number alone.

        Raises:
            ProviderError: The model cannot be asked.
            CallFailed: This call failed after all its retries.
        """
        ...

    def read(self, reply: Reply) -> list[str]:
        """The whole questions of a reply."""
        ...


@dataclass(frozen=True)
class OwnModel:
    """The run's model with the teacher's prompt, at temperature 1: its reply is begun for it as a list of questions of `train`,
    each row of a call with others, and it goes on.

    The prompt says what the questions are about. SmolLM2-135M for `desk`: half of their content words were those of `train` in .62 of
    48 questions, without the prompt in .34 of 50, and where 6 were shown instead of 12 in .39 and .21. For `router` it neither
    helped nor harmed.
    """

    rollouts: Rollouts
    prompt: str
    before: Messages
    """The turns before each question."""
    wanted: int
    lines: bool
    """Questions may have several lines."""

    name = "model"

    @property
    def calls(self) -> int:
        return math.ceil(TRIES * self.wanted / self.rows)

    @property
    def rows(self) -> int:
        """Lists of one call."""
        return min(ROWS, self.wanted)

    def usd(self, number: int) -> float:  # noqa: ARG002 (none costs anything)
        return 0.0

    def ask(self, number: int) -> Call:
        renderer, train = self.rollouts.renderer, self.rollouts.task.splits["train"]
        places = range(number * self.rows, (number + 1) * self.rows)
        seeds = [derive_seed(self.rollouts.seed, "questions", place) for place in places]
        lists = [as_list(shown(train, derive_seed(seed, "shown"), self.examples)) for seed in seeds]
        tails = renderer.tokenizer(lists, add_special_tokens=False)["input_ids"]
        prompts = [[*self._head, *tail] for tail in tails]
        found = self.rollouts.sampler.generate(prompts, self.sampling, seeds, None)
        ends = [one.finish_reason == "stop" for one in found]
        texts = [
            # With special tokens, so that a question that holds one can be told; without the one that ended it.
            renderer.tokenizer.decode(list(one.token_ids[:-1] if end else one.token_ids))
            for one, end in zip(found, ends, strict=True)
        ]
        return Call(tuple(map(Reply, texts, ends)))

    def read(self, reply: Reply) -> list[str]:
        return read_list(reply.text, self.examples + 1, lines=self.lines, ended=reply.ended)

    @cached_property
    def examples(self) -> int:
        """How many questions a list shows: `SHOWN`, or as many of the longest as the context holds.

        Raises:
            TaskError: It holds none.
        """
        renderer, longest = self.rollouts.renderer, self._lengths[0]
        room = renderer.context - len(self._head) - self.sampling.max_tokens
        # With a number, its dot and the line's end.
        count = sum(total <= room for total in accumulate(length + 8 for length in self._lengths[:SHOWN]))
        if not count:
            raise TaskError(
                f"distill.questions: the prompt, a question of {longest} tokens and another one do not fit the model's context of "
                f"{renderer.context}, so the model cannot write any",
                "Have them written by a model behind an API, distill.writer = 'reflection', or shorten the prompt.",
            )
        return count

    @cached_property
    def sampling(self) -> Sampling:
        """At temperature 1, up to two of the longest questions."""
        return Sampling(1.0, 2 * self._lengths[0] + 8)

    @cached_property
    def _lengths(self) -> list[int]:
        """Tokens of the questions of `train`, the longest first."""
        texts = [item.question for item in self.rollouts.task.splits["train"]]
        encoded = self.rollouts.renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return sorted(map(len, encoded), reverse=True)

    @cached_property
    def _head(self) -> list[int]:
        asked = Item("", (*self.before, ("user", LIST)), "", {})
        return self.rollouts.renderer.tokens(self.prompt, asked)


@dataclass(frozen=True)
class ReflectionModel:
    """A model behind an API, which is shown the prompt and questions of `train`."""

    remote: RemoteModel
    train: Sequence[Item]
    prompt: str
    wanted: int
    seed: int

    @property
    def name(self) -> str:
        return self.remote.model

    @property
    def calls(self) -> int:
        return PATIENCE * math.ceil(self.wanted / EACH)

    def usd(self, number: int) -> float | None:
        remote = self.remote
        return remote.usd(remote.count(self._messages(number)), remote.settings.max_tokens)

    def ask(self, number: int) -> Call:
        from gepa_loop.lm.remote import LONGEST_REPLY

        found = self.remote.ask(f"questions, call {number}", self._messages(number))
        text = found.text if len(found.text) <= LONGEST_REPLY else ""
        return Call((Reply(text, found.ended != "length"),), found.usd)

    def read(self, reply: Reply) -> list[str]:
        return read_json(reply.text)

    def _messages(self, number: int) -> list[dict[str, str]]:
        examples = shown(self.train, derive_seed(self.seed, "questions", number), EACH)
        letter = LETTER.format(
            count=min(EACH, self.wanted),
            prompt=self.prompt,
            examples="\n".join(json.dumps(one, ensure_ascii=False) for one in examples),
        )
        return [
            {"role": "system", "content": "You write test data."},
            {"role": "user", "content": letter},
        ]

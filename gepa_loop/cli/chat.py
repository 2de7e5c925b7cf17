"""The command that talks to a student."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import give, reader, run_head
from gepa_loop.cli.options import JsonOption, StudentArgument
from gepa_loop.errors import GepaLoopError
from gepa_loop.outside.redact import printable
from gepa_loop.show.loading import say_loading
from gepa_loop.show.names import named
from gepa_loop.show.terminal import Terminal, err

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gepa_loop.cli.records.read import ChatAnswer, ChatReplyAnswer
    from gepa_loop.sampling.base import Sampling
    from gepa_loop.serving.talk import Talker, Who

TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0, help="Of replies; 0 is greedy. Default: that at which the run was decided."
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest reply. Default: four times that of the run."),
]


def chat(
    run: StudentArgument,
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="Answer this and stop; without it, talk.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the bare and the prompted model's replies beside it.")
    ] = False,
    temperature: TemperatureOption = None,
    max_tokens: TokensOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of sampled replies. Default: another each time.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Talk to the student of a run, which needs no prompt."""
    say_loading(f"run {run}", err)
    from gepa_loop.serving.finished import read_finished
    from gepa_loop.serving.talk import open_talker
    from gepa_loop.signals import interruptible

    finished, person = read_finished(run), reader(json_file)
    sampling = finished.sampling(temperature, max_tokens)
    whole: tuple[Who, ...] = ("bare", "prompted", "student") if compare else ("student",)
    with interruptible(left="", hint=""):
        talk = _Talk(open_talker(finished), whole, sampling, seed, person)
        if question is not None:
            replies = talk.answer({who: [("user", question)] for who in whole})
        else:
            err.print(
                f"student of prompt {named(finished.prompt.id)} on {talk.talker.base.name}, without a prompt. "
                "/new begins a new chat, /quit ends.",
                highlight=False,
                style="dim",
            )
            replies = list(_conversation(talk))
    answer: ChatAnswer = {**run_head("chat", finished.path), "replies": replies}
    give(json_file, answer)


@dataclass(frozen=True)
class _Talk:
    """Who answers a person, and how."""

    talker: Talker
    whole: Sequence[Who]
    sampling: Sampling
    seed: int | None
    person: Terminal

    def answer(self, chats: dict[Who, list[tuple[str, str]]]) -> list[ChatReplyAnswer]:
        """Print the next reply of each, and add it to its chat."""
        drawn, most = secrets.randbits(62) if self.seed is None else self.seed, self.sampling.max_tokens
        replies: list[ChatReplyAnswer] = []
        for who in self.whole:
            (reply,) = self.talker.reply(who, [tuple(chats[who])], self.sampling, [drawn])
            replies.append(
                {
                    "who": who,
                    "question": chats[who][-1][1],
                    "text": reply.text,
                    "prompt_tokens": reply.prompt_tokens,
                    "tokens": reply.tokens,
                    "cut": reply.cut,
                }
            )
            chats[who].append(("assistant", reply.text))
            told = f"  [{reply.tokens} tokens of at most {most}, cut]" if reply.cut else ""
            several = len(self.whole) > 1
            name = Text(f"{who:<9} ", "bold") if several else Text("")
            cost = Text(f"  ({reply.prompt_tokens} tokens read)", "dim") if several else Text("")
            text = Text.assemble(name, printable(reply.text), cost, (told, "yellow"))
            self.person.print(text, highlight=False)
        return replies


def _conversation(talk: _Talk) -> Iterator[ChatReplyAnswer]:
    """Until the person ends it."""
    chats: dict[Who, list[tuple[str, str]]] = {who: [] for who in talk.whole}
    for line in _lines(talk.person):
        if line == "/quit":
            break
        if line == "/new":
            chats = {who: [] for who in talk.whole}
        elif line:
            before = {who: len(turns) for who, turns in chats.items()}
            for turns in chats.values():
                turns.append(("user", line))
            try:
                yield from talk.answer(chats)
                talk.person.print()
            except GepaLoopError as error:  # a chat that has become too long, say: the person can go on
                err.print(f"{error} {error.hint}", highlight=False)
                for who, turns in chats.items():
                    del turns[before[who] :]


def _lines(person: Terminal) -> Iterator[str]:
    """What a person types; what is piped is shown as if it were typed, so that the replies can be read."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            err.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        said = line.strip()
        if said and not asks:
            person.print(f"> {said}", highlight=False)
        yield said

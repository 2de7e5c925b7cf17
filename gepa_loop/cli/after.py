"""The commands for what a run has made: talk to its student, serve it."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import give, head, reader
from gepa_loop.cli.options import JsonOption, RunArgument
from gepa_loop.errors import ConfigError, GepaLoopError
from gepa_loop.outside.redact import printable
from gepa_loop.show.names import named
from gepa_loop.show.terminal import err, out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gepa_loop.cli.records import ExportedAnswer
    from gepa_loop.sampling.base import Sampling
    from gepa_loop.serving.finished import Finished
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
    run: RunArgument,
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
) -> None:
    """Talk to the student of a run, which needs no prompt."""
    from gepa_loop.serving.finished import read_finished
    from gepa_loop.serving.talk import open_talker
    from gepa_loop.signals import interruptible

    finished = read_finished(run)
    sampling = finished.sampling(temperature, max_tokens)
    whole: tuple[Who, ...] = ("bare", "prompted", "student") if compare else ("student",)
    with interruptible():
        talker = open_talker(finished)
        if question is not None:
            _answer(talker, whole, {who: [("user", question)] for who in whole}, sampling, seed)
            return
        err.print(
            f"student of prompt {named(finished.prompt.id)} on {talker.base.name}, without a prompt. /new begins a new chat, /quit ends.",
            highlight=False,
            style="dim",
        )
        _talk(talker, whole, sampling, seed)


def _talk(talker: Talker, whole: Sequence[Who], sampling: Sampling, seed: int | None) -> None:
    chats: dict[Who, list[tuple[str, str]]] = {who: [] for who in whole}
    for line in _lines():
        if line == "/quit":
            break
        if line == "/new":
            chats = {who: [] for who in whole}
        elif line:
            before = {who: len(turns) for who, turns in chats.items()}
            for turns in chats.values():
                turns.append(("user", line))
            try:
                _answer(talker, whole, chats, sampling, seed)
            except GepaLoopError as error:  # a chat that has become too long, say: the person can go on
                err.print(f"{error} {error.hint}", highlight=False)
                for who, turns in chats.items():
                    del turns[before[who] :]


def _lines() -> Iterator[str]:
    """What a person types, or what is piped."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            err.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()


def _answer(
    talker: Talker,
    whole: Sequence[Who],
    chats: dict[Who, list[tuple[str, str]]],
    sampling: Sampling,
    seed: int | None,
) -> None:
    """Print the next reply of each, and add it to its chat."""
    drawn = secrets.randbits(62) if seed is None else seed
    for who in whole:
        (reply,) = talker.reply(who, [tuple(chats[who])], sampling, [drawn])
        chats[who].append(("assistant", reply.text))
        told = f"  [{reply.tokens} tokens of at most {sampling.max_tokens}, cut]" if reply.cut else ""
        named = Text(f"{who:<9} ", "bold") if len(whole) > 1 else Text("")
        cost = Text(f"  ({reply.prompt_tokens} tokens read)", "dim") if len(whole) > 1 else Text("")
        out.print(Text.assemble(named, printable(reply.text), cost, (told, "yellow")), highlight=False)


def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is not there yet.")],
    merged: Annotated[bool, typer.Option("--merged", help="Write merged weights, too.")] = False,
    gguf: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf",
            metavar="TYPE",
            help="Write GGUF for llama.cpp: f32, f16, bf16, q8_0, or lora for the adapter alone. Several times.",
        ),
    ] = None,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="Write a Modelfile for the first GGUF file.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME",
            help="How the adapter names its base. Default: the run's model; a folder is copied.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank",
            min=1,
            help="Of the adapter; fewer than its own approximates it. Default: one that vLLM serves.",
        ),
    ] = None,
    to_hub: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="OWNER/NAME",
            help="Upload the folder to the Hugging Face hub, too: a private repository, which may be there. It holds the prompt and five questions of test.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write the student of a run for others: a PEFT adapter with tokenizer, card and check; each is loaded again and compared."""
    from gepa_loop.serving.export import Wanted
    from gepa_loop.serving.export import export as write
    from gepa_loop.serving.finished import questions_of, read_finished
    from gepa_loop.serving.talk import open_talker
    from gepa_loop.signals import interruptible

    finished, person = read_finished(run), reader(json_file)
    if to_hub is not None:
        person.print(f"pushing as {_pusher(finished, base, to_hub)}", highlight=False)
    chats, doubt = questions_of(finished)
    if doubt:
        person.print(Text.assemble(("warning:", "yellow"), " ", printable(doubt)), highlight=False)
    with interruptible():
        wanted = Wanted(to.expanduser().resolve(), merged, tuple(gguf or ()), ollama, base, rank)
        done = write(
            open_talker(finished), chats, wanted, lambda text: err.print(text, style="dim", highlight=False)
        )
    for line in done.said:
        person.print(line, highlight=False)
    person.print(
        f"wrote {to}: README.md is its card, check.py asks {len(chats[:5])} questions", highlight=False
    )
    if to_hub is not None:
        from gepa_loop.serving.push import push

        with interruptible():
            person.print(f"pushed to {push(to, to_hub)}, private", highlight=False)
    person.print("next, one of:", highlight=False)
    for line in done.commands:
        person.print(f"  {line}", highlight=False)
    answer: ExportedAnswer = {
        **head("export"),
        "run": finished.name,
        "to": str(wanted.to),
        "said": list(done.said),
        "commands": list(done.commands),
    }
    give(json_file, answer)


def _pusher(finished: Finished, base: str | None, repository: str) -> str:
    """Who would push; that, and whether others could use it, is found out before anything is made."""
    from gepa_loop.model.files import model_place
    from gepa_loop.serving.push import check_push

    name = finished.config.model.name
    if base is None and (name.startswith("random:") or Path(model_place(name)).is_dir()):
        raise ConfigError(
            f"--push {repository}: others cannot load its base, as {name} has no id on a hub",
            "--base OWNER/NAME says where the same weights lie.",
        )
    return check_push(repository)

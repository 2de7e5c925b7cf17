"""The command that writes a student for others."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import give, reader, run_head
from gepa_loop.cli.options import JsonOption, StudentArgument, warn
from gepa_loop.errors import ConfigError
from gepa_loop.show.loading import say_loading
from gepa_loop.show.terminal import err

if TYPE_CHECKING:
    from gepa_loop.cli.records.read import ExportedAnswer
    from gepa_loop.serving.finished import Finished


def export(
    run: StudentArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is not there yet.")],
    merged: Annotated[bool, typer.Option("--merged", help="Write merged weights, too.")] = False,
    gguf: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf",
            metavar="TYPE",
            help="Write GGUF for llama.cpp: f32, f16, bf16, q8_0, or lora for the adapter alone. Several times.",
            autocompletion=complete.gguf_types,
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
            help="Of the adapter; fewer than its own approximates it, and how well is told. Default: one that vLLM serves.",
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
    from gepa_loop.serving.card import doubt_of
    from gepa_loop.serving.export import export as write

    say_loading(f"run {run}", err)
    from gepa_loop.serving.finished import questions_of, read_finished
    from gepa_loop.serving.talk import open_talker
    from gepa_loop.serving.wanted import Wanted
    from gepa_loop.signals import interruptible

    finished, person = read_finished(run), reader(json_file)
    if to_hub is not None:
        person.print(f"pushing as {_pusher(finished, base, to_hub)}", highlight=False)
    chats, doubt = questions_of(finished)
    warn(filter(None, [doubt, doubt_of(finished)]), person)
    wanted = Wanted(to.expanduser().resolve(), merged, tuple(gguf or ()), ollama, base, rank)
    with interruptible("nothing was written. Begin anew with:"):
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

        again = shlex.join(["hf", "upload", to_hub, str(wanted.to)])
        with interruptible(
            f"{to} is written, and {to_hub} may hold a part of it. Push it with:", f"  {again}"
        ):
            person.print(f"pushed to {push(wanted.to, to_hub)}, private", highlight=False)
    person.print("next, one of:", highlight=False)
    for line in done.commands:
        person.print(f"  {line}", highlight=False)
    answer: ExportedAnswer = {
        **run_head("export", finished.path),
        "to": str(wanted.to),
        "said": list(done.said),
        "commands": list(done.commands),
    }
    give(json_file, answer)


def _pusher(finished: Finished, base: str | None, repository: str) -> str:
    """Who would push; that, and whether others could use it, is found out before anything is made."""
    from gepa_loop.model.files import model_place
    from gepa_loop.serving.places import is_place
    from gepa_loop.serving.push import check_push

    name = finished.config.model.name
    if base is None and (name.startswith("random:") or Path(model_place(name)).is_dir()):
        raise ConfigError(
            f"--push {repository}: others cannot load its base, as {name} has no id on a hub",
            "--base OWNER/NAME says where the same weights lie.",
        )
    if base is not None and (is_place(base) or Path(base).is_dir()):
        raise ConfigError(
            f"--push {repository}: others cannot load its base, as --base {base} is a folder of this machine",
            "--base OWNER/NAME says where the same weights lie.",
        )
    return check_push(repository)

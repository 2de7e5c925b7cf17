"""The command that says what others would take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gepa_loop.cli.answer import caller_of
from gepa_loop.cli.options import (
    ConfigOption,
    JsonOption,
    QuietOption,
    RoundsOption,
    SetOption,
    WorkersOption,
    say_next,
    with_setting,
)
from gepa_loop.command import DISTILL, LOOP, Flags, Inputs
from gepa_loop.session import open_session


def plan(
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", metavar="FILE", help="Plan this prompt's distillation; without it, a loop."),
    ] = None,
    rounds: RoundsOption = None,
    measure: Annotated[bool, typer.Option("--measure", help="Train for three steps and time them.")] = False,
    calls: Annotated[
        int | None,
        typer.Option("--calls", min=1, metavar="N", help="Calls a month; the same as --set cost.calls=N."),
    ] = None,
    gpu_usd_hour: Annotated[
        float | None,
        typer.Option(
            "--gpu-usd-hour",
            metavar="USD",
            help="What an hour of the GPU costs; the same as --set cost.gpu_usd_hour=USD.",
        ),
    ] = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print what a loop or a distillation may take: rollouts, tokens, minutes, memory, US dollars, and from which call on it pays."""
    from gepa_loop.task.prompts import read_prompt

    own = with_setting(with_setting(sets, "cost.calls", calls), "cost.gpu_usd_hour", gpu_usd_hour)
    own = with_setting(own, "cluster.workers", workers)
    if prompt is None:
        command, inputs = LOOP, Inputs()
        words = ["loop", *(() if rounds is None else ("--rounds", str(rounds)))]
        flags = Flags(config, with_setting(own, "loop.rounds", rounds), dry_run=True, measure=measure)
    else:
        command, inputs = DISTILL, Inputs({str(prompt): read_prompt(prompt)})
        words = ["distill", "--prompt", str(prompt)]
        flags = Flags(config, own, dry_run=True, measure=measure)
    caller = caller_of(json_file, quiet, "plan")
    try:
        with open_session(command, flags, inputs, caller):
            pass
    except typer.Exit:
        say_next(*words, config=config, sets=own, to=caller.facts)
        raise

"""The commands that make a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gepa_loop.cli.options import (
    ConfigOption,
    DryOption,
    FreshOption,
    NameOption,
    RaceOption,
    RoundsOption,
    SetOption,
    Switch,
    say_next,
    with_setting,
)
from gepa_loop.command import LOOP, Flags
from gepa_loop.errors import ConfigError, NoGain
from gepa_loop.program import tell, work
from gepa_loop.session import open_session, shown
from gepa_loop.show.caller import PERSON
from gepa_loop.show.terminal import out


def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    from gepa_loop.show.searches import pick, read_search

    flags = Flags(config, sets or (), run_name, dry_run, fresh)
    outcome = work.optimize(flags, None, PERSON)
    tell.tell_optimized(outcome, out)
    found = pick(read_search(str(outcome.path)), "best")
    best = shown(outcome.path / "optimize" / "prompts" / f"{found['id']}.txt")
    say_next("distill", "--prompt", best, config=config, sets=sets)


def distill(
    prompt: Annotated[Path, typer.Option("--prompt", metavar="FILE", help="The teacher's prompt.")],
    questions: Annotated[
        int | None,
        typer.Option(
            "--questions",
            min=0,
            metavar="N",
            help="Write N more questions like those of train; the same as --set distill.questions=N.",
        ),
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Distill one prompt into a LoRA adapter."""
    from gepa_loop.task.prompts import read_prompt

    flags = Flags(config, with_setting(sets, "distill.questions", questions), run_name, dry_run, fresh)
    outcome = work.distill(flags, read_prompt(prompt), str(prompt), None, PERSON)
    tell.tell_distilled(outcome, out)
    say_next("chat", outcome.path.name, "--compare")


def evaluate(
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="A prompt; without it, none.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="A student; without it, the base.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, pareto, race, select or test.")] = "select",
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="[FILE]:[DIR]",
            help="A second pair of prompt and adapter, either left empty; ':' is the bare base.",
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="Exit with 5 where it holds, as 'student < prompted - 0.03'; names: bare, prompted, student, student_prompted. Several times.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result there, too.")
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the conditions as JUnit's XML.")
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Score a prompt and an adapter on a split, alone or paired against a second pair."""
    from gepa_loop.scores.conditions import read_conditions
    from gepa_loop.show.pipelines import tell_pipeline
    from gepa_loop.stages.score import Subject, check_split, subject

    check_split(split, "--split")
    subjects: list[Subject] = [subject(prompt, adapter)]
    if against is not None:
        file, colon, folder = against.partition(":")
        if not colon:
            raise ConfigError(
                f"--against {against}: not of the form [FILE]:[DIR]", "Example: --against prompts/prog2.txt:"
            )
        subjects.append(subject(Path(file) if file else None, Path(folder) if folder else None))
    conditions = read_conditions(fail_if or (), [one.role for one in subjects])
    flags = Flags(config, sets or (), run_name, dry_run, fresh)
    outcome = work.evaluate(flags, subjects, split, None, PERSON)
    labels = [one.label for one in subjects]
    tell.tell_evaluated(outcome, labels, out)
    result = outcome.result
    means = {one.role: card["mean"] for one, card in zip(subjects, result["subjects"], strict=True)}
    tell_pipeline(result, labels, conditions, means, json_file, junit_file)


def loop(
    rounds: RoundsOption = None,
    race: RaceOption = None,
    require_gain: Annotated[
        bool,
        typer.Option("--require-gain", help="Exit with 5 when no student is significantly better on test."),
    ] = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Search prompts, distill each, keep the best student, and go on from it."""
    sets = with_setting(sets, "race.on", None if race is None else str(race is Switch.ON).lower())
    flags = Flags(config, with_setting(sets, "loop.rounds", rounds), run_name, dry_run, fresh)
    outcome = work.loop(flags, None, PERSON)
    tell.tell_looped(outcome, out)
    if outcome.result["adapter"] is not None:
        say_next("chat", outcome.path.name, "--compare")
    else:
        say_next("prompts", "list", outcome.path.name)
    if require_gain and outcome.missing is not None:
        raise NoGain(f"no significant gain: {outcome.missing}", "The run is complete; see its result.json.")


def sweep(
    prompt: Annotated[Path, typer.Option("--prompt", metavar="FILE", help="The teacher's prompt.")],
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="GRID", help="A grid's name, or a TOML file with one.")
    ] = None,
    line: Annotated[
        str | None,
        typer.Option(
            "--grid",
            metavar="LINE",
            help="A grid in a line: 'distill.lr=1e-5,5e-5 x objective.type=full_kl,token_kl'.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds of each cell, from the config's on.")
    ] = 1,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Distill one prompt under every cell of a grid and compare the students with the baseline's."""
    from gepa_loop.config.grids import load_grid, parse_grid
    from gepa_loop.task.prompts import read_prompt

    if (preset is None) == (line is None):
        raise ConfigError(
            "a sweep needs --preset or --grid, and not both", "`gepa-loop config presets` lists grids."
        )
    grid = load_grid(preset) if preset else parse_grid(line or "")
    flags = Flags(config, sets or (), run_name, dry_run, fresh)
    outcome = work.sweep(flags, grid, read_prompt(prompt), str(prompt), seeds, PERSON)
    tell.tell_swept(outcome, out)


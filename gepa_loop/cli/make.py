"""The commands that make a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import caller_of, give, looks_of, run_head
from gepa_loop.cli.options import (
    ConfigOption,
    DryOption,
    FreshOption,
    JsonOption,
    NameOption,
    QuietOption,
    RaceOption,
    RoundsOption,
    SetOption,
    Switch,
    TrackOption,
    WorkersOption,
    say_next,
    with_setting,
)
from gepa_loop.command import Flags
from gepa_loop.errors import ConfigError, NoGain
from gepa_loop.program import tell, work
from gepa_loop.session import shown

if TYPE_CHECKING:
    from gepa_loop.cli.records.made import DistilledAnswer, EvaluatedAnswer, LoopedAnswer, OptimizedAnswer


def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    workers: WorkersOption = None,
    track: TrackOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    from gepa_loop.show.searches import pick, read_search

    sets = with_setting(sets, "cluster.workers", workers)
    flags = Flags(config, with_setting(sets, "track.kind", track), run_name, dry_run, fresh)
    caller = caller_of(json_file, quiet)
    outcome = work.optimize(flags, None, caller)
    tell.tell_optimized(outcome, caller.results)
    search = read_search(str(outcome.path))
    best = f"optimize/prompts/{pick(search, 'best')['id']}.txt"
    say_next("distill", "--prompt", shown(outcome.path / best), config=config, sets=sets, to=caller.facts)
    answer: OptimizedAnswer = {
        **run_head("optimize", outcome.path),
        "prompt": best,
        "front": list(search.front),
        "result": outcome.result,
    }
    give(json_file, answer)


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
    workers: WorkersOption = None,
    track: TrackOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Distill one prompt into a LoRA adapter."""
    from gepa_loop.task.prompts import read_prompt

    sets = with_setting(sets, "distill.questions", questions)
    sets = with_setting(sets, "cluster.workers", workers)
    flags = Flags(config, with_setting(sets, "track.kind", track), run_name, dry_run, fresh)
    caller = caller_of(json_file, quiet)
    outcome = work.distill(flags, read_prompt(prompt), str(prompt), None, caller)
    tell.tell_distilled(outcome, caller.results)
    say_next("chat", outcome.path.name, "--compare", to=caller.facts)
    answer: DistilledAnswer = {
        **run_head("distill", outcome.path),
        "adapter": str(outcome.adapter.relative_to(outcome.path)),
        "looks": looks_of(outcome.path),
        "result": outcome.result,
    }
    give(json_file, answer)


def evaluate(
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="A prompt; without it, none.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="DIR_OR_RUN",
            help="An adapter, or a run with a student; without it, the base.",
            autocompletion=complete.students,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option("--split", help="train, pareto, race, select or test.", autocompletion=complete.splits),
    ] = "select",
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="[FILE]:[DIR_OR_RUN]",
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
    json_file: JsonOption = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the conditions as JUnit's XML.")
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    workers: WorkersOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a prompt and an adapter on a split, alone or paired against a second pair."""
    from gepa_loop.scores.conditions import read_conditions
    from gepa_loop.serving.finished import student_at
    from gepa_loop.show.pipelines import tell_pipeline
    from gepa_loop.stages.score import Subject, check_split, subject

    check_split(split, "--split")
    subjects: list[Subject] = [subject(prompt, student_at(adapter) if adapter else None)]
    if against is not None:
        file, colon, folder = against.partition(":")
        if not colon:
            raise ConfigError(
                f"--against {against}: not of the form [FILE]:[DIR_OR_RUN]",
                "Example: --against prompts/prog2.txt:",
            )
        subjects.append(subject(Path(file) if file else None, student_at(folder) if folder else None))
    conditions = read_conditions(fail_if or (), [one.role for one in subjects])
    flags = Flags(config, with_setting(sets, "cluster.workers", workers), run_name, dry_run, fresh)
    caller = caller_of(json_file, quiet)
    outcome = work.evaluate(flags, subjects, split, None, caller)
    labels = [one.label for one in subjects]
    tell.tell_evaluated(outcome, labels, caller.results)
    if prompt is not None and adapter is None:
        say_next("distill", "--prompt", str(prompt), config=config, sets=sets, to=caller.facts)
    else:
        say_next("runs", to=caller.facts)
    result = outcome.result
    means = {one.role: card["mean"] for one, card in zip(subjects, result["subjects"], strict=True)}
    answer: EvaluatedAnswer = {
        **run_head("evaluate", outcome.path),
        **result,
        "means": means,
        "conditions": [{"condition": one.text, "holds": one.holds(means)} for one in conditions],
    }
    give(json_file, answer)
    for one in conditions:
        caller.results.print(one.told(means), highlight=False)
    tell_pipeline(result, labels, conditions, means, junit_file)


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
    workers: WorkersOption = None,
    track: TrackOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Search prompts, distill each, keep the best student, and go on from it."""
    from gepa_loop.scores.outcome import best_student

    sets = with_setting(sets, "race.on", None if race is None else str(race is Switch.ON).lower())
    sets = with_setting(sets, "cluster.workers", workers)
    sets = with_setting(sets, "track.kind", track)
    flags = Flags(config, with_setting(sets, "loop.rounds", rounds), run_name, dry_run, fresh)
    caller = caller_of(json_file, quiet)
    outcome = work.loop(flags, None, caller)
    tell.tell_looped(outcome, caller.results)
    if outcome.result["adapter"] is not None:
        say_next("chat", outcome.path.name, "--compare", to=caller.facts)
    elif best_student(outcome.result["rounds"]) is not None:
        prompt = shown(outcome.path / outcome.result["prompt"])
        say_next("distill", "--prompt", prompt, config=config, sets=sets, to=caller.facts)
    else:
        say_next("prompts", "list", outcome.path.name, to=caller.facts)
    answer: LoopedAnswer = {
        **run_head("loop", outcome.path),
        "missing_gain": outcome.missing,
        "looks": looks_of(outcome.path),
        "result": outcome.result,
    }
    give(json_file, answer)
    if require_gain and outcome.missing is not None:
        raise NoGain(f"no significant gain: {outcome.missing}", "The run is complete; see its result.json.")

"""The commands that make a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from gepa_loop.command import DISTILL, EVALUATE, LOOP, OPTIMIZE, SWEEP, Flags, Inputs
from gepa_loop.errors import ConfigError, NoGain
from gepa_loop.session import open_session, shown
from gepa_loop.show.terminal import out

if TYPE_CHECKING:
    from gepa_loop.lab import Lab


def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    with open_session(OPTIMIZE, Flags(config, sets or (), run_name, dry_run, fresh)) as opened:
        from gepa_loop.lab import seed_prompt
        from gepa_loop.show.browse import print_front
        from gepa_loop.show.searches import pick, read_search
        from gepa_loop.stages.search import Purpose, search

        lab, run, view = opened
        search(lab, seed_prompt(lab.config.optimize), run.path / "optimize", view, Purpose("prompt"))
    out.print()
    print_front(read_search(str(run.path)), out)
    out.print(f"prompts: {shown(run.path / 'optimize' / 'prompts')}", highlight=False)
    found = read_search(str(run.path))
    best = shown(run.path / "optimize" / "prompts" / f"{pick(found, 'best')['id']}.txt")
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

    candidate, sets = read_prompt(prompt), with_setting(sets, "distill.questions", questions)
    flags = Flags(config, sets, run_name, dry_run, fresh)
    with open_session(DISTILL, flags, Inputs({str(prompt): candidate})) as opened:
        from gepa_loop.scores.ledger import read_looks
        from gepa_loop.show.report.write import write_report
        from gepa_loop.stages.costs import Replies, write_costs
        from gepa_loop.stages.distillation import distill_alone
        from gepa_loop.stages.questions import with_questions
        from gepa_loop.stages.references import with_references
        from gepa_loop.stages.retention import measure

        lab, run, view = opened
        lab = with_questions(lab, candidate, run, view)
        lab = with_references(lab, candidate, run, view)
        done = distill_alone(lab, candidate, run, view)
        result = measure(lab, candidate, done.adapter, run, view)
        cards = result[result["decides"]]
        replies = Replies(cards["prompted"]["tokens"], cards["student"]["tokens"])
        costs = write_costs(lab, candidate, replies, run, view)
        report = write_report(run.path)
    from gepa_loop.scores.numbers import decimal
    from gepa_loop.show.costs import costs_lines
    from gepa_loop.show.tables import reply_lines, retention_lines, retention_table

    out.print()
    out.print(retention_table(result))
    for line in (*retention_lines(result), read_looks(run.path) or "", *reply_lines(result)):
        out.print(str(line), highlight=False, markup=False)
    kept = done.kept
    later = f", {decimal(done.last)} at step {done.last_step}" if done.last_step != kept.step else ""
    judged = "held-out score" if lab.task.answers == "given" else "held-out exp(-KL(student || prompted))"
    if done.kl is not None:
        out.print(f"KL(student || teacher) on held-out replies: {done.kl:.3f} nats a token", highlight=False)
    out.print(
        f"{judged} without a prompt, of the items that chose the step: {decimal(done.before)} before, "
        f"{decimal(kept.score)} at step {kept.step} (kept: {kept.reason}){later}\nadapter: {shown(run.path / 'distill' / candidate.id / 'adapter')}",
        highlight=False,
    )
    for line in costs_lines(costs):
        out.print(line, highlight=False)
    out.print(f"report:  {shown(report)}", highlight=False)
    say_next("chat", run.name, "--compare")


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
    from gepa_loop.stages.score import Subject, compare, subject
    from gepa_loop.task.items import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split {split}: no such split", f"There are {', '.join(SPLITS)}.")
    subjects: list[Subject] = [subject(prompt, adapter)]
    folders = [adapter]
    if against is not None:
        file, colon, folder = against.partition(":")
        if not colon:
            raise ConfigError(
                f"--against {against}: not of the form [FILE]:[DIR]", "Example: --against prompts/prog2.txt:"
            )
        subjects.append(subject(Path(file) if file else None, Path(folder) if folder else None))
        folders.append(Path(folder) if folder else None)
    conditions = read_conditions(fail_if or (), [one.role for one in subjects])
    adapters = {str(f): s.adapter for f, s in zip(folders, subjects, strict=True) if s.adapter is not None}
    prompts = {s.label: s.candidate for s in subjects if s.candidate is not None}
    more = {"split": split, "subjects": " against ".join(s.id for s in subjects)}
    flags = Flags(config, sets or (), run_name, dry_run, fresh)
    with open_session(EVALUATE, flags, Inputs(prompts, adapters, more)) as opened:
        from gepa_loop.scores.ledger import read_looks

        lab, run, view = opened
        result = compare(lab, subjects, split, run, view)
    from gepa_loop.show.tables import compare_table

    out.print()
    out.print(compare_table(result, [one.label for one in subjects]))
    if (looks := read_looks(run.path)) is not None:
        out.print(str(looks), highlight=False)
    means = {one.role: card["mean"] for one, card in zip(subjects, result["subjects"], strict=True)}
    tell_pipeline(result, [one.label for one in subjects], conditions, means, json_file, junit_file)


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
    with open_session(LOOP, flags) as opened:
        from gepa_loop.lab import seed_prompt
        from gepa_loop.loop import run_loop
        from gepa_loop.scores.ledger import read_looks
        from gepa_loop.scores.outcome import missing_gain
        from gepa_loop.show.report.write import write_report
        from gepa_loop.stages.costs import Replies, write_costs
        from gepa_loop.task.prompts import read_prompt

        lab, run, view = opened
        result = run_loop(lab, seed_prompt(lab.config.optimize), run, view)
        prompt, tokens = read_prompt(run.path / result["prompt"]), result["tokens"]
        replies = Replies(tokens["prompted"], tokens["student"]) if "student" in tokens else None
        costs = write_costs(lab, prompt, replies, run, view)
        report = write_report(run.path)
    from gepa_loop.show.costs import costs_lines
    from gepa_loop.show.tables import result_table, round_lines

    out.print()
    out.print(result_table(result))
    for line in (*round_lines(result), read_looks(run.path) or "", *costs_lines(costs)):
        out.print(str(line), highlight=False)
    out.print(f"prompt:  {shown(run.path / result['prompt'])}", highlight=False)
    if result["adapter"] is not None:
        out.print(f"adapter: {shown(run.path / result['adapter'])}", highlight=False)
    out.print(f"report:  {shown(report)}", highlight=False)
    if result["adapter"] is not None:
        say_next("chat", run.name, "--compare")
    else:
        say_next("prompts", "list", run.name)
    why = missing_gain(lab.config.loop.alpha, result)
    if require_gain and why is not None:
        raise NoGain(f"no significant gain: {why}", "The run is complete; see its result.json.")


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
    from gepa_loop.config.grids import cell_configs, grid_source, load_grid, parse_grid
    from gepa_loop.sweep import check_cells, run_sweep
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    if (preset is None) == (line is None):
        raise ConfigError(
            "a sweep needs --preset or --grid, and not both", "`gepa-loop config presets` lists grids."
        )
    grid, candidate = load_grid(preset) if preset else parse_grid(line or ""), read_prompt(prompt)
    configs = {cell: settle(one) for cell, one in cell_configs(grid, config, sets or (), seeds).items()}
    more = {"seeds": str(seeds), "baseline": grid.baseline}
    more |= {f"cells.{name}": " ".join(own) for name, own in grid.cells.items()}

    def check(lab: Lab) -> None:
        check_cells(lab, grid, configs, candidate, str(prompt))

    facts = [f"cell {name}, seed {seed}: {' '.join(grid.cells[name])}" for name, seed in configs]
    inputs = Inputs({str(prompt): candidate}, more=more, check=check, facts=facts)
    flags = Flags(grid_source(grid, config), sets or (), run_name, dry_run, fresh)
    with open_session(SWEEP, flags, inputs) as opened:
        lab, run, view = opened
        result = run_sweep(lab, grid, configs, candidate, run, view)
    from gepa_loop.show.tables import sweep_table

    out.print()
    out.print(sweep_table(result))
    out.print(f"rows and adapters: {shown(run.path)}", highlight=False)

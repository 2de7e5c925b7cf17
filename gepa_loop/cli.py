"""The command line: parse, load the config, call one function, map errors to exit codes."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop import __version__
from gepa_loop.errors import ConfigError, EnvironmentFault, GepaLoopError, Interrupted, NoGain, memory_fault
from gepa_loop.session import open_session, shown
from gepa_loop.show.terminal import accept_any_text, err, open_streams, out, stream_fault
from gepa_loop.signals import end_at_once

if TYPE_CHECKING:
    from gepa_loop.lab import Lab

app = typer.Typer(
    name="gepa-loop",
    help="Find the prompt whose distilled student is best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
config_app = typer.Typer(no_args_is_help=True, help="Show presets and resolved configurations.")
app.add_typer(config_app, name="config")
prompts_app = typer.Typer(no_args_is_help=True, help="Read the prompts of a search, done or still running.")
app.add_typer(prompts_app, name="prompts")

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE_OR_PRESET",
        help="A TOML file or a preset. Default: ./gepa-loop.toml, else demo.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Set one value; any number of times. `config show` lists the keys.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--run-name", help="Folder below runs/. Default: made from the command and the config."),
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", min=1, help="Rounds; the same as --set loop.rounds=N.")
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name below runs/, or the path of its folder.")
]
RoundOption = Annotated[
    int | None, typer.Option("--round", min=0, help="A loop's round. Default: the last with a search.")
]
ID_HELP = "The beginning of a candidate's id, or 'seed', or 'best'."


def main() -> None:
    """Run the command of this process."""
    end_at_once()
    open_streams()
    accept_any_text()
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; the only place that catches what a user can cause."""
    try:
        return _run(argv)
    except GepaLoopError as error:
        told = error
    except (MemoryError, RuntimeError) as error:
        if (fault := memory_fault(error)) is None:
            raise
        told = fault
    with suppress(OSError):  # standard error may be full, too
        _tell(told)
    return told.exit_code


def _tell(error: GepaLoopError) -> None:
    if not isinstance(error, Interrupted):
        err.print("error", style="bold red", end="")
        err.print(": ", end="")
    err.print(str(error), highlight=False)
    if error.hint:
        err.print(error.hint, highlight=False, style="dim")


def _run(argv: list[str]) -> int:
    try:
        try:
            app(argv)
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        return stream_fault(error)
    return 0


def _version(value: bool) -> None:
    if value:
        out.print(f"gepa-loop {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise EnvironmentFault("the working directory was deleted", "Change to one that exists.") from None


@app.command()
def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    with open_session("optimize", config, sets, run_name, dry_run, fresh) as opened:
        if opened is None:
            return
        from gepa_loop.lab import seed_prompt
        from gepa_loop.show.browse import print_front
        from gepa_loop.show.searches import read_search
        from gepa_loop.stages.search import search

        lab, run, view = opened
        search(lab, seed_prompt(lab.config), run.path / "optimize", view, number=0, stack=None)
    out.print()
    print_front(read_search(str(run.path)), out)
    out.print(f"prompts: {shown(run.path / 'optimize' / 'prompts')}", highlight=False)


@app.command()
def plan(
    rounds: RoundsOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Print what a loop may take: rollouts, tokens, proposals, US dollars and minutes."""
    with open_session("loop", config, _with(sets, "loop.rounds", rounds), None, True, False):
        pass


@app.command()
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
    """Distil one prompt into a LoRA adapter."""
    from gepa_loop.task.prompts import read_prompt

    teacher, sets = read_prompt(prompt), _with(sets, "distill.questions", questions)
    with open_session("distill", config, sets, run_name, dry_run, fresh, {str(prompt): teacher}) as opened:
        if opened is None:
            return
        from gepa_loop.scores.ledger import read_looks
        from gepa_loop.stages.distillation import distil_alone
        from gepa_loop.stages.questions import with_questions
        from gepa_loop.stages.references import with_references
        from gepa_loop.stages.retention import measure

        lab, run, view = opened
        lab = with_questions(lab, teacher, run, view)
        lab = with_references(lab, teacher, run, view)
        done = distil_alone(lab, teacher, run, view)
        result = measure(lab, teacher, done.adapter, run, view)
    from gepa_loop.scores.numbers import decimal
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
        f"{decimal(kept.score)} at step {kept.step} (kept: {kept.reason}){later}\nadapter: {shown(run.path / 'distill' / teacher.id / 'adapter')}",
        highlight=False,
    )


@app.command()
def evaluate(
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="A prompt; without it, none.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="A student; without it, the base.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, pareto, select or test.")] = "select",
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="[FILE]:[DIR]",
            help="A second pair of prompt and adapter, either left empty; ':' is the bare base.",
        ),
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Score a prompt and an adapter on a split, alone or paired against a second pair."""
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
    adapters = {str(f): s.adapter for f, s in zip(folders, subjects, strict=True) if s.adapter is not None}
    prompts = {s.label: s.candidate for s in subjects if s.candidate is not None}
    more = {"split": split, "subjects": " against ".join(s.id for s in subjects)}
    with open_session(
        "evaluate", config, sets, run_name, dry_run, fresh, prompts, more, adapters=adapters
    ) as opened:
        if opened is None:
            return
        from gepa_loop.scores.ledger import read_looks

        lab, run, view = opened
        result = compare(lab, subjects, split, run, view)
    from gepa_loop.show.tables import compare_table

    out.print()
    out.print(compare_table(result, [one.label for one in subjects]))
    if (looks := read_looks(run.path)) is not None:
        out.print(str(looks), highlight=False)


@app.command()
def loop(
    rounds: RoundsOption = None,
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
    """Search prompts, distil each, keep the best student, and go on from it."""
    with open_session("loop", config, _with(sets, "loop.rounds", rounds), run_name, dry_run, fresh) as opened:
        if opened is None:
            return
        from gepa_loop.lab import seed_prompt
        from gepa_loop.loop import run_loop
        from gepa_loop.scores.ledger import read_looks
        from gepa_loop.scores.outcome import missing_gain
        from gepa_loop.show.report import write_report

        lab, run, view = opened
        result = run_loop(lab, seed_prompt(lab.config), run, view)
        report = write_report(run.path)
    from gepa_loop.show.tables import result_table, round_lines

    out.print()
    out.print(result_table(result))
    for line in (*round_lines(result), read_looks(run.path) or ""):
        out.print(str(line), highlight=False)
    out.print(f"prompt:  {shown(run.path / result['prompt'])}", highlight=False)
    if result["adapter"] is not None:
        out.print(f"adapter: {shown(run.path / result['adapter'])}", highlight=False)
    out.print(f"report:  {shown(report)}", highlight=False)
    why = missing_gain(lab.config, result)
    if require_gain and why is not None:
        raise NoGain(f"no significant gain: {why}", "The run is complete; see its result.json.")


@app.command()
def sweep(
    preset: Annotated[
        str, typer.Option("--preset", metavar="GRID", help="A grid's name, or a TOML file with one.")
    ],
    prompt: Annotated[Path, typer.Option("--prompt", metavar="FILE", help="The teacher's prompt.")],
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds of each cell, from the config's on.")
    ] = 1,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Distil one prompt under every cell of a grid and compare the students with the baseline's."""
    from gepa_loop.sweep import cell_configs, check_cells, grid_source, load_grid, run_sweep
    from gepa_loop.task.prompts import read_prompt

    grid, teacher = load_grid(preset), read_prompt(prompt)
    configs = cell_configs(grid, config, sets or (), seeds)
    more = {"seeds": str(seeds), "baseline": grid.baseline}
    more |= {f"cells.{name}": " ".join(own) for name, own in grid.cells.items()}

    def check(lab: Lab) -> None:
        check_cells(lab, grid, configs, teacher, str(prompt))

    source = grid_source(grid, config)
    prompts = {str(prompt): teacher}
    with open_session("sweep", source, sets, run_name, dry_run, fresh, prompts, more, check) as opened:
        if opened is None:
            for name, seed in configs:
                out.print(f"cell {name}, seed {seed}: {' '.join(grid.cells[name])}", highlight=False)
            return
        lab, run, view = opened
        result = run_sweep(lab, grid, configs, teacher, run, view)
    from gepa_loop.show.tables import sweep_table

    out.print()
    out.print(sweep_table(result))
    out.print(f"rows and adapters: {shown(run.path)}", highlight=False)


@config_app.command("show")
def config_show(config: ConfigOption = None, sets: SetOption = None) -> None:
    """Print the resolved configuration as JSON."""
    from gepa_loop.config.load import load_config

    print(load_config(config, sets or ()).model_dump_json(indent=2))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets and the sweep's grids that come with the program."""
    from gepa_loop.config.load import presets
    from gepa_loop.sweep import grids

    for title, found in (("presets (--config)", presets()), ("grids (sweep --preset)", grids())):
        out.print(title, highlight=False, style="underline")
        for name, about in found.items():
            out.print(Text.assemble((name, "bold"), "  ", about), highlight=False)


@prompts_app.command("list")
def prompts_list(
    name: RunArgument,
    number: RoundOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every proposal, with why it was not accepted.")
    ] = False,
) -> None:
    """List the front of a search, best first."""
    from gepa_loop.show.browse import print_all, print_front
    from gepa_loop.show.searches import read_search

    (print_all if everything else print_front)(read_search(name, number), out)


@prompts_app.command("show")
def prompts_show(
    name: RunArgument,
    candidate: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
    number: RoundOption = None,
    text: Annotated[bool, typer.Option("--text", help="Print the text alone.")] = False,
) -> None:
    """Show one prompt: where it came from, its scores and costs, its text."""
    from gepa_loop.show.browse import print_candidate
    from gepa_loop.show.searches import pick, read_search

    search = read_search(name, number)
    chosen = pick(search, candidate)
    if text:
        typer.echo(chosen.text.encode())
    else:
        print_candidate(search, chosen, out)


@prompts_app.command("diff")
def prompts_diff(
    name: RunArgument,
    old: Annotated[str, typer.Argument(metavar="A", help=ID_HELP)],
    new: Annotated[str, typer.Argument(metavar="B", help=ID_HELP)],
    number: RoundOption = None,
) -> None:
    """Show what changed from one prompt to another."""
    from gepa_loop.show.browse import print_comparison
    from gepa_loop.show.searches import pick, read_search

    search = read_search(name, number)
    print_comparison(pick(search, old), pick(search, new), out)


def _with(sets: list[str] | None, key: str, value: int | None) -> list[str]:
    """Settings with a flag's value after them, where it is given."""
    return [*(sets or []), *([] if value is None else [f"{key}={value}"])]

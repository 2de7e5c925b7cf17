"""The command line: parse, load the config, call one function, map errors to exit codes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gepa_loop import __version__
from gepa_loop.errors import ConfigError, GepaLoopError, Interrupted, NoGain

if TYPE_CHECKING:
    from gepa_loop.lab import Lab
    from gepa_loop.prompts import Candidate
    from gepa_loop.runs import Run
    from gepa_loop.view import View

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

# Item ids hold `:train:`, which rich would print as an emoji.
out = Console(soft_wrap=True, emoji=False)
err = Console(stderr=True, soft_wrap=True, emoji=False)

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
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]


def main() -> None:
    """Entry point of the `gepa-loop` script."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; the only place that catches what a user can cause."""
    try:
        app(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except GepaLoopError as error:
        err.print("[bold red]error[/]: " if error.exit_code != Interrupted.exit_code else "", end="")
        err.print(str(error), markup=False, highlight=False)
        if error.hint:
            err.print(error.hint, markup=False, highlight=False, style="dim")
        return error.exit_code
    return 0


def _version(value: bool) -> None:
    if value:
        out.print(f"gepa-loop {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    with _open("optimize", config, sets, run_name, dry_run, fresh) as opened:
        if opened is None:
            return
        from gepa_loop.stages import search

        lab, seed_prompt, run, view = opened
        front = search(lab, seed_prompt, run.path / "optimize", view, number=0, stack=None)
    out.print(f"{front.rollouts} rollouts, stopped by {front.stopped_by}", highlight=False)
    for candidate, mean in zip(front.candidates, front.means, strict=True):
        path = run.path / "optimize" / "prompts" / f"{candidate.id}.txt"
        out.print(f"{candidate.id}  {mean:.3f} on pareto  {_shown(path)}", highlight=False)


@app.command()
def distill(
    prompt: Annotated[Path, typer.Option("--prompt", metavar="FILE", help="The teacher's prompt.")],
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Distil one prompt into a LoRA adapter."""
    from gepa_loop.prompts import read_prompt

    teacher = read_prompt(prompt)
    with _open("distill", config, sets, run_name, dry_run, fresh, {str(prompt): teacher}) as opened:
        if opened is None:
            return
        from gepa_loop.stages import distil_alone

        lab, _, run, view = opened
        done = distil_alone(lab, teacher, run, view)
    from gepa_loop.view import score

    later = f", {score(done.last.score)} at step {done.last.step}" if done.last != done.best else ""
    out.print(
        f"held-out score without a prompt: {score(done.before)} before, {score(done.best.score)} at step "
        f"{done.best.step} (kept){later}\nadapter: {_shown(run.path / 'distill' / teacher.id / 'adapter')}",
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
    from gepa_loop.stages import Subject, compare, subject
    from gepa_loop.task import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split {split}: no such split", f"There are {', '.join(SPLITS)}.")
    subjects: list[Subject] = [subject(prompt, adapter)]
    if against is not None:
        file, colon, folder = against.partition(":")
        if not colon:
            raise ConfigError(
                f"--against {against}: not of the form [FILE]:[DIR]", "Example: --against prompts/prog2.txt:"
            )
        subjects.append(subject(Path(file) if file else None, Path(folder) if folder else None))
    prompts = {s.label: s.candidate for s in subjects if s.candidate is not None}
    more = {"split": split, "subjects": " against ".join(s.id for s in subjects)}
    with _open("evaluate", config, sets, run_name, dry_run, fresh, prompts, more) as opened:
        if opened is None:
            return
        from gepa_loop.view import estimate_text

        lab, _, run, view = opened
        estimates, difference = compare(lab, subjects, split, run, view)
    for one, estimate in zip(subjects, estimates, strict=True):
        mean, interval = estimate_text(estimate.as_dict())
        out.print(
            f"{one.label}: {mean} {interval} on {estimate.n} items of {split}", highlight=False, markup=False
        )
    if difference is not None:
        low, high = difference.ci
        out.print(
            f"difference: {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}], p = {difference.p:.4f}, paired by item",
            highlight=False,
            markup=False,
        )


@app.command()
def loop(
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Rounds; the same as --set loop.rounds=N.")
    ] = None,
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
    sets = [*(sets or []), *([] if rounds is None else [f"loop.rounds={rounds}"])]
    with _open("loop", config, sets, run_name, dry_run, fresh) as opened:
        if opened is None:
            return
        from gepa_loop.loop import missing_gain, run_loop
        from gepa_loop.report.page import write_report

        lab, seed_prompt, run, view = opened
        result = run_loop(lab, seed_prompt, run, view)
        report = write_report(run.path)
    from gepa_loop.view import result_table

    out.print()
    out.print(result_table(result))
    out.print(f"prompt:  {_shown(run.path / result['prompt'])}", highlight=False)
    if result["adapter"] is not None:
        out.print(f"adapter: {_shown(run.path / result['adapter'])}", highlight=False)
    out.print(f"report:  {_shown(report)}", highlight=False)
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
    from gepa_loop.prompts import read_prompt
    from gepa_loop.sweep import cell_configs, check_cells, load_grid, run_sweep

    grid, teacher = load_grid(preset), read_prompt(prompt)
    configs = cell_configs(grid, config, sets or (), seeds)
    more = {"seeds": str(seeds), "baseline": grid.baseline}
    more |= {f"cells.{name}": " ".join(own) for name, own in grid.cells.items()}

    def check(lab: Lab) -> None:
        check_cells(lab, grid, configs, teacher, str(prompt))

    source = config or grid.config
    prompts = {str(prompt): teacher}
    with _open("sweep", source, sets, run_name, dry_run, fresh, prompts, more, check) as opened:
        if opened is None:
            for name, seed in configs:
                out.print(
                    f"cell {name}, seed {seed}: {' '.join(grid.cells[name])}", highlight=False, markup=False
                )
            return
        lab, _, run, view = opened
        result = run_sweep(lab, grid, configs, teacher, run, view)
    from gepa_loop.view import sweep_table

    out.print()
    out.print(sweep_table(result))
    out.print(f"rows and adapters: {_shown(run.path)}", highlight=False)


@config_app.command("show")
def config_show(config: ConfigOption = None, sets: SetOption = None) -> None:
    """Print the resolved configuration as JSON."""
    from gepa_loop.config import load_config

    print(load_config(config, sets or ()).model_dump_json(indent=2))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets and the sweep's grids that come with the program."""
    from gepa_loop.config import presets
    from gepa_loop.sweep import grids

    for title, found in (("presets (--config)", presets()), ("grids (sweep --preset)", grids())):
        out.print(f"[underline]{title}[/]", highlight=False)
        for name, about in found.items():
            out.print(f"[bold]{name}[/]  {escape(about)}", highlight=False)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted`, before Typer makes a bare "Aborted" of it."""
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["gepa-loop", *(a for a in sys.argv[1:] if a != "--fresh")])
        raise Interrupted(
            "\ninterrupted; what was finished is saved. Continue with:", f"  {command}"
        ) from None


@contextmanager
def _open(
    command: str,
    config: str | None,
    sets: list[str] | None,
    run_name: str | None,
    dry_run: bool,
    fresh: bool,
    prompts: Mapping[str, Candidate] | None = None,
    more: Mapping[str, str] | None = None,
    check: Callable[[Lab], None] | None = None,
) -> Iterator[tuple[Lab, Candidate, Run, View] | None]:
    """What every command begins with: config, model, task, checks, run directory, view. None on a dry run."""
    with _interruptible():
        from gepa_loop.config import load_config
        from gepa_loop.lab import open_lab, seed_prompt
        from gepa_loop.runs import fingerprint, open_run, write_json
        from gepa_loop.view import View

        settings = load_config(config, sets or ())
        first = seed_prompt(settings)
        prompts = prompts or {"optimize.seed_prompt": first}
        extra = {"command": command, "prompts": " ".join(p.id for p in prompts.values()), **(more or {})}
        if command in ("optimize", "loop"):
            from gepa_loop.config import check_budget

            check_budget(settings)
        label = Path(config).stem if config else "default"
        resolved = settings.model_dump(mode="json")
        name = run_name or f"{command}-{label}-{fingerprint([resolved, extra])[:6]}"
        if Path(name).name != name or name.startswith("."):
            raise ConfigError(
                f"--run-name {name}: not a plain folder name", "It becomes a folder below runs/."
            )
        path = Path.cwd() / "runs" / name
        lab = open_lab(settings)
        for source, candidate in prompts.items():
            lab.check_prompt(candidate, source)
        if command in ("distill", "loop", "sweep"):
            from gepa_loop.distill.teacher import check_teacher

            lab = lab.for_training()
            if check is None:
                check_teacher(lab, next(iter(prompts.values())).text)
            else:
                check(lab)
        for line in lab.facts():
            out.print(line, highlight=False, markup=False)
        overlaps = (lab.overlap(candidate, source) for source, candidate in prompts.items())
        for line in (*lab.task.warnings(), *filter(None, overlaps)):
            out.print(f"[yellow]warning:[/] {escape(line)}", highlight=False)
        if dry_run:
            for line in lab.plan(command):
                out.print(line, highlight=False, markup=False)
            out.print(f"would write {_shown(path)}", highlight=False)
            yield None
            return
        with open_run(path, lab.identity(**extra), fresh=fresh) as run:
            write_json(run.path / "config.json", resolved)
            out.print(f"run {_shown(path)}", highlight=False)
            run.event("start", command=command, **lab.data_facts())
            with View(out) as view:
                yield lab, first, run, view


def _shown(path: Path) -> str:
    """A path relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

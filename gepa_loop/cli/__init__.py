"""The command line: parse, call one function, map errors to exit codes. The other modules of this room are the commands."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from gepa_loop.cli import begin, jobs, make, pages, read, runs, sweeps
from gepa_loop.cli.answer import spared
from gepa_loop.cli.chat import chat
from gepa_loop.cli.export import export
from gepa_loop.cli.init import init
from gepa_loop.cli.options import JsonOption
from gepa_loop.cli.plan import plan
from gepa_loop.cli.serve import serve
from gepa_loop.cli.submit import ANY, submit
from gepa_loop.errors import EnvironmentFault, GepaLoopError, Interrupted, memory_fault
from gepa_loop.show.terminal import accept_any_text, err, open_streams, out, stream_fault
from gepa_loop.signals import end_at_once

app = typer.Typer(
    name="gepa-loop",
    help="Find the prompt whose distilled student is best.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
config_app = typer.Typer(no_args_is_help=True, help="Show presets and resolved configurations.")
app.add_typer(config_app, name="config", rich_help_panel="look")
prompts_app = typer.Typer(no_args_is_help=True, help="Read the prompts of a search, done or still running.")
app.add_typer(prompts_app, name="prompts", rich_help_panel="look")
task_app = typer.Typer(no_args_is_help=True, help="Try a task of your own.")
app.add_typer(task_app, name="task", rich_help_panel="begin")
jobs_app = typer.Typer(no_args_is_help=True, help="Follow jobs of a cluster, and collect what they found.")
app.add_typer(jobs_app, name="jobs", rich_help_panel="run")
runs_app = typer.Typer(help="List and delete runs.", invoke_without_command=True)
app.add_typer(runs_app, name="runs", rich_help_panel="look")


@runs_app.callback()
def _runs(context: typer.Context, json_file: JsonOption = None) -> None:
    if context.invoked_subcommand is None:
        runs.runs_list(json_file)


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
            with spared(argv):
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
        out.print(f"gepa-loop {version('gepa-loop')}", highlight=False)
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


PANELS = {
    "begin": (init, begin.doctor, begin.check, plan),
    "run": (make.optimize, make.distill, make.loop, make.evaluate, sweeps.sweep),
    "use what a run made": (chat, serve, export, pages.report, pages.view),
}
for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command(rich_help_panel="run", context_settings=ANY)(submit)
jobs_app.command("status")(jobs.jobs_status)
jobs_app.command("logs")(jobs.jobs_logs)
jobs_app.command("collect")(jobs.jobs_collect)
config_app.command("show")(read.config_show)
config_app.command("explain")(read.config_explain)
config_app.command("presets")(read.config_presets)
task_app.command("check")(begin.task_check)
prompts_app.command("list")(read.prompts_list)
prompts_app.command("show")(read.prompts_show)
prompts_app.command("diff")(read.prompts_diff)
runs_app.command("list")(runs.runs_list)
runs_app.command("cells")(runs.runs_cells)
runs_app.command("remove")(runs.runs_remove)

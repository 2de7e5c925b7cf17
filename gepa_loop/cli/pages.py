"""The commands that make pages of runs: one as a file, all of a folder over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli.answer import give, reader, run_head
from gepa_loop.cli.options import JsonOption, ReportedArgument, say_next
from gepa_loop.show.terminal import out

if TYPE_CHECKING:
    from gepa_loop.cli.records.read import ReportAnswer


def report(run: ReportedArgument, json_file: JsonOption = None) -> None:
    """Write a finished run's report.html anew: the outcome of `distill`, `loop` or `sweep` as a page, to be sent to others."""
    from gepa_loop.run.find import run_folder
    from gepa_loop.session import shown
    from gepa_loop.show.earlier import of_this_version
    from gepa_loop.show.report.read import has_page
    from gepa_loop.show.report.write import write_report
    from gepa_loop.show.sweep_report import write_sweep_report
    from gepa_loop.stages.grid import is_sweep

    folder = run_folder(
        run, lambda path: has_page(path) or is_sweep(path), "Finished runs of `distill`, `loop` and `sweep`"
    )
    write = write_sweep_report if is_sweep(folder) else write_report
    with of_this_version(folder.name):
        page = write(folder).resolve()
    answer: ReportAnswer = {**run_head("report", folder), "page": str(page)}
    give(json_file, answer)
    to = reader(json_file)
    to.print(shown(page), highlight=False)
    say_next("view", *(() if folder.parent == Path("runs") else (shown(folder.parent),)), to=to)


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where runs lie; below it nothing is written.")
    ] = Path("runs"),
    host: Annotated[
        str, typer.Option("--host", help="Who may look: this machine alone, or 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8001,
) -> None:
    """Serve a page that lists all runs of a folder, each with its report, and two side by side."""
    from gepa_loop.errors import ConfigError
    from gepa_loop.serving.listen import address_of, check_packages, free_socket, serve_until_ended

    check_packages("`view`")
    from gepa_loop.run.find import all_runs
    from gepa_loop.show.view.app import app

    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder", "Name the one in which runs lie, ./runs as a rule.")
    with free_socket(host, port) as listener:
        address = f"{address_of(host, listener.getsockname()[1])}/"
        count = len(all_runs(folder))
        runs = "1 run" if count == 1 else f"{count} runs"
        listener.listen()  # before anybody reads where
        out.print(f"{address} shows {runs} of {folder}; Ctrl-C ends it", highlight=False)
        serve_until_ended(app(folder, host), listener)

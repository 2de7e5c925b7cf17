"""A finished run as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path

from gepa_loop.run.files import write_text
from gepa_loop.scores.ledger import read_looks
from gepa_loop.scores.numbers import decimal, items_text
from gepa_loop.scores.outcome import untested
from gepa_loop.show.names import nickname
from gepa_loop.show.report.about import commands, config_file, config_text, took, versions
from gepa_loop.show.report.groups import group
from gepa_loop.show.report.items import items_json, marks, read_shown
from gepa_loop.show.report.read import Told, check_told, read_told
from gepa_loop.show.report.rounds import stages
from gepa_loop.show.report.teacher import teacher_name
from gepa_loop.show.report.third import cost_and_break_even
from gepa_loop.show.report.tiles import tiles
from gepa_loop.show.report.verdict import end_of_axis, evidence, forest, parted, retention, unscored, verdict

FILE = "report.html"


def write_report(run: Path) -> Path:
    """Write report.html into the directory of a finished run of `distill` or `loop`; returns its path.

    Raises:
        ConfigError: It is a run of another command.
        RunDirectoryError: It is not finished, or a file of it cannot be read.
        EnvironmentFault: The page cannot be written.
    """
    told = read_told(run)
    check_told(told)
    write_text(run / FILE, page(told))
    return run / FILE


def page(told: Told) -> str:
    """The page of a run.

    Raises:
        RunDirectoryError: A file of it cannot be read.
    """
    from plotly.offline import get_plotlyjs

    shown, parts = read_shown(told), stages(told)
    groups, marked = group(told, shown), marks(shown)
    config, is_toml = config_text(told)
    plotly, script = get_plotlyjs(), page_script()
    text = render(
        "report/page.html.j2",
        told=told,
        verdict=verdict(told),
        untested="" if told.adapter else untested(told.rounds),
        evidence=list(evidence(told)),
        parted=parted(told),
        tiles=tiles(told),
        third=cost_and_break_even(told),
        forest=forest(told, end_of_axis(told)),
        unscored=unscored(told),
        teacher=teacher_name(told),
        retention=retention(told),
        looks=read_looks(told.path),
        groups=groups,
        shown=shown,
        questions=any(one.row for one in shown),
        marks=marked,
        items=items_json(told, shown, groups.labels, marked),
        stages=parts,
        versions=versions(told),
        took=list(took(told, [course for one in parts for course in one.courses])),
        commands=commands(told),
        config=config,
        config_file=config_file(told),
        is_toml=is_toml,
        policy=policy(plotly, script),
        plotly=plotly,
        script=script,
        style=part("report/style.css"),
    )
    # What is half of a surrogate pair cannot be written.
    return text.encode("utf-8", "replace").decode()


def render(name: str, **values: object) -> str:
    """A template of this room; whatever it is given is escaped where it does not say otherwise."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gepa_loop", "show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = decimal
    environment.filters["items_text"] = items_text
    environment.filters["nickname"] = nickname
    return environment.get_template(name).render(**values)


@cache
def part(name: str) -> str:
    """A file that stands within pages."""
    return resources.files("gepa_loop.show").joinpath(*name.split("/")).read_text("utf-8")


def page_script() -> str:
    """What a run's page runs besides plotly.js: its charts' colours and its table of items."""
    return part("report/charts.js") + part("report/script.js")


def policy(*scripts: str) -> str:
    """A Content-Security-Policy under which these scripts run and no other, and nothing is fetched or sent."""
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in sums) or "'none'"
    # plotly.js makes style elements; images are its own, as data.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )

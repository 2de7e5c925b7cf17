"""What the site's reference says of keys, commands, presets and errors, made from the code when the site is built."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from gepa_loop import errors
from gepa_loop.config.reference import REQUIRED, Key, all_keys_explained

CONFIG = Path(errors.__file__).parent / "config"


def filled(page: str) -> str:
    """A page with what its marks stand for: `<!-- made: commands -->` at the end of a line, which says where it can be read without the site.

    Raises:
        KeyError: A mark that nothing is made for.
    """
    return re.sub(r"^.*<!-- made: (\w+) -->$", lambda mark: MADE[mark[1]](), page, flags=re.MULTILINE)


def configuration() -> str:
    """Every table and key, a heading each, so that a search finds it and a link leads to it."""
    return "\n".join(_about(key) for key in all_keys_explained())


def _about(key: Key) -> str:
    if not key.kind:
        level = "##" if "." not in key.name else "###"
        return f'{level} `[{key.name}]` {{ id="{key.name}" }}\n\n{key.paragraphs[0]}\n'
    where = f"Where `{key.under}`. " if key.under else ""
    read = f" Read by {key.readers}." if "." in key.name and key.readers != "all commands" else ""
    name = f'`{key.name}` {{ id="{key.name}{_variant(key)}" }}'
    level = "####" if "." in key.name else "##"
    told = "\n\n".join(key.paragraphs)
    return f"{level} {name}\n\n{where}{_sentence(key.kind)}; {_default(key)}.{read}\n\n{told}\n"


def _variant(key: Key) -> str:
    """Makes a heading's id one of its own where several tables of one place have the key."""
    return f"-{key.under.rpartition(' ')[2]}" if key.under else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "it must be given"
    if key.default is None:
        return "by default none"
    return f"by default `{json.dumps(key.default, ensure_ascii=False, default=str)}`"


def commands() -> str:
    """Every command with its arguments and options, as Typer writes them."""
    import typer
    from typer.cli import get_docs_for_click

    from gepa_loop.cli import app

    command = typer.main.get_command(app)
    with command.make_context("gepa-loop", [], resilient_parsing=True) as context:
        context.ensure_object(dict)["rich_markup_mode"] = "rich"
        page = get_docs_for_click(obj=command, ctx=context, name="gepa-loop", title="gepa-loop")
    page = re.sub(
        r"\*\*Commands\*\*:\n\n(\* .*\n)+\n?", "", page
    )  # cut in mid-sentence, and each comes below
    page = re.sub(r"^\* `(-h, )?--help`.*\n", "", page, flags=re.MULTILINE)
    page = re.sub(r"\*\*Options\*\*:\n\n(?!\*)", "", page)
    return page.partition("\n## ")[1].lstrip("\n") + page.partition("\n## ")[2]


def presets() -> str:
    """Presets and grids, each with its file."""
    parts = []
    for folder, title in (("presets", "Presets"), ("sweeps", "Grids")):
        parts.append(f"## {title}\n")
        for file in sorted((CONFIG / folder).glob("*.toml")):
            text = file.read_text("utf-8")
            told = text.partition("\n")[0].removeprefix("# ")
            parts.append(f"### `{file.stem}`\n\n{told}\n\n```toml\n{text.strip()}\n```\n")
    return "\n".join(parts)


def error_tree() -> str:
    """The errors that end a command, with their exit codes."""
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2]
    return f"```text\n{tree}\n```"


def tables() -> str:
    """The tables of a configuration, and which commands read them."""
    keys = [key for key in all_keys_explained() if not key.kind and "." not in key.name]
    lines = ["| table | what it is | read by |", "|---|---|---|"]
    lines += [f"| [`{key.name}`](#{key.name}) | {key.summary} | {key.readers} |" for key in keys]
    return "\n".join(lines)


MADE: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "configuration": configuration,
    "errors": error_tree,
    "presets": presets,
    "tables": tables,
}
"""What a mark of a page stands for."""

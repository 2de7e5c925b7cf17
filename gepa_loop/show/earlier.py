"""Records of another version of gepa-loop, which have other keys than pages read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gepa_loop.errors import RunDirectoryError


@contextmanager
def of_this_version(run: str) -> Iterator[None]:
    """Say which key a run's records lack where the block, or a template in it, asks for one that is not there.

    Raises:
        RunDirectoryError: One is missing.
    """
    from jinja2 import UndefinedError

    try:
        yield
    except (KeyError, UndefinedError) as error:
        raise RunDirectoryError(
            f"run {run} is of another version of gepa-loop: its records lack what this one reads, {error}",
            "Use that version, or make the run again.",
        ) from error

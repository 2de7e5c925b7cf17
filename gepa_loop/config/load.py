"""A configuration, resolved, and errors that name key and source."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gepa_loop.config.explain import explain
from gepa_loop.config.layers import merged_layers, section
from gepa_loop.config.places import resolve_paths
from gepa_loop.config.whole import TAGS, Config
from gepa_loop.errors import ConfigError


def load_config(
    source: str | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Config:
    """Resolve a configuration.

    Args:
        source: A preset's name, the path of a TOML file, or tables as such a file holds them. None takes `gepa-loop.toml` of the working
            directory, else the preset `demo`.
        sets: `key.path=value` pairs; a value is read as TOML, and as a plain string where it is not TOML.
        env: The environment; None takes the process's own.
        cwd: Where relative paths start; None takes the process's working directory.

    Raises:
        ConfigError: An unknown preset, file or key, a value of the wrong type, or values that contradict
            each other. The message names the key, the value and where it came from.
    """
    cwd = cwd or Path.cwd()
    merged, origin, label = merged_layers(source, sets, env, cwd)
    config, faults = _validated(merged, origin, label)
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    config, unplaced = resolve_paths(config, cwd, origin)
    if unplaced:
        raise _joined(unplaced)
    return config


def load_what_can_be(
    source: str | None, sets: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[Config | None, list[ConfigError]]:
    """`load_config` for somebody who wants to know all that is wrong: keys that cannot be used are left at their defaults.

    Returns:
        The configuration without them, None where it cannot be had, and an error for each fault.
    """
    cwd = cwd or Path.cwd()
    try:
        merged, origin, label = merged_layers(source, sets, env, cwd)
    except ConfigError as error:
        return None, [error]
    found: list[ConfigError] = []
    while True:
        before = json.dumps(merged, default=str)
        config, faults = _validated(merged, origin, label, mend=True)
        told = {str(error) for error in found}
        found += [ConfigError(fault) for fault in dict.fromkeys(faults) if fault not in told]
        if config is not None:
            config, unplaced = resolve_paths(config, cwd, origin)
            return config, [*found, *unplaced]
        if json.dumps(merged, default=str) == before:
            return None, found


def _validated(
    merged: dict[str, Any], origin: Mapping[str, str], source: str, mend: bool = False
) -> tuple[Config | None, list[str]]:
    """The configuration of all layers, or a sentence on each fault; `mend` takes the keys at fault out of `merged`, in place."""
    try:
        return Config.model_validate(merged), []
    except ValidationError as error:
        told = explain(error, origin, source).split("\n")
        before = _faults(merged)
        for item in error.errors() if mend else ():
            path = [str(part) for part in item["loc"]]
            if path and path[0] in TAGS and len(path) > 1:
                path = [path[0], *path[2:]]  # the tag's value stands between
            if (guilty := _guilty(merged, path, before)) is not None:
                section(merged, *path).pop(
                    guilty, None
                )  # keys that do not go together: without that one the rest does
            elif path and not _is_required(path):
                section(merged, *path[:-1]).pop(path[-1], None)
        return None, told


def _is_required(path: Sequence[str]) -> bool:
    """Whether nothing can be done without it."""
    return len(path) == 1 and path[0] in Config.model_fields and Config.model_fields[path[0]].is_required()


def _guilty(merged: Mapping[str, Any], path: Sequence[str], before: int) -> str | None:
    """The key of a table without which there are fewer faults than `before`; None where there is none, or it is a value's fault."""
    table: Any = merged
    for part in path:
        table = table.get(part) if isinstance(table, Mapping) else None
    for key in table if isinstance(table, Mapping) else ():
        trial = copy.deepcopy(dict(merged))
        section(trial, *path).pop(key)
        after = _faults(trial)
        if after < before:
            return str(key)
    return None


def _faults(merged: Mapping[str, Any]) -> int:
    try:
        Config.model_validate(merged)
    except ValidationError as error:
        return error.error_count()
    return 0


def _joined(errors: Sequence[ConfigError]) -> ConfigError:
    """Several errors as one."""
    return ConfigError(
        "\n".join(map(str, errors)), "\n".join(dict.fromkeys(error.hint for error in errors if error.hint))
    )

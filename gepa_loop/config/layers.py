"""The layers of a configuration, one over the other.

Values come from, each over the one before: a preset, a TOML file (which, as a preset may too, names the one it
builds on with a top-level `preset = "..."`), the environment (`GEPA_LOOP_DISTILL__LR=1e-4`) and `--set distill.lr=1e-4`.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from gepa_loop.config.explain import ENV_PREFIX
from gepa_loop.config.tables import RECORDS
from gepa_loop.config.whole import TAGS, Config
from gepa_loop.errors import ConfigError
from gepa_loop.outside.files import SETTINGS, found_at, parse_toml, read_file
from gepa_loop.outside.redact import HIDDEN, names_a_secret, redacted

ENV_OTHER = {"GEPA_LOOP_CACHE"}
"""Variables with our prefix that are not configuration keys."""

TABLES = "the config"
"""What a configuration is called that came as tables."""

LOCAL_FILE = "gepa-loop.toml"
DEFAULT_PRESET = "demo"


def presets() -> dict[str, str]:
    """The shipped presets: name -> first comment line of its file."""
    folder = resources.files("gepa_loop.config") / "presets"
    names = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    return {
        name: (folder / f"{name}.toml").read_text("utf-8").split("\n", 1)[0].lstrip("# ") for name in names
    }


def find_source(source: str | None, default: str, cwd: Path | None = None) -> str:
    """Where a configuration comes from: what is named, else `gepa-loop.toml` of the working directory, else a preset."""
    local = (cwd or Path.cwd()) / LOCAL_FILE
    return source or (str(local) if local.is_file() else default)


def merged_layers(
    source: str | Mapping[str, Any] | None, sets: Sequence[str], env: Mapping[str, str] | None, cwd: Path
) -> tuple[dict[str, Any], dict[str, str], str]:
    """All layers as one, where each key came from, and the source's name."""
    if not isinstance(source, Mapping):
        source = find_source(source, DEFAULT_PRESET, cwd)
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    environment = _env_layers(os.environ if env is None else env)
    for layer, labels in [
        *(_together([one]) for one in _file_layers(source, cwd)),
        _together(environment),
        set_layer(sets),
    ]:
        _drop_stale(merged, layer)
        _lay(merged, layer)
        origin |= labels
    for table, (tag, default) in TAGS.items():
        if isinstance(merged.setdefault(table, {}), dict):
            merged[table].setdefault(tag, default)
    return merged, origin, source if isinstance(source, str) else TABLES


def set_layer(sets: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tables that `key.path=value` pairs make, and each of their keys with the pair that it came from.

    Raises:
        ConfigError: One is not of this form, or gives a table a plain value.
    """
    return _together(_pair(text, f"--set {_shown(text)}") for text in sets)


def laid_over(tables: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with a layer over them, as `load_config` lays it."""
    merged = copy.deepcopy(dict(tables))
    _drop_stale(merged, layer)
    _lay(merged, layer)
    return merged


def _file_layers(source: str | Mapping[str, Any], cwd: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(source, Mapping):
        yield from _on_its_preset(TABLES, copy.deepcopy(dict(source)), source, cwd)
        return
    if source in presets():
        label = f"preset {source}"
        text = (resources.files("gepa_loop.config") / "presets" / f"{source}.toml").read_text("utf-8")
    else:
        path = cwd / source
        if not found_at(path):
            near = difflib.get_close_matches(source, presets(), n=3, cutoff=0.4)
            raise ConfigError(
                f"--config {source}: neither a file nor a preset",
                f"Presets: {', '.join(presets())}." + (f" Did you mean {near[0]}?" if near else ""),
            )
        label, text = str(path), read_text(path)
    yield from _on_its_preset(label, _toml(text, label), source, cwd)


def _on_its_preset(
    label: str, layer: dict[str, Any], source: object, cwd: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A layer over the preset that it names."""
    base = layer.pop("preset", None)
    if base is not None:
        if not isinstance(base, str) or base not in presets() or base == source:
            raise ConfigError(f"{label}: preset = {base!r} is no preset", f"Presets: {', '.join(presets())}.")
        yield from _file_layers(base, cwd)
    yield label, layer


def read_text(path: Path) -> str:
    """A text file of settings; ConfigError where it cannot be read."""
    try:
        return read_file(path, SETTINGS).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})", "Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "Name a regular file.") from None


def _toml(text: str, label: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{label}: not valid TOML: {error}") from None


def _env_layers(env: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and name not in ENV_OTHER:
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            yield _pair(f"{key}={env[name]}", name)


def _shown(text: str) -> str:
    """A `key=value` for a message: not the value where the key is a secret's name."""
    key = text.partition("=")[0]
    return f"{key}={HIDDEN}" if names_a_secret(key.strip()) else redacted(text)


def _pair(text: str, label: str) -> tuple[str, dict[str, Any]]:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"{label}: not of the form key.path=value", "Example: --set distill.lr=1e-4")
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value
    layer: dict[str, Any] = {parts[-1]: parsed}
    for part in reversed(parts[:-1]):
        layer = {part: layer}
    return label, layer


def _together(layers: Iterable[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Layers of one rank as a single one, so that their order only matters for equal keys; and each key's label."""
    whole: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for label, layer in layers:
        _refuse_plain_tables(layer, label)
        _lay(whole, layer)
        labels |= dict.fromkeys(_paths(layer), label)
    return whole, labels


def _refuse_plain_tables(layer: Mapping[str, Any], label: str) -> None:
    """Before another layer's table takes the value's place without a word."""
    for key, value in layer.items():
        if key in Config.model_fields and key != "seed" and not isinstance(value, Mapping):
            hint = f"set {key}.{TAGS[key][0]}" if key in TAGS else f"set {key}.KEY"
            raise ConfigError(f"{label}: {key} = {redacted(repr(value))}: it is a table; {hint}")


def _lay(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay `layer` over `target`, in place, table by table."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _lay(target[key], value)
        else:
            target[key] = value


def _paths(layer: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key, value in layer.items():
        yield f"{at}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{at}{key}.")


def _drop_stale(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Take out of `target`, in place, what was written for another task, scorer, objective or teacher than `layer` names, and the
    seed prompt where `layer` gives one by the other key."""
    for key, other in (("seed_prompt", "seed_prompt_file"), ("seed_prompt_file", "seed_prompt")):
        if isinstance(new := layer.get("optimize"), Mapping) and key in new:
            section(target, "optimize").pop(other, None)
    for table in ("task", *TAGS):
        old, new = target.get(table), layer.get(table)
        if not (isinstance(old, dict) and isinstance(new, Mapping)):
            continue
        if table == "task":
            if any(new.get(key, old.get(key)) != old.get(key) for key in ("name", "kind")):
                old.pop("options", None)
                if new.get("kind") == "python" != old.get("kind"):
                    old.pop("extract", None)  # a class reads all of a reply where nobody says otherwise
                if new.get("kind", old.get("kind")) != old.get("kind") or old.get("kind") not in RECORDS:
                    # A newer file of the same kind has the same fields.
                    old.pop("fields", None)
                    old.pop("group", None)
                section(target, "optimize", "reflection").pop("sections", None)
            if new.get("kind") == "verifiers" != old.get("kind"):
                # What an environment's rewards read is all of a reply.
                old.pop("extract", None)
            if new.get("scorer", old.get("scorer")) != old.get("scorer"):
                # A judge has a default of its own for what it reads.
                old.pop("extract" if new["scorer"] == "model" else "judge", None)
            continue
        tag, default = TAGS[table]
        if new.get(tag, old.get(tag, default)) != old.get(tag, default):
            target[table] = {}


def section(table: dict[str, Any], *path: str) -> dict[str, Any]:
    """The table at `path`; an empty one of its own where there is none."""
    for key in path:
        inner = table.get(key)
        table = inner if isinstance(inner, dict) else {}
    return table

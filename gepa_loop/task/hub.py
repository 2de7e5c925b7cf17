"""Records of datasets: of the Hugging Face hub, and of folders that `datasets` reads or has saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.task.files import missing_reader, plain
from gepa_loop.task.records import MOST, Record

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("dataset_dict.json", "state.json")
"""What lies in a folder that `save_to_disk` wrote."""


def dataset_rows(name: str, options: Mapping[str, Any]) -> Iterator[Record]:
    """The rows of a dataset, split by split; labels by their names, without columns that hold images or sounds.

    Args:
        name: Its id on the hub, or the path of its folder.
        options: `config`, `split` and `revision`, each a text.

    Raises:
        TaskError: There is no such dataset, config or split, a file is named, or it has more than `MOST` rows.
        EnvironmentFault: `datasets` is not installed, or the hub cannot be reached.
    """
    for key, value in options.items():
        if not isinstance(value, str):
            raise TaskError(f"task.options.{key} = {value!r}: not a text")
    for split, data in _splits(name, options).items():
        if len(data) > MOST:
            raise TaskError(
                f"{name}: {len(data):,} rows in {split}, and at most {MOST:,} are read",
                f"Take a part: --set task.options.split='{split}[:10000]'.",
            )
        readable = data.select_columns([key for key, kind in data.features.items() if _is_readable(kind)])
        labels = {key: kind for key, kind in readable.features.items() if hasattr(kind, "int2str")}
        for number, row in enumerate(readable):
            named = {
                key: (labels[key].int2str(value) if value is not None and value >= 0 else None)
                if key in labels
                else plain(value)
                for key, value in row.items()
            }
            yield f"hf:{split}:{number}", f"{name}, {split} row {number}", named


def refuse_file(name: str) -> None:
    """Raise TaskError where the name of a dataset is a file's, which `datasets` would ask the hub for."""
    if Path(name).is_file():
        raise TaskError(
            f"task.name = {name!r}: that is a file, and task.kind = hf reads datasets of the hub and folders",
            "Take task.kind = jsonl, json, csv or parquet, or name its folder.",
        )


def _splits(name: str, options: Mapping[str, str]) -> dict[str, Dataset]:
    try:
        import datasets
    except ImportError as error:
        raise missing_reader(f"task.name = {name!r}: datasets are read by `datasets`", error) from error
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from httpx import HTTPError

    datasets.disable_progress_bars()
    folder, wanted = Path(name), options.get("split")
    refuse_file(name)
    try:
        if any((folder / file).is_file() for file in SAVED):
            found = datasets.load_from_disk(name)
            if wanted is not None:
                if isinstance(found, datasets.Dataset) or wanted not in found:
                    there = "no splits" if isinstance(found, datasets.Dataset) else ", ".join(found)
                    raise TaskError(f"task.options.split = {wanted!r}: {name} has {there}")
                found = found[wanted]
        else:
            found = datasets.load_dataset(
                name, options.get("config"), split=wanted, revision=options.get("revision")
            )
    except (DatasetNotFoundError, FileNotFoundError) as error:
        hint = "Name its id on the Hugging Face hub, OWNER/NAME, or an existing folder. Private ones need HF_TOKEN."
        raise TaskError(f"task.name = {name!r}: {_first(error)}", hint) from error
    except DatasetsError as error:  # files that it cannot read
        raise TaskError(
            f"task.name = {name!r}: {_first(error.__cause__ or error)}", "Mend its files."
        ) from error
    except (ValueError, TypeError) as error:  # an unknown config or split, or files that it cannot read
        # Its second line names those that there are.
        said = " ".join(str(error).split("\n")[:2])
        raise TaskError(
            f"task.name = {name!r}: {said}", "See task.options.config and task.options.split."
        ) from error
    except (HTTPError, OSError) as error:
        raise EnvironmentFault(
            f"task.name = {name!r}: the dataset cannot be had: {_first(error)}",
            "Without a network, load it once where there is one, or copy its files here and name their folder.",
        ) from error
    if isinstance(found, datasets.Dataset):
        return {wanted or "all": found}
    return dict(found)


def _is_readable(kind: object) -> bool:
    """Whether a column holds nothing but texts, numbers and what is made of them; images and sounds need decoders."""
    if isinstance(kind, Mapping):
        return all(map(_is_readable, kind.values()))
    if isinstance(kind, list):
        return all(map(_is_readable, kind))
    inner = getattr(kind, "feature", None)
    if inner is not None:
        return _is_readable(inner)
    return (
        hasattr(kind, "dtype")
        and not hasattr(kind, "decode_example")
        and kind.dtype not in ("binary", "large_binary")
    )


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Files of a run that belong to another user: nothing in them is wrong, and nobody is told to delete them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import let_in, nobody

from gepa_loop.errors import EnvironmentFault, GepaLoopError, RunDirectoryError
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import append_jsonl, disk_errors, read_jsonl, read_record, write_json, write_jsonl
from gepa_loop.run.marks import RIGHTS, check_files, file_sums


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (lambda f: read_record(f / "a.json"), RunDirectoryError),
        (lambda f: read_jsonl(f / "a.jsonl"), RunDirectoryError),
        (lambda f: append_jsonl(f / "a.jsonl", [{}]), EnvironmentFault),
        (lambda f: write_json(f / "new" / "b.json", {}), EnvironmentFault),
    ],
    ids=["read_record", "read_jsonl", "append", "write"],
)
def test_what_may_not_be_read_or_written_is_said_to_be_so(
    tmp_path: Path, use: Callable[[Path], object], kind: type[GepaLoopError]
) -> None:
    write_json(tmp_path / "a.json", {"files": {}})
    write_jsonl(tmp_path / "a.jsonl", [{"n": 1}])
    for path in (tmp_path / "a.json", tmp_path / "a.jsonl"):
        path.chmod(0)
    tmp_path.chmod(0o555)
    with nobody(), pytest.raises(kind, match="Permission denied") as caught:
        use(tmp_path)
    tmp_path.chmod(0o755)
    assert caught.value.hint == RIGHTS and "Delete" not in RIGHTS and "--fresh" not in RIGHTS


def test_a_run_whose_manifest_may_not_be_read(tmp_path: Path) -> None:
    with open_run(tmp_path / "r", {"seed": 0}):
        pass
    (tmp_path / "r" / ".lock").chmod(0o666)
    (tmp_path / "r" / "manifest.json").chmod(0)
    let_in(tmp_path)
    with nobody(), pytest.raises(RunDirectoryError, match=r"manifest\.json: it cannot be read") as caught:
        open_run(tmp_path / "r", {"seed": 0}).__enter__()
    assert caught.value.hint == RIGHTS


def test_a_file_of_a_stage_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    sums = file_sums(tmp_path, "a.txt")
    (tmp_path / "a.txt").chmod(0)
    with nobody(), pytest.raises(RunDirectoryError) as caught:
        check_files(tmp_path, sums)
    assert caught.value.hint == RIGHTS


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "Change its rights"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EISDIR, "Something else is in its place"),
        (errno.EIO, ""),
    ],
)
def test_each_reason_has_its_own_advice(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(EnvironmentFault) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert words in caught.value.hint and bool(words) == bool(caught.value.hint)

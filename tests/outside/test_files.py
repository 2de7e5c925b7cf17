"""Files that users name have an end and a size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gepa_loop.outside.files import read_file


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_file(path, 5) == read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and at most 4 are read"):
        read_file(path, 4)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 5)
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        read_file(tmp_path, 5)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a pipe or a device"):
            read_file(path, 5)

"""Atomic files, journals, the lock and the manifest."""

import fcntl
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.run.directory import LOOK, in_use, open_part, open_run, part_in_use
from gepa_loop.run.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    read_record,
    write_bytes,
    write_json,
    write_jsonl,
    write_record,
    write_text,
)
from gepa_loop.run.marks import check_files
from gepa_loop.run.seeds import derive_seed


def test_derived_seeds_are_stable_and_distinct() -> None:
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    seeds = {derive_seed(s, p, n) for s in range(3) for p in ("a", "b") for n in range(50)}
    assert len(seeds) == 300 and all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(0, "a", "1") != derive_seed(0, "a", 1) != derive_seed(0, "a1")


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    path.open("a").write('{"n": 3, "te')
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]
    append_jsonl(path, [{"n": 4}])
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}, {"n": 4}]


def test_a_journal_that_was_changed_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    append_jsonl(path, [{"n": 3}])
    one, two, three = path.read_text().splitlines(keepends=True)
    changes = {
        1: [
            two + one + three,
            one.replace("1", "4", 1) + two + three,
            two + three,
            "{}\n",
            "[" * 10**5 + "\n",
        ],
        2: [one + three, one + three + two, one + one, one + '{"n"\n' + three, one + "\udcff\n" + three],
        3: [one + two + two, one + two + three.replace("3", "NaN", 1), one + two + "3\n"],
    }
    for number, texts in changes.items():
        for text in texts:
            path.write_bytes(text.encode(errors="surrogateescape"))
            with pytest.raises(RunDirectoryError, match=rf"j.jsonl: row {number}: .*") as caught:
                read_jsonl(path)
            assert f"Delete {path} to have it made again" in caught.value.hint
    (tmp_path / "k.jsonl").write_text(one + two)
    with pytest.raises(RunDirectoryError, match=r"k.jsonl: row 1"):
        read_jsonl(tmp_path / "k.jsonl")


def test_lost_rows_are_missed_where_their_number_is_known(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write_jsonl(path, [{"n": 1}, {"n": 2}])
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert read_jsonl(path) == [{"n": 1}]
    with pytest.raises(RunDirectoryError, match="it has 1 of 2 rows"):
        read_jsonl(path, at_least=2)


def test_a_record_knows_its_files_and_what_is_deleted_with_them(tmp_path: Path) -> None:
    stage = tmp_path / "round_00" / "stage"
    write_json(tmp_path / "manifest.json", {})
    write_text(stage / "kept" / "a.txt", "one")
    for record in (stage / "result.json", tmp_path / "result.json"):
        write_record(record, {"n": 1}, "kept")
    assert read_record(stage / "result.json") == {"n": 1}
    write_text(stage / "kept" / "a.txt", "two")
    with pytest.raises(
        RunDirectoryError, match=r"a.txt: its sha256 begins with \w{16}, and \w{16} was"
    ) as caught:
        read_record(stage / "result.json")
    owed = (stage / "kept" / "a.txt", stage / "result.json", tmp_path / "result.json")
    assert caught.value.hint.startswith(f"Delete {', '.join(map(str, owed))} to have it made again")
    (stage / "kept" / "a.txt").unlink()
    with pytest.raises(RunDirectoryError, match=r"a.txt: it cannot be read: No such file"):
        read_record(stage / "result.json")
    write_json(stage / "result.json", {"n": 1})
    with pytest.raises(RunDirectoryError, match="it lists no files"):
        read_record(stage / "result.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"schema_version": 2, "n": 1}', "[" * 10**5])
def test_json_that_was_not_written_here_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunDirectoryError, match=r"a.json: "):
        read_json(tmp_path / "a.json")


def test_pipes_and_devices_in_a_run_are_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        path = tmp_path / name
        for read in (read_json, read_jsonl, lambda path: check_files(path.parent, {path.name: "0" * 16})):
            with pytest.raises(
                RunDirectoryError, match=f"{name}: it cannot be read: it is a pipe or a device"
            ):
                read(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"n": float("nan")})
    assert read_json(path) == {"n": 1} and json.loads(path.read_text())["schema_version"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        append_jsonl(Path("/dev/full"), [{"n": 1}])
    assert caught.value.exit_code == 3


def test_a_folder_that_cannot_be_made_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write_bytes(tmp_path / "file" / "a", b"x")


def test_manifest_guards_continuation(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, {"seed": 1, "lr": 0.1}) as run:
        run.event("start", note="x")
    with open_run(path, {"seed": 1, "lr": 0.1}):
        pass
    with (
        pytest.raises(RunDirectoryError, match=r"lr: 0.1 in the run, now 0.2") as caught,
        open_run(path, {"seed": 1, "lr": 0.2}),
    ):
        pass
    assert "seed" not in str(caught.value) and caught.value.exit_code == 6
    # A key that an earlier version did not know, whatever its value.
    with (
        pytest.raises(RunDirectoryError, match=r"average: '\(absent\)' in the run, now None"),
        open_run(path, {"seed": 1, "lr": 0.1, "average": None}),
    ):
        pass
    with open_run(path, {"seed": 2}, fresh=True):
        assert read_jsonl(path / "events.jsonl") == []


def test_a_run_is_born_once_and_again_when_it_is_made_again(tmp_path: Path) -> None:
    def birth(name: str, fresh: bool = False) -> str:
        with open_run(tmp_path / name, {}, fresh=fresh) as run:
            return run.birth

    born = birth("a")
    assert birth("a") == born != birth("b")
    assert birth("a", fresh=True) != born
    (manifest := tmp_path / "a" / "manifest.json").unlink()
    write_json(manifest, {"identity": {}})
    with pytest.raises(RunDirectoryError, match=r"made by an earlier version of gepa-loop"):
        birth("a")


KILLED = """
import sys
from pathlib import Path
from gepa_loop.run.files import write_text
from gepa_loop.run.directory import open_run

left = 0

def stop(event, _):
    global left
    if event in ("os.remove", "os.rmdir", "shutil.rmtree", "os.rename") or (event == "open" and _[1] != "r"):
        left -= 1
        if left == 0:
            raise SystemExit("killed")

sys.addaudithook(stop)
root, place = Path(sys.argv[1]), 0
while True:
    path = root / f"run{place}"
    with open_run(path, {"seed": 0}) as run:
        for name in ("a.json", "deep/b.jsonl", "deep/er/c.txt"):
            write_text(path / name, "{}")
    left = place = place + 1
    try:
        with open_run(path, {"seed": 1}, fresh=True):
            left = 0
            break
    except SystemExit:
        pass
print(place)
"""


def test_fresh_that_is_killed_anywhere_leaves_what_every_command_takes(tmp_path: Path) -> None:
    """The program is ended before each file operation of --fresh in turn; the next command resumes or is fresh again."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count = int(done.stdout)
    assert count > 10
    old = 0
    for place in range(count):
        path = tmp_path / f"run{place}"
        if (path / ".clearing").exists() or not (path / "manifest.json").exists() or place % 2:
            with open_run(path, {"seed": 1}, fresh=bool(place % 2)) as run:
                assert {f.name for f in run.path.iterdir()} == {".lock", "manifest.json"}
        else:
            with open_run(path, {"seed": place and 0}):
                assert (path / "deep" / "er" / "c.txt").exists(), "nothing was deleted yet"
            old += 1
    assert old <= 2


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {}):
        pass
    left = tmp_path / "run" / "round_00" / ".metrics.jsonl.abc123.tmp"
    write_text(left, "half")
    with open_run(tmp_path / "run", {}):
        assert not left.exists()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunDirectoryError, match="no run directory"), open_run(tmp_path, {}, fresh=True):
        pass
    assert (tmp_path / "thesis.txt").exists()


NO_LOCKS = """
import errno, fcntl, sys
from pathlib import Path
from gepa_loop.errors import GepaLoopError
from gepa_loop.run.directory import in_use, open_run

def flock(fd, operation):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock  # as NFS without its lock daemon answers
path = Path(sys.argv[1])
(path / ".lock.soft").write_text("4194000\\nhost-that-is-gone\\n") if sys.argv[2] == "foreign" else None
try:
    with open_run(path, {}):
        try:
            with open_run(path, {}):
                print("twice")
        except GepaLoopError as error:
            print(error.exit_code, error)
        print("used:", in_use(path))
    print("left:", (path / ".lock.soft").exists(), in_use(path))
except GepaLoopError as error:
    print(error.exit_code, error, error.hint)
"""


def test_a_file_system_without_locks_gets_a_soft_one(tmp_path: Path) -> None:
    def shown(who: str) -> str:
        command = [sys.executable, "-c", NO_LOCKS, str(tmp_path), who]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert shown("ours") == f"6 {tmp_path} is in use by another process\nused: True\nleft: False False\n"
    assert f"delete {tmp_path / '.lock.soft'} if no process is left" in shown("foreign")


def test_a_run_directory_that_cannot_be_written_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").mkdir()  # as unusable as one of somebody else's, for root too
    with (
        pytest.raises(EnvironmentFault, match=r"cannot write .*lock: Is a directory") as caught,
        open_run(tmp_path / "run", {}),
    ):
        pass
    assert caught.value.exit_code == 3
    with (
        pytest.raises(EnvironmentFault, match="cannot write /proc/run: "),
        open_run(Path("/proc/run"), {}),
    ):
        pass


def _try_to_open(path: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        with open_run(Path(path), {}):
            answers.put("opened")
    except RunDirectoryError as error:
        answers.put(str(error))


def test_only_one_process_has_a_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    with open_run(tmp_path / "run", {}):
        other = context.Process(target=_try_to_open, args=(str(tmp_path / "run"), answers))
        other.start()
        assert "in use by another process" in answers.get(timeout=60)
        other.join()


class Releases(logging.Handler):
    """Lets go of a lock as soon as filelock says that it waits for it."""

    def __init__(self, held: Path) -> None:
        super().__init__(logging.DEBUG)
        self.file = held.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def emit(self, record: logging.LogRecord) -> None:
        if "waiting" in record.msg:
            self.file.close()


def test_whoever_only_looks_whether_a_run_is_in_use_ends_no_other(tmp_path: Path) -> None:
    """A look holds the lock for a moment, in which the run may be opened."""
    with open_run(tmp_path / "r", {}) as run:
        assert in_use(run.path)
    assert not in_use(tmp_path / "r") and not in_use(tmp_path)
    looker = Releases(tmp_path / "r" / ".lock")
    logger = logging.getLogger("filelock")
    logger.addHandler(looker)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with open_run(tmp_path / "r", {}):
            assert looker.file.closed
    finally:
        logger.setLevel(level)
        logger.removeHandler(looker)


def test_processes_make_parts_of_one_run(tmp_path: Path) -> None:
    whole, part = {"model": "a"}, {"model": "a", "cell": "low"}
    path = tmp_path / "r"
    with open_part(path / "low", part, whole) as run:
        assert run.path == path / "low" and part_in_use(path) == "low"
        birth = read_json(path / "manifest.json", dict[str, object])["birth"]
        # The whole's lock is free, so that others begin their parts; its files are left alone.
        (path / "high").mkdir()
        left = path / "low" / ".x.json.tmp"
        left.touch()
        with open_part(path / "high", {**part, "cell": "high"}, whole):
            assert left.exists()
        for fresh in (False, True):
            with (
                pytest.raises(RunDirectoryError, match="another process makes low"),
                open_run(path, whole, fresh=fresh),
            ):
                pass
        with pytest.raises(RunDirectoryError, match="low is in use"), open_part(path / "low", part, whole):
            pass
        assert left.exists() and (path / "low" / "manifest.json").exists()
    assert part_in_use(path) is None
    with open_run(path, whole) as run:
        assert run.birth == birth and not left.exists()
    for identities in ((part, {"model": "b"}), ({"model": "b"}, whole)):
        with (
            pytest.raises(RunDirectoryError, match="model: 'a' in the run, now 'b'"),
            open_part(path / "low", *identities),
        ):
            pass


def test_a_part_waits_for_others_that_begin_the_run(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.mkdir()
    lock = FileLock(path / ".lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(1.5 * LOOK, lock.release)  # longer than whoever wants the whole waits
    timer.start()
    with open_part(path / "low", {"cell": "low"}, {}) as run:
        assert run.path == path / "low"
    timer.join()

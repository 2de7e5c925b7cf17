"""Atomic files, journals, the lock and the manifest."""

import multiprocessing
from pathlib import Path

import pytest

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.runs import append_jsonl, derive_seed, open_run, read_json, read_jsonl, write_bytes, write_json


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


def test_a_damaged_middle_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"n": 1}\n{"n"\n{"n": 3}\n')
    with pytest.raises(RunDirectoryError, match=r"j.jsonl is damaged"):
        read_jsonl(tmp_path / "j.jsonl")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"n": float("nan")})
    assert read_json(path) == {"schema_version": 1, "n": 1}
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
    with open_run(path, {"seed": 2}, fresh=True):
        assert read_jsonl(path / "events.jsonl") == []


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunDirectoryError, match="no run directory"), open_run(tmp_path, {}, fresh=True):
        pass
    assert (tmp_path / "thesis.txt").exists()


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

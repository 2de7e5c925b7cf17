"""How often `test` was looked at, by which runs, and what is said where it cannot be known."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gepa_loop.cli import run
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import append_jsonl, read_jsonl, write_json
from gepa_loop.scores.ledger import LEDGER, LOOKS, Ledger, Looks, begin_look, read_looks
from gepa_loop.task.records import Item

ITEMS = [Item(f"t:{n}", (("user", f"Question {n}?"),), str(n), {}) for n in range(3)]


def ledger(
    folder: Path,
    name: str,
    look: str = "a",
    value: int = 1,
    items: list[Item] = ITEMS,
    fresh: bool = False,
) -> Ledger:
    """As a run of that name and configuration sees it; runs of one name and two configurations lie apart here."""
    with open_run(folder / str(value) / name, {"value": value}, fresh=fresh) as opened:
        return replace(begin_look(opened, items, look), path=folder / LEDGER)


def test_looks_of_other_runs_configurations_and_tables_count(tmp_path: Path) -> None:
    first = ledger(tmp_path, "r")
    assert first.before() == Looks(3, 0, 0, 0) and "were not scored before" in str(first.before())
    assert first.add("base") is None and first.add("student") is None
    # Its own rows are no earlier look, and a scoring that is continued is the same one.
    assert first.add("base") is None and first.before() == Looks(3, 0, 0, 0)
    rows = read_jsonl(tmp_path / LEDGER)
    assert [row["subject"] for row in rows] == ["base", "student"] and rows[0]["run"] == "r"
    for other in (ledger(tmp_path, "s"), ledger(tmp_path, "r", look="b"), ledger(tmp_path, "r", value=2)):
        assert other.before() == Looks(3, 3, 1, 2)
    ledger(tmp_path, "s").add("base")
    assert ledger(tmp_path, "t").before() == Looks(3, 3, 2, 3)
    assert str(Looks(3, 3, 2, 3)) == (
        "the 3 items of test were scored before by the runs of this folder, up to 3 times, in 2 earlier looks: what was chosen by "
        "them is too good (ledger.jsonl)"
    )
    assert str(Looks(20, 1, 1, 1)).startswith(
        "1 of the 20 items of test was scored before by the runs of this folder, once, in one earlier look: "
    )


def test_a_run_that_is_made_again_is_another_one(tmp_path: Path) -> None:
    assert ledger(tmp_path, "r").add("base") is None
    assert ledger(tmp_path, "r").before() == Looks(3, 0, 0, 0)
    again = ledger(tmp_path, "r", fresh=True)
    assert again.before() == Looks(3, 3, 1, 1)
    assert again.add("base") is None and again.before() == Looks(3, 3, 1, 1)
    shutil.rmtree(tmp_path / "1" / "r")
    assert ledger(tmp_path, "r").before() == Looks(3, 3, 2, 2)


def test_a_row_of_an_earlier_version_is_a_look_of_another_run(tmp_path: Path) -> None:
    one = ledger(tmp_path, "r")
    old = {key: value for key, value in one.key.items() if key != "birth"}
    append_jsonl(tmp_path / LEDGER, [{"subject": "base", **old}])
    assert one.add("base") is None and one.before() == Looks(3, 3, 1, 1)


def test_what_a_look_found_is_kept_as_it_was_when_it_began(tmp_path: Path) -> None:
    def begin(name: str, look: str) -> Looks | None:
        with open_run(tmp_path / name, {}) as opened:
            begin_look(opened, ITEMS, look).add("base")
        return read_looks(tmp_path / name)

    assert begin("r", "after 1 rounds") == Looks(3, 0, 0, 0)
    assert begin("s", "evaluate") == Looks(3, 3, 1, 1)
    # Continued it is the same look; with a further round it is another one, which both came before.
    assert begin("r", "after 1 rounds") == Looks(3, 0, 0, 0)
    assert begin("r", "after 2 rounds") == Looks(3, 3, 2, 2)
    assert begin("s", "evaluate") == Looks(3, 3, 1, 1)


NO_LOCKS = """
import errno, fcntl, sys
from pathlib import Path
from gepa_loop.scores.ledger import Ledger

def flock(fd, operation):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock  # as NFS without its lock daemon answers
print(Ledger(Path(sys.argv[1]), (), dict.fromkeys(("items", "run", "birth", "config", "look"), "x")).add("base"))
"""


def test_a_file_system_without_locks_has_a_ledger_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_LOCKS, str(tmp_path / LEDGER)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"
    assert [row["subject"] for row in read_jsonl(tmp_path / LEDGER)] == ["base"]


def test_items_are_known_by_what_they_ask(tmp_path: Path) -> None:
    ledger(tmp_path, "r").add("base")
    renamed = [Item(f"other:{n}", i.messages, i.answer, {}) for n, i in enumerate(reversed(ITEMS))]
    assert ledger(tmp_path, "s", items=renamed).before() == Looks(3, 3, 1, 1)
    other = [replace(item, answer="another") for item in ITEMS]
    assert ledger(tmp_path, "s", items=other).before() == Looks(3, 0, 0, 0)


def test_an_item_that_was_scored_among_others_is_known(tmp_path: Path) -> None:
    five = [Item(f"t:{n}", (("user", f"Question {n}?"),), str(n), {}) for n in range(5)]
    ledger(tmp_path, "r", items=five[:3]).add("base")
    # All of a smaller set, and a part of another one.
    assert ledger(tmp_path, "s", items=five[:2]).before() == Looks(2, 2, 1, 1)
    assert ledger(tmp_path, "s", items=five[2:]).before() == Looks(3, 1, 1, 1)
    assert ledger(tmp_path, "s", items=five[3:]).before() == Looks(2, 0, 0, 0)
    # Question 2 of two sets; the last row of a set says only which.
    second = ledger(tmp_path, "s", items=five[2:])
    assert second.add("base") is None and second.add("student") is None
    assert [len(row["prints"] or ()) for row in read_jsonl(tmp_path / LEDGER)] == [3, 3, 0]
    assert ledger(tmp_path, "t", items=five).before() == Looks(5, 5, 2, 3)
    assert ledger(tmp_path, "t", items=five[:2]).before() == Looks(2, 2, 1, 1)


def test_a_set_that_an_earlier_version_scored_is_not_known_by_item(tmp_path: Path) -> None:
    old: dict[str, object] = dict(ledger(tmp_path, "r").key.items())
    append_jsonl(tmp_path / LEDGER, [{"subject": "base", **old}, {"subject": "base", **old, "items": "e0"}])
    assert str(ledger(tmp_path, "s").before()) == (
        "how often the 3 items of test were scored before is not known: rows of an earlier version in ledger.jsonl do not say which "
        "items they are of"
    )
    # What a run of before had found is not known either.
    with open_run(tmp_path / "1" / "old", {}) as opened:
        write_json(opened.path / LOOKS, {"look": "a", "items": 3, "looks": 0, "scorings": 0, "unknown": None})
        assert "looks.json is of an earlier version" in str(read_looks(opened.path))


def test_a_ledger_of_many_rows_and_items_is_read_in_a_moment(tmp_path: Path) -> None:
    """A set's items stand in it once: a row for each of its scorings would be 150 KB each."""
    many = [Item(f"t:{n}", (("user", f"Question {n}?"),), "", {}) for n in range(10_000)]
    first = ledger(tmp_path, "r", items=many)
    for n in range(20):
        assert first.add(f"student {n}") is None
    assert ledger(tmp_path, "s", items=many[5_000:]).before() == Looks(5_000, 5_000, 1, 20)
    assert (tmp_path / LEDGER).stat().st_size < 200_000


def test_a_ledger_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path) -> None:
    one = ledger(tmp_path, "r")
    one.add("base")
    text = (tmp_path / LEDGER).read_text()
    (tmp_path / LEDGER).write_text(text.replace('"base"', '"best"'))
    why = one.add("student")
    assert why is not None and LEDGER in why and "changed" in why
    assert "is not known" in str(ledger(tmp_path, "s").before())
    assert (tmp_path / LEDGER).read_text() == text.replace('"base"', '"best"')
    (tmp_path / LEDGER).unlink()
    (tmp_path / LEDGER).mkdir()
    assert "cannot be read" in str(one.add("base"))
    (tmp_path / LEDGER).rmdir()
    (tmp_path / LEDGER).symlink_to("/dev/zero")
    assert "it is a pipe or a device" in str(one.add("base")) and "is not known" in str(one.before())


SMOKE = ["--config", "smoke"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_evaluations_and_loops_share_the_ledger(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *SMOKE, "--split", "test", "--run-name", "e"]) == 0
    assert "the 16 items of test were not scored before" in capsys.readouterr().out
    # Another split is no look at test.
    assert run(["evaluate", *SMOKE, "--split", "select", "--run-name", "s"]) == 0
    assert "items of test" not in capsys.readouterr().out
    assert run(["loop", *SMOKE, "--run-name", "r"]) == 0
    said = "the 16 items of test were scored before by the runs of this folder, once, in one earlier look"
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    rows = read_jsonl(here / "runs" / LEDGER)
    assert [(row["run"], row["look"], row["subject"]) for row in rows] == [
        ("e", "evaluate", "none+base"),
        ("r", "after 1 rounds", "base"),
        ("r", "after 1 rounds", "round_00_prompted"),
    ]
    assert said.replace("the 16", "The 16") in (here / "runs" / "r" / "report.html").read_text()
    # Shown again it is no further look, and says the same.
    assert run(["loop", *SMOKE, "--run-name", "r"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert run(["evaluate", *SMOKE, "--split", "test", "--run-name", "e"]) == 0
    assert read_jsonl(here / "runs" / LEDGER) == rows
    # Made again it is one.
    assert run(["evaluate", *SMOKE, "--split", "test", "--run-name", "e", "--fresh"]) == 0
    assert "by the runs of this folder, up to 3 times, in 2 earlier looks" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = read_jsonl(here / "runs" / LEDGER)

    # Rounds are added: what is scored already is not scored again.
    before = {path: path.stat().st_mtime_ns for path in (here / "runs" / "r").glob("round_00/**/*.jsonl")}
    base = (here / "runs" / "r" / "test" / "base.jsonl").stat().st_mtime_ns
    assert run(["loop", *SMOKE, "--run-name", "r", "--rounds", "2"]) == 0
    added = read_jsonl(here / "runs" / LEDGER)[len(rows) :]
    assert [(row["look"], row["subject"]) for row in added] == [("after 2 rounds", "round_01_prompted")]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (here / "runs" / "r" / "test" / "base.jsonl").stat().st_mtime_ns == base
    looks = read_looks(here / "runs" / "r")
    assert looks is not None and (looks.looks, looks.scorings) == (3, 4)
    capsys.readouterr()
    assert run(["loop", *SMOKE, "--run-name", "r"]) == 6
    assert "has 2 rounds, and loop.rounds is 1" in " ".join(capsys.readouterr().err.split())


def test_a_ledger_of_somebody_else_ends_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs").mkdir()
    (here / "runs" / LEDGER).write_text("my own notes\n")
    assert run(["evaluate", *SMOKE, "--split", "test", "--run-name", "e"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "were scored before is not known" in shown and "not in the ledger" in shown
    assert (here / "runs" / LEDGER).read_text() == "my own notes\n"


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    one = ledger(tmp_path, "r")
    (tmp_path / "file").touch()
    assert "cannot write" in str(Ledger(tmp_path / "file" / LEDGER, one.prints, one.key).add("base"))

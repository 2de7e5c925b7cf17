"""The prompts of a run directory as a reader meets them: on a terminal, piped, and while the search still writes."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from gepa_loop.cli import run as gepa_loop
from gepa_loop.run.files import append_jsonl, write_json, write_jsonl, write_record
from gepa_loop.show.browse import print_all, print_candidate, print_comparison, print_front
from gepa_loop.show.names import nickname
from gepa_loop.show.searches import pick, read_search
from gepa_loop.show.textdiff import print_diff

SEED, FIRST, MERGED, WORSE, REFUSED = "5eed0000", "aa110000", "ab220000", "cc330000", "dd440000"
SEED_TEXT = "Solve the puzzle.\n\nAnswer with {one} number."
FIRST_TEXT = (
    "Solve the puzzle [bold]step by step[/bold].\n\n\tAnswer with {one} number.\nCheck it :smile: twice."
)
LONG = "not above its parent: -0.333 on its minibatch (0 items better, 1 worse), " + "and so on " * 20 + "end"


def row(number: int, id_: str, text: str, parents: list[str], **more: Any) -> dict[str, Any]:
    """A row of candidates.jsonl: accepted with a mean of .5, unless `more` says otherwise."""
    return {
        "number": number,
        "id": id_,
        "text": text,
        "tokens": 10 + number,
        "parents": parents,
        "proposer": "offline",
        "how": "add a rule from the failures of 3 items",
        "reply": "",
        "status": "accepted",
        "reason": None,
        "parent_scores": {"t:train:1": [0.0, 0.0], "t:train:2": [1.0, 1.0], "t:train:3": [0.0, 1.0]},
        "train_scores": {"t:train:1": [1.0, 1.0], "t:train:2": [1.0, 0.0], "t:train:3": [0.0, 1.0]},
        "pareto_scores": {"t:pareto:1": [0.0], "t:pareto:2": [1.0]},
        "pareto_tokens": {"t:pareto:1": 88.0, "t:pareto:2": 88.5},
        "pareto_mean": 0.5,
        "objectives": {"score": 0.5, "prompt_tokens": 10.0, "completion_tokens": 88.25},
        "cost": {"rollouts": 10, "usd": 0.0123, "seconds": 4.4},
        "spent": {"rollouts": 1000 + 10 * number, "usd": 0.05, "seconds": 60.0},
        "quote_usd": 0.0,
        **more,
    }


def unscored(status: str, reason: str, **more: Any) -> dict[str, Any]:
    return {
        "status": status,
        "reason": reason,
        "pareto_scores": {},
        "pareto_mean": None,
        "objectives": None,
    } | more


NONE = {"parent_scores": {}, "train_scores": {}}
ROWS = [
    row(0, SEED, SEED_TEXT, [], proposer="seed", how="the seed prompt", **NONE, pareto_mean=0.25),
    row(1, REFUSED, "t:train:1 is 4", [SEED], **unscored("refused", "holds the question of t:train:1", **NONE)),
    row(2, FIRST, FIRST_TEXT, [SEED], pareto_mean=0.75),
    row(3, WORSE, "Guess.", [SEED], **unscored("rejected", LONG)),
    row(4, WORSE, "Guess.", [FIRST], **unscored("refused", "unchanged: the text of number 3", **NONE)),
    row(5, MERGED, "Both.", [FIRST, SEED], how="merge [of two]", pareto_mean=0.5),
    row(6, "e3b0c442", "", [FIRST], tokens=0, **unscored("failed", "the model's reply was empty", **NONE)),
]  # fmt: skip


def finalist(id_: str, text: str, mean: float, **more: Any) -> dict[str, Any]:
    select = {"n": 40, "mean": mean, "ci": [mean - 0.1, mean + 0.1]}
    gain = {"mean": 0.2, "ci": [-0.05, 0.45], "p": 0.0123}
    seedless = {
        "parents": [SEED],
        "kept": "front",
        "select": select,
        "against_seed": gain,
        "adjusted_p": 0.0246,
    }
    return (
        {
            "id": id_,
            "text": text,
            "tokens": 12,
            "how": "add a rule from the failures of 3 items",
            "pareto_mean": 0.75,
            "objectives": {"score": 0.75, "prompt_tokens": 12, "completion_tokens": 88.25},
        }
        | seedless
        | more
    )


FRONT = [
    finalist(FIRST, FIRST_TEXT, 0.6),
    finalist(
        SEED, SEED_TEXT, 0.4, how="the seed prompt", pareto_mean=0.25, against_seed=None, adjusted_p=None
    ),
]
RESULT = {
    "winner": FIRST,
    "reason": f"{FIRST} is [better] than the seed on select.",
    "stopped_by": "max_rollouts",
    "spent": {"rollouts": 2345, "usd": 0.0, "seconds": 78.0},
    "proposals": 6,
    "finalists": [FIRST, SEED],
}


def begin(folder: Path, *, search: str = "optimize", rows: list[dict[str, Any]] = ROWS) -> Path:
    """A run whose search has come as far as `rows`; returns the search's folder."""
    write_json(folder / "manifest.json", {"identity": {}})
    write_jsonl(folder / search / "candidates.jsonl", rows)
    return folder / search


def finish(search: Path) -> None:
    write_jsonl(search / "front.jsonl", FRONT)
    write_record(search / "result.json", RESULT)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a finished search, `runs/r`."""
    monkeypatch.chdir(tmp_path)
    finish(begin(tmp_path / "runs" / "r"))
    return tmp_path


Prompts = Callable[..., str]


@pytest.fixture
def prompts(here: Path, capsys: pytest.CaptureFixture[str]) -> Prompts:
    """Runs `gepa-loop prompts` as in a pipe and returns what it prints."""

    def command(*args: str) -> str:
        code = gepa_loop(["prompts", *args])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return command


def terminal(width: int, show: Callable[[Console], None], color: bool = False) -> list[str]:
    """The lines that a terminal of some width gets, without colours unless `color`."""
    system, file = "standard" if color else None, io.StringIO()
    console = Console(
        file=file,
        force_terminal=True,
        width=width,
        soft_wrap=True,
        emoji=False,
        color_system=system,  # type: ignore[arg-type]
    )
    show(console)
    return file.getvalue().split("\n")


def test_a_loops_pool_is_shown_by_pareto_alone(here: Path, prompts: Prompts) -> None:
    alone = {"select": None, "against_seed": None, "adjusted_p": None}
    write_jsonl(here / "runs" / "r" / "optimize" / "front.jsonl", [row | alone for row in FRONT])
    write_record(
        here / "runs" / "r" / "optimize" / "result.json", {**RESULT, "winner": None, "finalists": []}
    )
    title, names, best, seed, *_ = prompts("list", "r").split("\n")
    assert (
        title == "pool of r, best first, by 2 items of pareto that the search has chosen by; students decide"
    )
    assert names.split() == ["id", "name", "tokens", "pareto", "how", "it", "was", "made"]
    assert best.split()[:5] == [FIRST, nickname(FIRST), "12", ".750", "add"] and "winner" not in best
    assert seed.split() == [SEED, nickname(SEED), "12", ".250", "the", "seed", "prompt"]
    shown = prompts("show", "r", "best")
    assert f"candidate {FIRST}" in shown and "pareto      .750 on 2 items" in shown
    assert "select" not in shown and "against the seed" not in shown


def test_list_prints_the_front_best_first(prompts: Prompts) -> None:
    title, names, best, seed, _, stopped, reason, following, _ = prompts("list", "r").split("\n")
    assert following == "next: gepa-loop prompts show r best"
    assert title.startswith("front of r, best first: 2 items of pareto, 40 of select")
    assert title.endswith(
        "the first was chosen on these items of select, so its score there is on the high side"
    )
    assert " ".join(names.split()) == "id name tokens pareto select against the seed p how it was made"
    assert best == (
        f"{FIRST}  {nickname(FIRST):<21}      12    .750  .600 [.500, .700]  +.200 [-.050, +.450]  .0246"
        "  add a rule from the failures of 3 items (winner)"
    )
    judged = [".400", "[.300,", ".500]", "-", "-", "the", "seed", "prompt"]
    assert seed.split() == [SEED, nickname(SEED), "12", ".250", *judged]
    assert (
        stopped
        == "6 proposals (2 accepted on a minibatch, 1 rejected, 2 refused, 1 failed), 2,345 rollouts, 78 s; stopped by max_rollouts"
    )
    assert reason == RESULT["reason"]


def test_a_seed_prompt_alone_was_chosen_from_nothing(here: Path, prompts: Prompts) -> None:
    search, reason = here / "runs" / "r" / "optimize", "No proposal was better than the seed prompt."
    write_jsonl(search / "front.jsonl", FRONT[1:])
    write_jsonl(search / "candidates.jsonl", [ROWS[0], ROWS[2]])
    write_record(search / "result.json", {**RESULT, "winner": None, "reason": reason, "finalists": [SEED]})
    title, names, *_, spent, said, _, _ = prompts("list", "r").split("\n")
    assert title == "front of r, the seed prompt alone: 2 items of pareto, 40 of select; 95 % intervals"
    assert names.split() == ["id", "name", "tokens", "pareto", "select", "how", "it", "was", "made"]
    assert spent.startswith("1 proposal (1 accepted on a minibatch), ") and said == reason


def test_list_all_keeps_every_row_on_one_line(prompts: Prompts) -> None:
    lines = prompts("list", "r", "--all").split("\n")[2:9]
    assert [line.split()[:2] for line in lines] == [[str(r["number"]), r["id"]] for r in ROWS]
    for line, made in zip(lines, ROWS, strict=True):
        assert f"  {made['status']} " in line and line.endswith(made["reason"] or made["how"])


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("show", [print_front, print_all])
def test_tables_fit_the_terminal_and_lose_nothing(
    here: Path, width: int, show: Callable[[Any, Console], None]
) -> None:
    lines = terminal(width, lambda console: show(read_search("r"), console))
    table = lines[1 : lines.index("")]
    assert max(map(len, table)) <= width and not any("…" in line for line in lines)
    words = " ".join(" ".join(lines).split())
    told = FRONT if show is print_front else ROWS
    for one in told:
        assert one["id"] in words and all(word in words for word in (one.get("reason") or one["how"]).split())


@pytest.mark.parametrize("how", ["drop a paragraph", "drop a paragraph and so on, at length"])
def test_a_terminal_with_room_has_every_column(here: Path, how: str) -> None:
    """Where names and how each was made would be cramped they stand below, on lines of their own."""
    front = [row | {"how": how} for row in FRONT]
    write_jsonl(here / "runs" / "r" / "optimize" / "front.jsonl", front)
    names = "id name tokens pareto select against the seed p how it was made"
    # 8 + 20 + 6 + 6 + 18 + 20 + 5, two behind each but one behind the last, and 16 of the last
    roomy, narrow = (
        terminal(width, lambda console: print_front(read_search("r"), console)) for width in (114, 113)
    )
    assert " ".join(roomy[1].split()) == names and max(map(len, roomy[1 : roomy.index("")])) <= 114
    assert " ".join(narrow[1].split()) == "id tokens pareto select against the seed p"
    assert f"{SEED}  {nickname(SEED)}: {how}" in narrow


def test_a_running_search_shows_what_it_has(here: Path, prompts: Prompts) -> None:
    search = begin(here / "runs" / "half", search="round_00/optimize", rows=ROWS[:4])
    with open(search / "candidates.jsonl", "a") as file:
        file.write(json.dumps(ROWS[5])[:200])  # a row that is being written
    lines = prompts("list", "half").split("\n")
    assert lines[0].startswith("no front yet in half, round 0") and "accepted so far" in lines[0]
    assert [line.split()[1] for line in lines[2:4]] == [FIRST, SEED]
    assert (
        lines[5]
        == "3 proposals (1 accepted on a minibatch, 1 rejected, 1 refused), 1,030 rollouts, $0.0500, 60 s so far"
    )
    assert prompts("show", "half", "best", "--text") == FIRST_TEXT + "\n"
    write_jsonl(search / "candidates.jsonl", [])
    assert "nothing is recorded so far" in prompts("list", "half")


def test_a_run_in_use_can_be_read(here: Path, prompts: Prompts) -> None:
    with FileLock(here / "runs" / "r" / ".lock"):
        assert FIRST in prompts("list", "r")


def test_a_front_without_a_winner(here: Path, prompts: Prompts) -> None:
    write_record(here / "runs/r/optimize/result.json", {**RESULT, "winner": None})
    assert "winner" not in prompts("list", "r").replace(RESULT["reason"], "")
    assert prompts("show", "r", "best").startswith(f"candidate {FIRST} ")
    assert prompts("show", "r", nickname(FIRST)) == prompts("show", "r", FIRST)
    (here / "runs/r/optimize/result.json").unlink()  # the front is written first
    assert "1 failed), 1,060 rollouts, $0.0500, 60 s so far" in prompts("list", "r")


def test_the_winner_is_best_though_another_is_first(here: Path, prompts: Prompts) -> None:
    write_record(here / "runs/r/optimize/result.json", {**RESULT, "winner": SEED})
    assert prompts("show", "r", "best", "--text") == SEED_TEXT + "\n"


def test_the_last_round_is_read_unless_another_is_named(here: Path, prompts: Prompts) -> None:
    loop = here / "runs" / "loop"
    for number in (2, 10):
        finish(
            begin(
                loop, search=f"round_{number:02d}/optimize", rows=[{**ROWS[0], "tokens": number}, *ROWS[1:]]
            )
        )
    (loop / "round_11").mkdir()  # has begun, but not its search
    assert prompts("list", "loop").startswith("front of loop, round 10,")
    assert prompts("list", str(loop), "--round", "2").startswith("front of loop, round 2,")
    assert "0  5eed0000  -               2    .250" in prompts("show", "loop", "seed", "--round", "2")


def test_show_tells_where_a_prompt_comes_from_and_what_it_costs(prompts: Prompts) -> None:
    head, names, *steps, end = prompts("show", "r", "aa").split("\n\n", 1)[0].split("\n")
    assert head == f"candidate {FIRST} {nickname(FIRST)} of r: accepted" and "made from" in names
    assert steps[0].split()[:6] == ["0", SEED, "-", "10", ".250", "accepted"]
    assert end.split()[:6] == ["2", FIRST, SEED, "12", ".750", "accepted"]
    facts = prompts("show", "r", "aa").split("\n\n", 2)[1].split("\n")
    assert facts == [
        "pareto      .750 on 2 items",
        "select      .600 [.500, .700] on 40 items",
        "            +.200 [-.050, +.450] against the seed, p = .0123, .0246 after Holm's correction",
        # 1, .5 and .5 of the parent's 0, 1 and .5
        "minibatch   .667 on 3 items, its parent .500: 1 better, 1 worse",
        "objectives  score 0.5, prompt tokens 10, completion tokens 88.25",
        "cost        10 rollouts, $0.0123, 4 s; the search up to here 1,020 rollouts, $0.0500, 60 s",
    ]


def test_a_merge_descends_from_both_parents(prompts: Prompts) -> None:
    lines = prompts("show", "r", MERGED).split("\n")
    assert [line.split()[1] for line in lines[2:5]] == [SEED, FIRST, MERGED]
    assert f"{FIRST} {SEED}" in lines[4] and "merge [of two]" in lines[4]


def test_a_text_proposed_twice_is_shown_as_it_was_judged(prompts: Prompts) -> None:
    shown = prompts("show", "r", "CC33")
    assert shown.startswith(f"candidate {WORSE} {nickname(WORSE)} of r: rejected\n")
    assert f"\nreason      {LONG}\n" in shown and "pareto  " in shown and "unchanged" not in shown


def test_a_refused_prompt_was_never_scored(prompts: Prompts) -> None:
    shown = prompts("show", "r", REFUSED)
    assert "reason      holds the question of t:train:1" in shown and "minibatch" not in shown


@pytest.mark.parametrize("prompt", [SEED_TEXT, FIRST_TEXT])
def test_texts_are_printed_as_they_are(prompts: Prompts, prompt: str) -> None:
    word = "seed" if prompt == SEED_TEXT else "best"
    assert prompts("show", "r", word).endswith(f"\ntext\n{prompt}\n")
    chosen = pick(read_search("r"), word)
    lines = terminal(60, lambda console: print_candidate(read_search("r"), chosen, console))
    assert "\n".join(lines).endswith(f"\ntext\n{prompt}\n")


def test_text_makes_a_prompt_file_in_any_locale(here: Path) -> None:
    write_jsonl(here / "runs/r/optimize/candidates.jsonl", [{**ROWS[0], "text": "Löse {x} → [b]y[/b]"}])
    code = "from gepa_loop.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "prompts", "show", "r", "seed", "--text"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout == "Löse {x} → [b]y[/b]\n".encode()


def test_reading_prompts_loads_no_torch(here: Path) -> None:
    code = (
        "import sys; from gepa_loop.cli import run; code = run(['prompts', 'list', 'r'])\n"
        "print(code, [m for m in ('torch', 'transformers', 'dspy', 'litellm', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n0 []\n")


def test_diff_is_a_unified_diff_in_a_pipe(prompts: Prompts) -> None:
    assert prompts("diff", "r", "seed", "best").split("\n") == [
        f"--- {SEED}  10 tokens, .250 on pareto",
        f"+++ {FIRST}  12 tokens, .750 on pareto",
        "@@ -1,3 +1,4 @@",
        "-Solve the puzzle.",
        "+Solve the puzzle [bold]step by step[/bold].",
        " ",
        "-Answer with {one} number.",
        "+\tAnswer with {one} number.",
        "+Check it :smile: twice.",
        "",
    ]
    assert f"+++ {WORSE}  13 tokens, rejected" in prompts("diff", "r", "seed", WORSE)
    assert "the texts are equal" in prompts("diff", "r", "seed", SEED)


def test_diff_is_side_by_side_on_a_wide_terminal(here: Path) -> None:
    search = read_search("r")

    def show(console: Console) -> None:
        print_comparison(pick(search, "seed"), pick(search, "best"), console)

    head, _, *lines = terminal(120, show)
    assert head.split() == f"- {SEED} 10 tokens, .250 on pareto + {FIRST} 12 tokens, .750 on pareto".split()
    assert " ".join(lines[0].split()) == "- Solve the puzzle. + Solve the puzzle [bold]step by step[/bold]."
    assert lines[2].startswith("-  Answer") and lines[3].strip() == "+  Check it :smile: twice."
    assert terminal(99, show)[0].startswith(f"--- {SEED}")


def test_the_words_that_differ_are_marked() -> None:
    def show(console: Console) -> None:
        print_diff("Say four and stop.", "Say five [b] and stop.", ("a", "b"), console)

    line = terminal(100, show, color=True)[2]
    marked = [part.split("m", 1)[1] for part in line.split("\x1b[") if part.startswith("1;7;")]
    assert marked == ["four", "five [b]"]


def test_a_diff_leaves_out_what_is_far_from_a_change() -> None:
    old = [f"line {n}" for n in range(30)]
    new = [*old[:2], "new", *old[2:-1], "last"]
    shown = terminal(100, lambda c: print_diff("\n".join(old), "\n".join(new), ("a", "b"), c))
    told = [line.split() for line in shown[2:-1]]
    assert ["+", "new"] in told and ["-", "line", "29", "+", "last"] in told
    assert [row[0] for row in told].count("⋯") == 1 and ["line", "15", "line", "15"] not in told


def test_a_line_separator_is_no_line_end(here: Path, prompts: Prompts) -> None:
    rows = [{**ROWS[0], "text": "a\u2028b"}, {**ROWS[2], "text": "a\u2028c"}]
    write_jsonl(here / "runs/r/optimize/candidates.jsonl", rows)
    assert prompts("diff", "r", "seed", FIRST).endswith("\n-a\\u2028b\n+a\\u2028c\n")


def test_what_steers_a_terminal_is_shown_as_escapes(here: Path, prompts: Prompts) -> None:
    title = "\x1b]0;OWNED\x07"
    held = {**NONE, "reason": f"control character {title}", "how": f"rewrite {title}", "status": "refused"}
    rows = [ROWS[0], row(1, FIRST, f"One\n{title}\ntwo", [SEED], **unscored(**held))]
    write_jsonl(here / "runs/r/optimize/candidates.jsonl", rows)
    for words in (["list", "r", "--all"], ["show", "r", FIRST], ["diff", "r", "seed", FIRST]):
        found = prompts(*words)
        assert "\\x1b]0;OWNED" in found and "\x1b" not in found and "\x07" not in found, found
    assert prompts("show", "r", FIRST, "--text") == f"One\n{title}\ntwo\n"


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["list", "nope"], "nope: no such run", "Runs with a search: loop, r."),
        (["list", "folder"], "folder: no run directory", "Runs with a search: loop, r."),
        (["list", "distilled"], "run distilled has no search", "Runs with a search: loop, r."),
        (["list", "r", "--round", "1"], "--round 1: run r has no such round", "leave --round out"),
        (["list", "loop", "--round", "7"], "--round 7: run loop has no such round", "a search: 0, 1."),
        (
            ["show", "r", "a"],
            "a: 2 candidates of r begin with it",
            f"{FIRST} (accepted), {MERGED} (accepted).",
        ),
        (["show", "r", "9"], "'9': no candidate of r", f"seed, best, {FIRST} (accepted)"),
        (["show", "r", ""], "'': no candidate of r", "--all"),
        (["diff", "r", "seed", "[b]"], "'[b]': no candidate of r", "seed, best"),
        (["show", "loop", "seed"], "seed: no candidate is recorded yet in loop, round 1", "just begun"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str, hint: str
) -> None:
    (here / "folder").mkdir()
    write_json(here / "runs" / "distilled" / "manifest.json", {"identity": {}})
    finish(begin(here / "runs" / "loop", search="round_00/optimize"))
    begin(here / "runs" / "loop", search="round_01/optimize", rows=[])
    assert gepa_loop(["prompts", *args]) == 2
    shown = capsys.readouterr().err
    assert message in shown and hint in shown


def test_a_damaged_or_foreign_file_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "runs/r/optimize/candidates.jsonl"
    append_jsonl(path, [{"id": "aaaaaaaa", "text": "of another version"}])
    assert gepa_loop(["prompts", "list", "r"]) == 6
    assert "candidates.jsonl: a row has no 'number'" in capsys.readouterr().err
    path.write_text("{\n")
    assert gepa_loop(["prompts", "list", "r"]) == 6
    assert "candidates.jsonl: row 1: not JSON" in capsys.readouterr().err


def test_what_a_search_writes_can_be_read(
    here: Path, prompts: Prompts, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", "optimize.max_front=4", "--set", "distill.steps=3"]
    assert gepa_loop(["optimize", "--config", "smoke", "--run-name", "o", *sets]) == 0
    told = capsys.readouterr().out
    # What `distill` does not read is not handed on to it.
    assert told.endswith(".txt --config smoke --set distill.steps=3\n") and "next: gepa-loop distill" in told
    front, _, following = prompts("list", "o").partition("next: ")
    assert front in told  # the command ends with its front
    assert "\noptimize\n" in told and "round 0" not in told
    assert following == "gepa-loop prompts show o best\n"
    kept = prompts("show", "o", "seed", "--text").removesuffix("\n")
    written = {path.stem: path.read_text() for path in (here / "runs/o/optimize/prompts").glob("*.txt")}
    assert kept in written.values()
    for id_ in written:
        assert "\nselect  " in prompts("show", "o", id_)
    rejected = next(row for row in read_search("o").tried if row["status"] == "rejected")
    assert "its parent" in prompts("show", "o", rejected["id"])

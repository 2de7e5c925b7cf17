"""Whole runs with Claude as the reflection model: real clients against Anthropic's API on loopback."""

from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
from anthropic_api import (
    BROKEN,
    KEY,
    MODEL,
    OVERLOADED,
    AnthropicAPI,
    Behaviour,
    anthropic_api,
    cut,
    disconnect,
    error,
    hang,
    instruction,
    malformed,
    normal,
    rate_limited,
    slow,
)
from coin import SETS
from places import HELPERS

from gepa_loop.cli import run
from gepa_loop.run.files import read_json, read_jsonl

USD = (1000 * 4 + 200 * 20) / 1e6
"""What a reply of the fake costs at $4 and $20 a million tokens."""


class Runs:
    """The `optimize` command in one folder, and what it leaves there."""

    api: AnthropicAPI

    def __init__(self, cwd: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.cwd, self.monkeypatch, self.capfd = cwd, monkeypatch, capfd
        self.shown = ""

    def __call__(self, *script: Behaviour, sets: tuple[str, ...] = (), command: str = "optimize") -> int:
        model = f"optimize.reflection.model=anthropic/{MODEL}"
        given = [*SETS, model, "optimize.reflection.retries=0", "optimize.max_rollouts=60", *sets]
        args = [command, "--config", "smoke", *(word for one in given for word in ("--set", one))]
        with anthropic_api(self.monkeypatch, *script) as self.api:
            code = run([*args, *([] if command == "plan" else ["--run-name", "r"])])
        captured = self.capfd.readouterr()
        self.shown = captured.out + captured.err
        files = [path.read_bytes() for path in self.cwd.rglob("*") if path.is_file()]
        assert not any(KEY.encode() in data for data in files) and KEY not in self.shown
        return code

    @property
    def folder(self) -> Path:
        return self.cwd / "runs" / "r" / "optimize"

    @property
    def candidates(self) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / "candidates.jsonl")[1:]


@pytest.fixture
def optimize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    return Runs(tmp_path, monkeypatch, capfd)


def prompt(number: int) -> str:
    return f"Say the number after it, variant {number}."


def texts(count: int) -> list[Behaviour]:
    return [instruction(prompt(n)) for n in range(count)]


def test_normal_replies_become_candidates_with_their_cost(optimize: Runs) -> None:
    assert optimize(*texts(20)) == 0, optimize.shown
    rows = optimize.candidates
    assert len(rows) == len(optimize.api.messages) > 2
    assert [row["text"] for row in rows[:2]] == [prompt(0), prompt(1)]
    assert {row["status"] for row in rows} >= {"accepted", "rejected"}
    assert all(row["cost"]["usd"] == pytest.approx(USD) for row in rows)
    assert read_json(optimize.folder / "result.json")["spent"]["usd"] == pytest.approx(USD * len(rows))
    # The model was looked up and the first proposal counted before any was asked for.
    assert optimize.api.paths[:2] == [f"GET /v1/models/{MODEL}", "POST /v1/messages/count_tokens"]


def test_a_finished_run_asks_nobody(optimize: Runs) -> None:
    assert optimize(*texts(20)) == 0
    assert optimize(*texts(20)) == 0 and optimize.api.paths == []


def test_slow_replies_are_waited_for(optimize: Runs) -> None:
    release = Event()
    timer = Timer(0.3, release.set)
    timer.start()
    assert optimize(slow(release, texts(1)[0]), *texts(20)[1:]) == 0, optimize.shown
    timer.join()
    assert {row["status"] for row in optimize.candidates} <= {"accepted", "rejected", "refused"}


@pytest.mark.parametrize(
    "behaviour", [rate_limited("0"), error(529, "overloaded_error", **{"retry-after": "0"})]
)
def test_what_passes_is_tried_again_and_leaves_no_trace(optimize: Runs, behaviour: Behaviour) -> None:
    sets = ("optimize.reflection.retries=3",)
    assert optimize(behaviour, behaviour, *texts(20), sets=sets) == 0, optimize.shown
    assert optimize.candidates[0]["text"] == prompt(0) and optimize.candidates[0]["status"] != "failed"
    assert len(optimize.api.messages) == len(optimize.candidates) + 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (rate_limited("0"), "HTTP 429, rate limited"),
        (OVERLOADED, "HTTP 529, overloaded"),
        (BROKEN, "HTTP 500, the provider failed"),
        (malformed, "the answer is not JSON"),
        (hang, "timed out after"),
        (disconnect, "the connection broke off"),
    ],
    ids=["429", "529", "500", "malformed", "hang", "disconnect"],
)
def test_what_does_not_pass_is_never_a_score_and_ends_the_run_with_3(
    optimize: Runs, behaviour: Behaviour, words: str
) -> None:
    sets = ("optimize.reflection.timeout_seconds=0.3",)
    assert optimize(texts(1)[0], behaviour, sets=sets) == 3
    assert "2 of the last 3 calls of anthropic/claude-opus-5-5 failed; the first:" in optimize.shown
    assert words in optimize.shown and "Traceback" not in optimize.shown
    statuses = [row["status"] for row in optimize.candidates]
    assert statuses[0] in ("accepted", "rejected") and statuses[1:] == ["failed"]
    failed = optimize.candidates[-1]
    assert words in failed["reason"] and failed["train_scores"] == failed["pareto_scores"] == {}
    assert not (optimize.folder / "front.jsonl").exists()
    # The provider is well again: the same command goes on and keeps what there was.
    assert optimize(*texts(20)[1:], sets=sets) == 0, optimize.shown
    assert [row["status"] for row in optimize.candidates[:3]] == [*statuses, "failed"]
    assert len(optimize.candidates) == 3 + len(optimize.api.messages) > 3


def test_a_request_that_is_refused_does_not_end_the_search(optimize: Runs) -> None:
    assert optimize(texts(1)[0], error(400, "invalid_request_error"), *texts(20)[1:]) == 0, optimize.shown
    assert "HTTP 400, invalid request" in optimize.candidates[1]["reason"]


def test_a_run_goes_on_with_whom_it_began(optimize: Runs) -> None:
    sets = ("optimize.reflection.model=auto", f"optimize.reflection.auto_model=anthropic/{MODEL}")
    assert optimize(texts(1)[0], OVERLOADED, sets=sets) == 3
    optimize.monkeypatch.delenv("ANTHROPIC_API_KEY")
    args = [*SETS, "optimize.reflection.retries=0", "optimize.max_rollouts=60", *sets]
    code = run(["optimize", "--config", "smoke", "--run-name", "r", *(w for s in args for w in ("--set", s))])
    shown = optimize.capfd.readouterr().err
    assert code == 6 and f"reflection: 'anthropic/{MODEL}' in the run, now 'offline'" in shown


def test_a_seed_prompt_over_the_cap_is_refused(optimize: Runs) -> None:
    code = run(["optimize", "--config", "smoke", "--set", "optimize.max_prompt_tokens=5"])
    assert code == 2 and "optimize.seed_prompt has 20 tokens" in optimize.capfd.readouterr().err


def test_one_failure_in_twenty_is_passed_over(optimize: Runs) -> None:
    assert optimize(texts(1)[0], OVERLOADED, *texts(20)[1:]) == 0, optimize.shown
    assert [row["status"] for row in optimize.candidates].count("failed") == 1


@pytest.mark.parametrize("command", ["optimize", "loop", "plan"])
def test_a_refused_key_is_found_before_the_first_rollout(optimize: Runs, command: str) -> None:
    with anthropic_api(optimize.monkeypatch, *texts(1)) as api:
        optimize.monkeypatch.setenv("ANTHROPIC_API_KEY", "another-fake-key")
        sets = [*SETS, f"optimize.reflection.model=anthropic/{MODEL}"]
        code = run([command, "--config", "smoke", *(word for one in sets for word in ("--set", one))])
    shown = optimize.capfd.readouterr()
    assert code == 3 and "HTTP 401, the key is refused" in shown.err
    assert "fake-key" not in shown.out + shown.err
    assert api.messages == [] and not (optimize.cwd / "runs").exists()


def test_a_missing_key_is_found_before_the_first_rollout(optimize: Runs) -> None:
    optimize.monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    code = run(["optimize", "--config", "smoke", "--set", f"optimize.reflection.model=anthropic/{MODEL}"])
    assert code == 3 and "ANTHROPIC_API_KEY is not set" in optimize.capfd.readouterr().err
    assert not (optimize.cwd / "runs").exists()


def test_cut_replies_and_replies_without_an_instruction_are_refused_with_the_reason(optimize: Runs) -> None:
    half = cut('{"new_instruction": "Say the number aft')
    assert optimize(half, normal("I would rather not."), *texts(20)) == 0, optimize.shown
    one, two, *others = optimize.candidates
    assert one["status"] == "refused" and one["reason"].startswith("cut: ")
    assert two["status"] == "refused" and two["reason"].startswith("unreadable: ")
    assert (one["reply"], two["reply"]) == ('{"new_instruction": "Say the number aft', "I would rather not.")
    assert one["cost"]["usd"] == two["cost"]["usd"] == pytest.approx(USD)
    assert others[0]["text"] == prompt(0)


def test_replies_in_prose_are_read(optimize: Runs) -> None:
    replies = [normal(f"Sure! Here is the new prompt:\n\n{prompt(n)}") for n in range(20)]
    assert optimize(*replies) == 0, optimize.shown
    assert [row["text"] for row in optimize.candidates[:2]] == [prompt(0), prompt(1)]


@pytest.mark.parametrize(
    ("behaviour", "reason", "shown"),
    [
        (normal("{}"), "unreadable", "'{}'"),
        (normal(""), "unreadable", "an empty reply"),
        (cut('{"new_instruction": "half'), "cut: the reply ended", "half"),
    ],
)
def test_five_replies_without_an_instruction_end_the_run_with_3(
    optimize: Runs, behaviour: Behaviour, reason: str, shown: str
) -> None:
    assert optimize(texts(1)[0], behaviour) == 3
    words = " ".join(optimize.shown.split())
    assert f"5 replies of anthropic/{MODEL} in a row held no whole instruction; the first ({reason}" in words
    assert shown in words and len(optimize.api.messages) == 6
    # They are on record, so one more of the kind is enough, and a good one goes on. All are paid, and counted.
    assert optimize(behaviour) == 3 and len(optimize.api.messages) == 1
    assert f"6 replies of anthropic/{MODEL} in a row" in " ".join(optimize.shown.split())
    assert optimize(*texts(20)[1:]) == 0, optimize.shown
    assert [row["status"] for row in optimize.candidates[1:7]] == ["refused"] * 6
    paid = 7 + len(optimize.api.messages)
    assert len(optimize.candidates) == paid
    assert read_json(optimize.folder / "result.json")["spent"]["usd"] == pytest.approx(paid * USD)


def test_a_search_that_could_read_no_reply_at_all_ends_with_3(optimize: Runs) -> None:
    assert optimize(normal("[]"), sets=("optimize.max_usd=0.345",)) == 3
    words = " ".join(optimize.shown.split())
    assert "2 replies of" in words and "the first (unreadable" in words and "'[]'" in words
    assert not (optimize.folder / "front.jsonl").exists()


def test_refusals_end_the_run_as_failures_do(optimize: Runs) -> None:
    refuse = normal("I can't help with that.", stop_reason="refusal")
    assert optimize(texts(1)[0], refuse) == 3
    words = " ".join(optimize.shown.split())
    assert "2 of the last 3 calls of" in words and "finish_reason content_filter" in words
    assert "I can't help with that." in words
    failed = optimize.candidates[1]
    assert failed["status"] == "failed" and failed["cost"]["usd"] == pytest.approx(USD)
    assert optimize(*texts(20)[1:]) == 0, optimize.shown
    assert [row["status"] for row in optimize.candidates[1:3]] == ["failed"] * 2
    cost = optimize.candidates[2]["cost"]
    assert (cost["usd"], cost["input_tokens"], cost["output_tokens"]) == (pytest.approx(USD), 1000, 200)
    assert len(optimize.candidates) == 3 + len(optimize.api.messages)


def test_dollars_that_allow_no_proposal_are_refused_with_the_least_that_does(optimize: Runs) -> None:
    # 1,234 tokens to read (the fake counts so) and up to 16,384 to write.
    least = (1234 * 4 + 16384 * 20) / 1e6
    assert optimize(*texts(1), sets=("optimize.max_usd=0.3",)) == 2
    assert f"may cost ${least:.2f}" in optimize.shown and "Raise it to 0.34 or more" in optimize.shown
    assert optimize.api.messages == [] and not (optimize.cwd / "runs").exists()
    assert optimize(*texts(20), sets=("optimize.max_usd=0.34",)) == 0, optimize.shown


def test_dollars_end_the_search_before_they_are_passed(optimize: Runs) -> None:
    assert optimize(*texts(20), sets=("optimize.max_usd=0.345",)) == 0, optimize.shown
    stopped = read_json(optimize.folder / "result.json")["stopped_by"]
    assert stopped == "usd: 0.02 of 0.34, and a proposal may cost 0.33" and len(optimize.api.messages) == 2


def test_the_plan_says_what_a_run_may_cost(optimize: Runs) -> None:
    assert optimize(*texts(1), command="plan") == 0, optimize.shown
    shown = " ".join(optimize.shown.split())
    assert f"reflection: anthropic/{MODEL}" in shown
    assert "search: " in shown and " tokens to read with the seed prompt's " in shown
    assert "proposals: 3 to 8, and more where some are refused unread" in shown
    assert "up to 1,234 tokens read and 16,384 written, up to $0.33; 8 of them up to $2.66" in shown
    assert "the search ends before it passes optimize.max_usd = 5" in shown
    # Of a round, with 4 samples an item: baseline 24 items, search 60 rollouts; 64 items of the race for the model, three prompts and,
    # after step 2, their students; one student with 16 rollouts and a check of 8 items, two with 24 and 2 checks, and these and
    # their prompts on 16 items; and test thrice, with a greedy reply besides; and the
    # greedy replies of its items once more.
    race, trained = 4 * 64 * (1 + 3 + 3), 16 + 4 * 8 + 2 * (24 + 4 * 2 * 8)
    total = 4 * 24 + 60 + race + trained + 4 * 16 * 2 * 2 + 3 * 16 * 5 + 16
    whole = next(line.split() for line in optimize.shown.splitlines() if line.startswith("in all"))
    assert whole[2] == f"{total:,}" and whole[-1] == "$2.66"
    assert optimize.api.messages == [] and not (optimize.cwd / "runs").exists()

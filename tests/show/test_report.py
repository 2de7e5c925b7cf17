"""The page of a run: made from the run directory alone, everything in it escaped."""

from pathlib import Path
from typing import Any

import pytest

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_json, read_record, write_json, write_jsonl, write_record, write_text
from gepa_loop.show.report import write_report

PROMPT = 'Say <b>"four"</b> & stop {now}.'


def score(mean: float) -> dict[str, Any]:
    return {"n": 40, "mean": mean, "ci": [mean - 0.1, mean + 0.1]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of one round: one student, and one candidate that was skipped."""
    one = {"id": "aaaaaaaa", "prompted": score(0.5), "student": score(0.6), "skipped": None}
    two = {"id": "bbbbbbbb", "prompted": None, "student": None, "skipped": "no teacher gap <here>"}
    summary = {
        "round": 0,
        "winner": "aaaaaaaa",
        "reason": "aaaaaaaa won.",
        "ended": None,
        "candidates": [one, two],
    }
    folder = tmp_path / "round_00"
    second = {"id": "cccccccc", "difference": {"mean": 0.0125, "ci": [-0.25, 0.275], "p": 0.4375}}
    write_json(folder / "decision.json", {**summary, "oracle": 0.625, "runner_up": second})
    rows = [
        {"id": "aaaaaaaa", "text": PROMPT, "pareto_mean": 0.25},
        {"id": "bbbbbbbb", "text": "Two.", "pareto_mean": 0.1875},
    ]
    write_jsonl(folder / "optimize" / "front.jsonl", rows)
    fate = {"status": "accepted", "reason": None, "how": "the seed prompt"}
    write_jsonl(folder / "optimize" / "candidates.jsonl", [{**row, **fate} for row in rows])
    write_text(folder / "optimize" / "prompts" / "aaaaaaaa.txt", PROMPT)
    write_record(folder / "optimize" / "result.json", {})
    steps = [{"step": 1, "reverse_kl": 0.4}, {"step": 2, "reverse_kl": 0.2, "held_out_score": 0.5}]
    write_jsonl(folder / "distill" / "aaaaaaaa" / "metrics.jsonl", steps)
    choice = {"step": 2, "score": 0.4375, "reason": "the highest score"}
    write_record(folder / "distill" / "aaaaaaaa" / "result.json", {"choice": choice}, "metrics.jsonl")
    write_text(tmp_path / "config.json", '{"seed": 0}')
    facts = {"distinct_questions": 99, "commonest_answer": "4", "commonest_share": 0.125}
    write_jsonl(tmp_path / "events.jsonl", [{"event": "start", **facts, "warnings": ["mind the <gap>"]}])
    difference = {"mean": 0.3, "ci": [0.2, 0.4], "p": 0.0123}
    one_round = {
        **dict.fromkeys(("base", "prompted", "student"), score(0.25)),
        "student_minus_base": {"mean": 0.375, "ci": [0.2, 0.4], "p": 0.0001},
        "prompted_minus_base": {"mean": 0.25, "ci": [0.2, 0.4], "p": 0.0001},
    }
    card = {"samples": 1, "pass_at_k": 0.25, "tokens": 6.5, "cut": 0.125}
    test = {
        "base": score(0.3) | card,
        "prompted": score(0.5) | card,
        "student": score(0.6) | card,
        "student_minus_base": difference,
        "student_minus_prompted": {"mean": 0.1, "ci": [0.0, 0.2], "p": 0.5},
    }
    warm = {"samples": 4, "pass_at_k": 0.475, "tokens": 8.5, "cut": 0.245}
    sampled = test | {key: score(0.125) | warm for key in ("base", "prompted", "student")}
    share = {"mean": 1.5, "ci": [1.0, 2.0]}
    result = {
        "status": "done",
        "adapter": "round_00/distill/aaaaaaaa/adapter",
        "prompt": "round_00/optimize/prompts/aaaaaaaa.txt",
        "rounds": [{**summary, "test": one_round, "internalisation": share}],
        "decides": "greedy",
        "test": test,
        "greedy": test,
        "sampled": sampled,
        "tokens": {"prompt": 17, "bare": 3, "base": 9.5, "prompted": 4.0, "student": 3.5},
        "internalisation": share,
    }
    write_record(tmp_path / "result.json", result, result["prompt"])
    return tmp_path


def test_the_page_tells_what_happened(run: Path) -> None:
    page = write_report(run).read_text()
    assert "difference 0.300 [0.200, 0.400], p = .0123" in page
    assert "model = 0.375 [0.200, 0.400], p &lt;= .0001" in page
    assert "keeps 1.500 [1.000, 2.000] of the prompt's gain" in page and "No further round" not in page
    assert "aaaaaaaa · winner, chosen on these items" in page and "bbbbbbbb · winner" not in page
    assert "oracle" in page and "0.625" in page and "12.5 %" in page
    rows = page.split("<tr>")
    assert sum('<td class="n">17</td></tr>' in row for row in rows) == 2  # the prompt's, both ways
    assert sum('<td class="n">3</td></tr>' in row for row in rows) == 4
    assert (
        "Kept: step 2, the highest score. Its held-out score, 0.438, is of the items that chose it." in page
    )
    # Steps 1 and 2 of 2 lie at the middle and the right end; the larger KL at the top, half of it half as high.
    assert 'points="210.0,24.0 396.0,60.0"' in page


def test_a_prompt_whose_student_is_not_tested_is_shown_by_pareto(run: Path) -> None:
    one, two = write_report(run).read_text().split("<h3>bbbbbbbb")
    assert '+ prompt, on pareto</td><td class="n">0.188</td>' in two and "on pareto</td>" not in one
    assert "student − student of cccccccc" in one and "cccccccc" not in two
    assert f'<td class="n">{0.0125:.3f}</td><td class="n">[-0.250, 0.275]</td><td>p = .4375</td>' in one


def test_the_page_says_why_there_is_no_share_and_no_further_round(run: Path) -> None:
    result = read_record(run / "result.json")
    (own,) = result["rounds"]
    own |= {"internalisation": None}
    own["test"]["prompted_minus_base"]["ci"] = [-0.1, 0.4]
    write_record(run / "result.json", result, result["prompt"])
    decision = read_json(run / "round_00" / "decision.json")
    write_json(run / "round_00" / "decision.json", decision | {"ended": "nothing <new>"})
    page = write_report(run).read_text()
    assert "not known, as that may be 0" in page and "No further round: nothing &lt;new&gt;." in page
    assert "The student keeps" not in page
    # Where no prompt is read, nothing of one can be kept.
    own["test"]["prompted_minus_base"]["ci"] = [0.1, 0.4]
    write_record(run / "result.json", result, result["prompt"])
    page = write_report(run).read_text()
    assert "not known" not in page and "The student keeps" not in page


def test_everything_is_escaped(run: Path) -> None:
    page = write_report(run).read_text()
    assert '<b>"four"' not in page
    assert "Say &lt;b&gt;&#34;four&#34;&lt;/b&gt; &amp; stop {now}." in page
    assert "no teacher gap &lt;here&gt;" in page and "mind the &lt;gap&gt;" in page


def test_nothing_is_fetched(run: Path) -> None:
    page = write_report(run).read_text()
    assert "http" not in page and "<script" not in page and "src=" not in page


def test_a_run_without_a_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"result\.json"):
        write_report(tmp_path)

"""What a pipeline reads of scores: JUnit's XML, and a summary in Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from gepa_loop.errors import ConditionHolds
from gepa_loop.run.files import disk_errors, write_text
from gepa_loop.scores.conditions import Condition
from gepa_loop.scores.numbers import decimal, gain_text, interval_text
from gepa_loop.stages.records import EvaluatedRecord


def junit(conditions: Sequence[Condition], means: Mapping[str, float]) -> str:
    """A test for each condition, which fails where it holds."""
    failed = sum(one.holds(means) for one in conditions)
    suite = ElementTree.Element(
        "testsuite", name="gepa-loop evaluate", tests=str(len(conditions)), failures=str(failed)
    )
    for one in conditions:
        case = ElementTree.SubElement(suite, "testcase", classname="gepa-loop", name=one.text)
        if one.holds(means):
            ElementTree.SubElement(case, "failure", message=one.told(means))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown(
    result: EvaluatedRecord,
    labels: Sequence[str],
    conditions: Sequence[Condition],
    means: Mapping[str, float],
) -> str:
    """A table of scores and what became of the conditions, for GitHub's summary of a job."""
    lines = [
        f"### gepa-loop: {result['split']}, {result['decides']} replies",
        "",
        "| | items | score | 95 % interval |",
        "|---|---|---|---|",
    ]
    for label, one in zip(labels, result["subjects"], strict=True):
        lines.append(f"| {_cell(label)} | {one['n']} | {decimal(one['mean'])} | {interval_text(one['ci'])} |")
    if (gap := result["difference"]) is not None:
        lines += ["", f"First less second, paired: {gain_text(gap)}."]
    lines += [
        "",
        *(f"- {'FAILED' if one.holds(means) else 'passed'}: {_cell(one.told(means))}" for one in conditions),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def tell_pipeline(
    result: EvaluatedRecord,
    labels: Sequence[str],
    conditions: Sequence[Condition],
    means: Mapping[str, float],
    junit_file: Path | None,
) -> None:
    """Write what a pipeline reads, and fail where a condition holds.

    Where GitHub runs it (GITHUB_STEP_SUMMARY is set), the summary of the job gets a table.

    Raises:
        ConditionHolds: One does.
        EnvironmentFault: A file cannot be written.
    """
    if junit_file is not None:
        write_text(junit_file, junit(conditions, means))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with disk_errors(Path(summary)), open(summary, "a", encoding="utf-8") as file:
            file.write(markdown(result, labels, conditions, means))
    if held := [one.told(means) for one in conditions if one.holds(means)]:
        raise ConditionHolds("\n".join(held), "The run is complete; see its result.json.")

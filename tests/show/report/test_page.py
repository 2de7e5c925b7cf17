"""A run's page in a real browser: what it looks like, what it does, and what it never does."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import opened, overflow
from hostile import HOSTILE, make_hostile

from gepa_loop.run.files import read_jsonl
from gepa_loop.show.report.write import write_report

RUNS = ("d", "l")


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_its_window_and_asks_nobody_for_anything(
    made: Path, browser: Any, name: str, width: int
) -> None:
    with opened(browser, made / name / "report.html", width) as seen:
        page = seen.page
        for summary in page.query_selector_all("summary"):
            if not summary.evaluate("node => node.parentElement.open"):
                summary.click()
        for button in page.query_selector_all("#table tbody button")[:3]:
            button.click()
        assert overflow(page) == 0
        assert not seen.faults and not seen.asked
        drawn = page.query_selector_all(".js-plotly-plot")
        assert len(drawn) == len(page.query_selector_all("[data-figure]")) >= 2
        assert all(figure.bounding_box()["width"] <= width for figure in drawn)


@pytest.mark.parametrize("name", RUNS)
def test_hostile_texts_are_texts(made: Path, browser: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "<img src=x onerror=alert(0)>"
    shutil.copytree(made / name, folder)
    make_hostile(folder)
    clean = made / name / "report.html"
    with opened(browser, write_report(folder), 400) as seen, opened(browser, clean, 400) as usual:
        page, count = (
            seen.page,
            "document.querySelectorAll('script, style, iframe, object, embed, base, link').length",
        )
        for one in (page, usual.page):
            for summary in one.query_selector_all("summary"):
                if not summary.evaluate("node => node.parentElement.open"):
                    summary.click()
            for button in one.query_selector_all("#table tbody button"):
                button.click()
        assert not seen.faults and not seen.asked and overflow(page) == 0
        # plotly.js adds style elements, the same ones to both.
        assert page.evaluate(count) == usual.page.evaluate(count)
        assert not page.query_selector_all("img, [onerror], [onload]")
        text = page.evaluate("document.body.textContent")
        assert text.count(HOSTILE) > 40
        assert page.title() == f"{folder.name} · gepa-loop"
        assert folder.name in page.inner_text("header.top")
        for place in ("#items-title ~ #table th[scope=row]", "#table td", "#run", "#prompts"):
            assert HOSTILE in page.text_content(place) or HOSTILE in page.text_content(f"{place} >> nth=1")


def test_the_table_is_filtered_by_text_outcome_and_label(made: Path, browser: Any) -> None:
    rows = {
        who: {row["item"]: row for row in read_jsonl(made / "d" / "test" / f"{who}_greedy.jsonl")}
        for who in ("prompted", "student")
    }
    items = {row["item"]: row for row in read_jsonl(made / "d" / "items.jsonl")}
    lost = [i for i in items if rows["student"][i]["score"] < rows["prompted"][i]["score"]]
    beyond = [i for i in items if rows["student"][i]["score"] > rows["prompted"][i]["score"]]
    assert lost or beyond, "the task is made so that they differ"
    with opened(browser, made / "d" / "report.html") as seen:
        page = seen.page
        count = page.locator("#count")
        assert count.text_content() == f"{len(items)} of {len(items)} items"
        assert page.locator("#table tbody tr").count() == 25
        page.click("text=Show 7 more")
        assert page.locator("#table tbody tr").count() == len(items)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Details of ")
        page.select_option("#kind", "lost")
        assert count.text_content() == f"{len(lost)} of {len(items)} items"
        page.select_option("#kind", "")
        page.select_option("#label", label="4")
        of_label = [i for i in items if items[i]["answer"] == "4"]
        assert count.text_content() == f"{len(of_label)} of {len(items)} items"
        page.fill("#find", "QUESTION ")
        assert count.text_content() == f"{len(of_label)} of {len(items)} items"
        asked = items[of_label[0]]["turns"][-1]["content"]
        page.fill("#find", asked.upper())
        assert count.text_content() == f"1 of {len(items)} items"
        assert page.locator("#table .asked").all_text_contents() == [asked]
        page.fill("#find", "no such words")
        assert count.text_content() == f"0 of {len(items)} items"
        # A label of the table above chooses it below.
        page.fill("#find", "")
        page.click("#groups a >> text='7'")
        assert (
            count.text_content() == f"{sum(i['answer'] == '7' for i in items.values())} of {len(items)} items"
        )
        assert not seen.faults


def test_replies_stand_side_by_side_with_the_tokens_on_which_they_differ(made: Path, browser: Any) -> None:
    items = read_jsonl(made / "d" / "items.jsonl")
    nats = sorted((n for row in items for n in row["nats"]), reverse=True)
    least = nats[round(0.1 * len(nats)) - 1]
    with opened(browser, made / "d" / "report.html") as seen:
        page = seen.page
        row = page.locator("#table tbody tr").first
        files = {
            who: {r["item"]: r for r in read_jsonl(made / "d" / "test" / f"{who}_greedy.jsonl")}
            for who in ("base", "prompted", "student")
        }
        first = items[0]
        assert row.locator(".asked").text_content() == first["turns"][-1]["content"]
        assert row.locator(".expected").text_content() == f"expected: {first['answer']}"
        texts = row.locator(".reply").all_text_contents()
        assert [text.rstrip("∎") for text in texts] == [
            files[who][first["item"]]["completion"] for who in files
        ]
        page.click("text=Show 7 more")
        marks = page.locator("#table mark")
        titles = [float(marks.nth(n).get_attribute("title").split()[0]) for n in range(marks.count())]
        assert min(titles) >= round(least, 3) - 0.0006 and max(titles) == pytest.approx(nats[0], abs=6e-4)
        whole = sum(n >= least for n in nats)
        assert 0.6 * whole <= len(titles) <= whole  # tokens that are a part of a character share a mark


def test_keys_reach_the_filter_and_the_details(made: Path, browser: Any) -> None:
    with opened(browser, made / "d" / "report.html") as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "find":
                break
        assert page.evaluate("document.activeElement.id") == "find"
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid"
        page.keyboard.type("Question")
        for _ in range(3):
            page.keyboard.press("Tab")
        button = "document.activeElement"
        assert page.evaluate(f"{button}.getAttribute('aria-expanded')") == "false"
        page.keyboard.press("Enter")
        assert page.evaluate(f"{button}.getAttribute('aria-expanded')") == "true"
        assert "sampled, mean score" in page.locator("#table tbody tr").first.inner_text()
        page.keyboard.press("Space")
        assert page.evaluate(f"{button}.getAttribute('aria-expanded')") == "false"
        assert "sampled, mean score" not in page.locator("#table tbody tr").first.inner_text()


def luminance(colour: str) -> float:
    """Relative, by WCAG 2, of `rgb(r, g, b)`."""
    parts = [int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]
    linear = [n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_curves_are_seen_on_either_ground(made: Path, browser: Any, scheme: str) -> None:
    with opened(browser, made / "l" / "report.html", color_scheme=scheme) as seen:
        page = seen.page

        def colour(selector: str, name: str) -> float:
            return luminance(page.eval_on_selector(selector, f"node => getComputedStyle(node)['{name}']"))

        ground = colour("body", "backgroundColor")
        assert (ground > 0.8) == (scheme == "light")
        for selector, name in (
            ("h1", "color"),
            (".words", "color"),
            ("nav a", "color"),
            (".number", "color"),
            (".js-plotly-plot .scatterlayer .js-line", "stroke"),
            (".js-plotly-plot .xtick text", "fill"),
        ):
            dark, light = sorted((ground, colour(selector, name)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, selector
        # The ground changes under an open page.
        ink = "getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"
        before = page.evaluate(ink)
        page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        page.wait_for_function(f"old => {ink} !== old", arg=before)


def test_what_a_screen_reader_finds(made: Path, browser: Any) -> None:
    for name in RUNS:
        with opened(browser, made / name / "report.html") as seen:
            page = seen.page
            levels = [
                int(node.evaluate("n => n.tagName")[1]) for node in page.query_selector_all("h1, h2, h3")
            ]
            assert levels[0] == 1 and levels.count(1) == 1
            assert all(b <= a + 1 for a, b in pairwise(levels))
            for landmark in ("header", "nav", "main", "footer"):
                assert page.locator(landmark).count() == 1
            bare = "document.querySelectorAll('table:not([aria-labelledby])')"
            assert page.evaluate(f"[...{bare}].every(t => t.caption && t.caption.textContent)")
            assert page.evaluate("[...document.querySelectorAll('th')].every(h => h.scope)")
            assert page.evaluate(
                "[...document.querySelectorAll('input, select')].every(f => f.labels.length === 1)"
            )
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map(n => n.id)")
            assert len(ids) == len(set(ids))
            for figure in page.query_selector_all(".chart"):
                assert figure.query_selector("[role=img]").get_attribute("aria-label")
                assert len(figure.query_selector_all("details tbody tr")) > 1


def test_without_javascript_the_rest_still_reads(made: Path, browser: Any) -> None:
    with opened(browser, made / "l" / "report.html", java_script_enabled=False) as seen:
        text = seen.page.inner_text("main")
        assert "The table of all items needs JavaScript" in text
        assert "The curves need JavaScript" in text
        assert not seen.page.is_visible("#filters")
        assert seen.page.locator(".forest tbody tr").count() == 6


def test_on_paper_it_is_dark_on_white(made: Path, browser: Any) -> None:
    with opened(browser, made / "d" / "report.html", 794, color_scheme="dark") as seen:
        page = seen.page
        page.emulate_media(media="print")
        assert luminance(page.eval_on_selector("body", "n => getComputedStyle(n).backgroundColor")) == 1
        assert luminance(page.eval_on_selector("h1", "n => getComputedStyle(n).color")) == 0
        assert not page.is_visible("nav") and not page.is_visible("#find") and overflow(page) <= 0


def test_all_items_are_printed_and_then_taken_away_again(made: Path, browser: Any) -> None:
    with opened(browser, made / "d" / "report.html", 794) as seen:
        page = seen.page
        rows = "document.querySelectorAll('#table tbody tr').length"
        button = "document.querySelector('#table > button')"
        # Behind the page's own listener, so it counts what goes to paper.
        page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {rows} }})")
        page.click("#table tbody button >> nth=1")
        page.pdf()
        assert (page.evaluate("printed"), page.evaluate(rows)) == (32, 25)
        assert page.evaluate(f"{button}.textContent") == "Show 7 more" and page.is_visible("#table > button")
        assert page.locator("#table .open").count() == 1
        page.click("#table > button")
        page.pdf()
        assert (page.evaluate("printed"), page.evaluate(rows)) == (32, 32)
        page.select_option("#label", label="4")
        page.emulate_media(media="print")
        found = page.locator("#table tbody tr").count()
        assert (
            page.is_visible("#count") and page.inner_text("#count") == f"{found} of 32 items" and found < 25
        )
        page.pdf()
        assert (page.evaluate("printed"), page.evaluate(rows)) == (found, found)

"""A real browser without a window, for what pages look like and what they do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with a new profile. Without Chromium the test is skipped, and fails where CI or NEEDS_BROWSER is set."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        why = "no Chromium on this machine (apt-get install chromium)"
        if os.environ.get("CI") or os.environ.get("NEEDS_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page, and what it did besides showing itself."""

    page: Any
    faults: list[str] = field(default_factory=list)
    """Messages of the console, exceptions, dialogs."""
    asked: list[str] = field(default_factory=list)
    """Addresses that were fetched, beside the page's own."""


@contextmanager
def opened(browser: Any, place: Path | str, width: int = 1280, **options: Any) -> Iterator[Seen]:
    """A page that was loaded, from a file or an address."""
    address = place if isinstance(place, str) else place.resolve().as_uri()
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    seen = Seen(context.new_page())

    def told(dialog: Any) -> None:
        seen.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    seen.page.on("console", lambda message: seen.faults.append(message.text))
    seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
    seen.page.on("dialog", told)
    context.on("request", lambda request: seen.asked.append(request.url))
    seen.page.goto(address)
    seen.asked = [url for url in seen.asked if url != address]
    yield seen
    context.close()


def overflow(page: Any) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.scrollingElement.scrollWidth - innerWidth"))

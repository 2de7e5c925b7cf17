"""Runs of a folder over HTTP: a real server on loopback, and a browser for its list."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import opened, overflow
from hostile import HOSTILE, changed, make_hostile
from processes import start
from swept import make_sweep

from gepa_loop.cli import run as command
from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.serving.listen import free_socket
from gepa_loop.show.report.read import read_told
from gepa_loop.show.report.verdict import verdict
from gepa_loop.show.report.write import write_report
from gepa_loop.show.sweep_report import sweep_page
from gepa_loop.show.view.app import app
from gepa_loop.show.view.compare import compare
from gepa_loop.show.view.listing import listed

uvicorn = pytest.importorskip("uvicorn")
ODD = "<img src=x onerror=alert(0)> & ?#%41"
NO_TEXT = os.fsdecode(b"no\xfftext")
NAMES = ("l", "d", "other", "half", "broken", "renamed", "old", "swept", NO_TEXT, ODD)
"""As they are listed."""


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs, one whose data differ, one whose data have another name, a hostile one, an unfinished, a damaged, one of another
    version, one whose name is no text and a sweep."""
    place = tmp_path_factory.mktemp("viewed") / "runs"
    for name in ("d", "l", "other", "half", "broken", "renamed", "old", NO_TEXT, ODD):
        shutil.copytree(made / ("l" if name == "l" else "d"), place / name)
    changed(
        place / "other" / "manifest.json",
        lambda value: value["identity"].update({"task.fingerprint": "feed", "seed": 7}),
    )
    (place / "half" / "result.json").unlink()
    text = (place / "broken" / "result.json").read_text()
    (place / "broken" / "result.json").write_text(text.replace("mean", "meant"))
    changed(
        place / "renamed" / "manifest.json", lambda value: value["identity"].update({"task.name": "copy.csv"})
    )
    changed(place / "old" / "result.json", lambda value: value["greedy"].pop("prompted_minus_base"))
    make_sweep(place / "swept")
    make_hostile(place / ODD)
    changed(
        place / ODD / "manifest.json", lambda value: value["identity"].update({"task.fingerprint": HOSTILE})
    )
    (place.parent / "secret.txt").write_text("secret")
    (place / "plain.html").write_text("secret")
    for age, name in enumerate(NAMES):
        for file in (place / name).iterdir():
            os.utime(file, (2 * 10**9 - age, 2 * 10**9 - age))
    return place


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with free_socket("127.0.0.1", 0) as listener:
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app(folder, "127.0.0.1"), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as asking:
        yield asking


def test_rows_say_what_runs_found(folder: Path) -> None:
    row = listed(folder / "d")
    told = read_told(folder / "d")
    assert (row.command, row.model, row.task) == ("distill", "random:tiny", "ladder:make")
    assert row.verdict == verdict(told) and row.page and row.saved == told.saved
    assert row.scores["student"].value == told.card("student", "greedy")["mean"]
    assert row.when == "2033-05-18 03:33"
    half, broken, old = (listed(folder / name) for name in ("half", "broken", "old"))
    assert half.verdict == "unfinished: costs" and not half.page and not half.scores
    assert "cannot be read" in broken.verdict and "check" in broken.verdict
    assert "of another version" in old.verdict and "'prompted_minus_base'" in old.verdict and not old.page
    swept = listed(folder / "swept")
    assert swept.verdict == "<i>high is better than low (+.250, p = .0100)." and swept.command == "sweep"
    assert swept.page and not swept.compared
    nameless = listed(folder / NO_TEXT)
    assert (nameless.name, nameless.page, nameless.compared) == ("no\\udcfftext", False, False)
    assert nameless.verdict == row.verdict


def test_what_a_record_lists_is_looked_at_where_its_page_is_opened(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "l", tmp_path / "l")
    shutil.copytree(made / "d", tmp_path / "d")
    told = read_told(tmp_path / "l")
    assert told.adapter is not None
    (tmp_path / "l" / told.adapter / "adapter_model.safetensors").write_bytes(b"changed")
    assert listed(tmp_path / "l").verdict == verdict(read_told(made / "l"))
    from starlette.testclient import TestClient

    with TestClient(app(tmp_path, "0.0.0.0")) as asking:
        for path in ("/runs/l", "/compare?run=l&run=d"):
            reply = asking.get(path)
            assert reply.status_code == 409 and "adapter_model.safetensors" in reply.text
    with pytest.raises(RunDirectoryError, match=r"adapter_model\.safetensors"):
        write_report(tmp_path / "l")


def test_nothing_but_the_list_and_pages_is_served(client: httpx.Client, folder: Path) -> None:
    assert client.get("/").status_code == 200
    assert "Every item of test" in client.get("/runs/d").text
    for path in (
        "/secret.txt",
        "/runs/..%2Fsecret.txt",
        "/runs/%2e%2e/secret.txt",
        "/runs/%2e%2e",
        "/runs/plain.html",
        "/runs/d/result.json",
        "/runs/d%2Fresult.json",
        "/runs//etc/passwd",
        "/runs/",
        "/d",
    ):
        reply = client.get(path)
        assert reply.status_code == 404 and "secret" not in reply.text.replace("secret.txt", ""), path
    assert client.get("/runs/half").status_code == 409 and "not finished" in client.get("/runs/half").text
    assert client.get("/runs/broken").status_code == 409
    for path in ("/runs/old", "/compare?run=d&run=old"):
        old = client.get(path)
        assert old.status_code == 409 and "of another version of gepa-loop" in old.text, path
    swept = client.get("/runs/swept")
    assert swept.status_code == 200 and "Cells of the grid" in swept.text
    assert swept.text == sweep_page(folder / "swept")
    assert client.get("/compare?run=d&run=swept").status_code == 404
    assert client.get("/runs/no%FFtext").status_code == 404
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/runs/d").status_code == 405
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    client.get("/"), client.get("/runs/l"), client.get("/compare?run=d&run=other"), client.get("/runs/swept")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, "it writes nothing"


def test_what_a_template_misses_is_of_another_version(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from starlette.testclient import TestClient

    shutil.copytree(made / "d", tmp_path / "d")
    changed(tmp_path / "d" / "result.json", lambda value: value.pop("train"))
    shutil.copytree(made / "d", tmp_path / "e")
    changed(tmp_path / "e" / "manifest.json", lambda value: value["identity"].update(command="evaluate"))
    with TestClient(app(tmp_path, "0.0.0.0")) as asking:
        reply = asking.get("/runs/d")
        assert reply.status_code == 409 and "run d is of another version of gepa-loop" in reply.text
        assert ">another version<" in asking.get("/").text
    assert command(["report", str(tmp_path / "d")]) == 6
    assert "run d is of another version of gepa-loop" in capsys.readouterr().err


def test_every_answer_has_a_policy_and_other_names_have_none(client: httpx.Client, folder: Path) -> None:
    for path in (
        "/",
        "/runs/d",
        "/runs/swept",
        "/compare?run=d&run=other",
        "/compare",
        "/nowhere",
        "/runs/nope",
    ):
        headers = client.get(path).headers
        rules = dict(
            rule.strip().partition(" ")[::2] for rule in headers["content-security-policy"].split(";")
        )
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
        assert all(one.startswith("'sha256-") or one == "'none'" for one in rules["script-src"].split())
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"Host": "localhost:1"}).status_code == 200
    from starlette.testclient import TestClient

    with TestClient(app(folder, "0.0.0.0")) as open_to_all:
        assert open_to_all.get("/", headers={"Host": "machine.example"}).status_code == 200


def test_two_runs_side_by_side(client: httpx.Client) -> None:
    text = client.get("/compare?run=d&run=other").text
    assert "their data differ" in text and "feed" in text and "paired by item" not in text
    assert (
        "<code>seed</code>" in text
        and "<code>task.fingerprint</code>" in text
        and "<code>lora.rank" not in text
    )
    same = client.get("/compare?run=d&run=l").text
    assert "their data differ" not in same and "student of d − student of l" in same
    # Data are known by what they are, whatever their file is called.
    renamed = client.get("/compare?run=d&run=renamed").text
    assert "student of d − student of renamed" in renamed and "copy.csv" in renamed
    assert client.get("/compare?run=d&run=d").status_code == 400
    assert client.get("/compare?run=d").status_code == 400
    assert client.get("/compare?run=d&run=nope").status_code == 404
    assert client.get("/compare?run=d&run=half").status_code == 409
    hostile = client.get("/compare", params={"run": ["d", ODD]})
    assert hostile.status_code == 400 and "<img" not in hostile.text and "Their tasks are" in hostile.text


def test_scores_against_other_answers_are_not_paired(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(made / "d", tmp_path / name)
    rows = read_jsonl(tmp_path / "b" / "items.jsonl", dict[str, Any])
    write_jsonl(tmp_path / "b" / "items.jsonl", [{**rows[0], "answer": "another"}, *rows[1:]])
    (tmp_path / "c" / "items.jsonl").unlink()
    a, b, c = (read_told(tmp_path / name) for name in ("a", "b", "c"))
    assert len(compare(a, a).students) == 2 and not compare(a, a).warnings
    for other, said in (
        (b, f"1 of {len(rows)} items were scored against other answers"),
        (c, "no items.jsonl in c"),
    ):
        pair = compare(a, other)
        assert pair.students == () and len(pair.warnings) == 1 and said in pair.warnings[0]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("evaluate.temperature", "other temperatures: 0.0 and 9"),
        ("evaluate.samples", "other numbers of sampled replies: 1 and 9"),
        ("sampling.max_tokens", "cut at other lengths: 12 and 9"),
    ],
)
def test_replies_that_were_drawn_otherwise_are_warned_of(
    made: Path, tmp_path: Path, key: str, said: str
) -> None:
    shutil.copytree(made / "d", tmp_path / "other")
    changed(tmp_path / "other" / "manifest.json", lambda value: value["identity"].update({key: 9}))
    (warning,) = compare(read_told(made / "d"), read_told(tmp_path / "other")).warnings
    assert said in warning


@pytest.mark.parametrize("width", [400, 1280])
def test_the_list_is_sorted_and_two_runs_are_chosen(
    browser: Any, address: str, folder: Path, width: int
) -> None:
    with opened(browser, f"{address}/", width) as seen:
        page = seen.page
        assert overflow(page) == 0 and not page.query_selector_all("img")

        def names() -> list[str]:
            return [text.strip() for text in page.locator("#runs tbody th").all_text_contents()]

        assert names() == [name if name != NO_TEXT else "no\\udcfftext" for name in NAMES]
        page.click("#runs thead >> text=Run")
        assert names() == sorted(names(), key=str.lower)
        page.click("#runs thead >> text=Student")
        page.click("#runs thead >> text=Student")
        by_name = {listed(folder / name).name: listed(folder / name) for name in NAMES}
        scores = [by_name[name].scores for name in names()]
        known = [one["student"].value for one in scores if one]
        assert known == sorted(known, reverse=True) and not any(scores[len(known) :])
        heading = page.locator("#runs thead th[aria-sort]")
        assert heading.count() == 1 and heading.get_attribute("aria-sort") == "descending"

        assert page.is_disabled("#compare")
        page.check("[value=d]")
        # Another task's; and one of the same data under another name.
        assert page.locator("input:disabled").evaluate_all("all => all.map(one => one.value)") == [ODD]
        page.uncheck("[value=d]")
        page.check("[value=other]")
        assert page.is_disabled("[value=renamed]") and page.is_enabled("[value=l]")
        page.uncheck("[value=other]")
        page.check("[value=d]")
        page.check("[value=other]")
        assert page.is_disabled("[value=l]")
        page.click("#compare")
        assert "d beside other" in page.inner_text("h1") and overflow(page) == 0
        page.click("header a")
        page.click(f"#runs >> text={ODD}")
        assert page.title() == f"{ODD} · gepa-loop" and HOSTILE in page.text_content("body")
        assert not seen.faults and all(url.startswith(address) for url in seen.asked)


def test_the_command_says_where(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["view"]) == 2
    assert "runs: no such folder" in capsys.readouterr().err
    assert command(["view", str(folder), "--host", "no.such.host.invalid"]) == 3
    with free_socket("127.0.0.1", 0) as taken:
        taken.listen()
        assert command(["view", str(folder), "--port", str(taken.getsockname()[1])]) == 3


def test_ctrl_c_ends_it(folder: Path) -> None:
    process = start(folder.parent, "view", "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    address, said = line.split(" ", 1)
    assert said == "shows 10 runs of runs; Ctrl-C ends it\n"
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as asking:
        assert "Every item of test" in asking.get("/runs/d").text
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr


NEVER_SERVES = """
import sys, types
from gepa_loop.cli import main
server = types.SimpleNamespace(run=lambda sockets: sys.stdin.read())
sys.modules["uvicorn"] = types.SimpleNamespace(Config=lambda *words, **options: None, Server=lambda config: server)
main()
"""


def test_whoever_asks_at_once_is_heard(folder: Path) -> None:
    """The address is read before anything serves."""
    words = [sys.executable, "-c", NEVER_SERVES, "view", "--port", "0"]
    with subprocess.Popen(
        words, cwd=folder.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = httpx.URL(process.stdout.readline().split(" ", 1)[0])
        socket.create_connection((address.host, address.port or 0), timeout=60).close()
        process.communicate("", timeout=60)

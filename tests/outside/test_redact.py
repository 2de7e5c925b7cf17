"""No key in any message or file, and none to another host, whatever fails."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic_api as fake
import pytest
from anthropic_api import MODEL, anthropic_api

from gepa_loop.cli import run
from gepa_loop.outside.redact import key_in, printable, redacted, told

MARK = "marker-0123456789"
"""Part of every key here."""
CLAUDE = f"optimize.reflection.model=anthropic/{MODEL}"
GPT = "optimize.reflection.model=openai/m"
TEACHER = ("teacher.kind=server", "teacher.name=m")
SEARCH = ["optimize", "--config", "smoke", "--run-name", "r", "--set", "optimize.reflection.retries=0"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and keys in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.setenv(name, f"{name}-{MARK}")
    return tmp_path


class Server(ThreadingHTTPServer):
    """Answers everything with one status and body, or points to another address, and keeps the headers that came."""

    def __init__(self, status: int = 200, body: str = "", location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body, self.location = status, body, location
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.seen.append(f"{self.command} {self.path}\n{self.headers}")
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location + self.path)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(*servers: Server) -> Iterator[None]:
    threads = [Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def ends(capsys: pytest.CaptureFixture[str], argv: list[str]) -> tuple[int, str]:
    """A command's exit code and what it says, which holds no key, as no file of the working directory does."""
    code = run(argv)
    shown = capsys.readouterr()
    written = [path.read_text("utf-8", "replace") for path in Path().rglob("*") if path.is_file()]
    for text in (shown.out, shown.err, *written):
        assert MARK not in text, text[max(0, text.index(MARK) - 200) :][:400]
    return code, " ".join(shown.err.split())


def sets(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("ANTHROPIC_API_BASE", "OPENAI_API_BASE"):
        monkeypatch.setenv(name, url)


@pytest.mark.parametrize("model", [CLAUDE, GPT])
@pytest.mark.parametrize("status", [401, 403, 404, 500, 200])
def test_what_a_provider_repeats_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, status: int
) -> None:
    keys = f"ANTHROPIC_API_KEY-{MARK} OPENAI_API_KEY-{MARK}"
    server = Server(status, json.dumps({"error": {"message": keys, "type": keys, "code": keys}}))
    with serving(server):
        point_at(monkeypatch, server.url)
        code, said = ends(capsys, [*SEARCH, *sets(model)])
    assert code == 3 and server.seen, said


@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_a_redirect_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    other = Server(
        200, json.dumps({"type": "model", "id": MODEL, "display_name": "", "created_at": "2026-01-01"})
    )
    with serving(other):
        for status in (302, 307, 308):
            server = Server(status, location=other.url)
            with serving(server):
                point_at(monkeypatch, server.url)
                code, said = ends(capsys, [*SEARCH, *sets(model)])
            assert code == 3 and f"HTTP {status}, it points to another address" in said
    assert not other.seen


def test_a_redirect_in_the_search_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Server()
    with (
        serving(other),
        anthropic_api(monkeypatch, lambda h: h.reply(307, b"", Location=f"{other.url}{h.path}")),
    ):
        code, said = ends(capsys, [*SEARCH, *sets(CLAUDE)])
    assert code == 3 and "proposal 0: HTTP 307, it points to another address" in said
    assert not other.seen


@pytest.mark.parametrize("model", [CLAUDE, GPT])
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{MARK}@127.0.0.1:9",
        f"http://user:{MARK}@[",
        f"ftp://user:{MARK}@x",
        f"http://user:{MARK}@\u00e9 x",
    ],
)
def test_an_address_with_a_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, url: str
) -> None:
    point_at(monkeypatch, url)
    code, _ = ends(capsys, [*SEARCH, *sets(model)])
    assert code == 3


@pytest.mark.parametrize("more", ["\n", " \r\n", "\nX-Other: 1", "\u00e9"])
def test_a_key_with_a_stray_character_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    server = Server(401, "{}")
    with serving(server):
        point_at(monkeypatch, server.url)
        for name, model in (("ANTHROPIC_API_KEY", CLAUDE), ("OPENAI_API_KEY", GPT)):
            monkeypatch.setenv(name, f"{name}-{MARK}{more}")
            assert ends(capsys, [*SEARCH, *sets(model)])[0] == 3
        monkeypatch.setenv("VLLM_API_KEY", f"key-{MARK}{more}")
        code, said = ends(capsys, distill(server.url))
    wrong = "VLLM_API_KEY holds a character that no key has"
    assert code == 3 and (wrong if more.strip() else "the key is refused") in said


def distill(url: str) -> list[str]:
    Path("p.txt").write_text("Answer with one number.")
    return ["distill", "--config", "smoke", "--prompt", "p.txt", *sets(*TEACHER, f"teacher.url={url}")]


@pytest.mark.parametrize(
    ("status", "words"), [(401, "the key is refused"), (403, "the key is refused"), (500, "***")]
)
def test_what_a_teachers_server_repeats_is_not_shown(
    capsys: pytest.CaptureFixture[str], status: int, words: str
) -> None:
    server = Server(status, f"no good: VLLM_API_KEY-{MARK}")
    with serving(server):
        code, said = ends(capsys, distill(server.url))
    assert code == 3 and words in said and MARK in server.seen[0]


def test_a_teachers_server_that_points_elsewhere_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    other = Server()
    server = Server(307, location=other.url)
    with serving(server, other):
        code, said = ends(capsys, distill(server.url))
    assert code == 3 and "307 from /v1/models: it points to another address" in said
    assert not other.seen


@pytest.mark.parametrize(
    "argv",
    [
        [*sets(*TEACHER, f"teacher.url=http://user:{MARK}@host")],
        [*sets(*TEACHER, f"teacher.url=http://{MARK}@host:1/v1")],
        [*sets(f"optimize.reflection.api_key={MARK}")],
        [*sets(f"teacher.token={MARK}")],
        [*sets(f"sampling.max_tokens=http://user:{MARK}@host")],
        ["--config", "mine.toml"],
    ],
)
def test_settings_with_keys_are_refused_and_not_quoted(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    Path("mine.toml").write_text('preset = "smoke"\n[optimize.reflection]\napi_key = "marker"')
    code, said = ends(
        capsys, ["loop", *(argv if argv[0] == "--config" else ["--config", "smoke", *argv]), "--dry-run"]
    )
    assert code == 2 and said
    assert "VLLM_API_KEY" in said or "unknown key" in said or "sampling.max_tokens" in said


def test_settings_from_the_environment_are_not_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEPA_LOOP_ANTHROPIC_API_KEY", MARK)
    code, said = ends(capsys, ["config", "show"])
    assert code == 2 and "GEPA_LOOP_ANTHROPIC_API_KEY: unknown key" in said


def test_an_unreachable_address_is_told_without_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_at(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
        assert ends(capsys, [*SEARCH, *sets(CLAUDE)])[0] == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", f"socks5://user:{MARK}@127.0.0.1:9"),
        ("HTTPS_PROXY", "what://x"),
        ("SSL_CERT_FILE", "none.pem"),
    ],
)
def test_proxies_and_certificates_that_cannot_be_used_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    server = Server()
    for argv in ([*SEARCH, *sets(CLAUDE)], [*SEARCH, *sets(GPT)]):
        code, said = ends(capsys, argv)
        assert code == 3 and "no connection can be made" in said and "socksio" in said
    server.server_close()


def test_redacting_leaves_all_else_alone() -> None:
    env = {"A_KEY": " secret-key\n", "SHORT_KEY": "to", "MAX_TOKENS": "128000", "OTHER": "visible-value"}
    text = "to secret-key at https://me:word@host/x@y, mail a@b.c, 128000, visible-value"
    assert redacted(text, env) == "to *** at https://***@host/x@y, mail a@b.c, 128000, visible-value"
    assert fake.KEY not in redacted(f"x{fake.KEY}x", {"K_TOKEN": fake.KEY})
    longer = {"A_KEY": "secret-key", "B_KEY": "secret-key-and-more"}
    assert redacted("bad secret-key-and-more", longer) == "bad ***"


def test_what_is_shown_steers_no_terminal_and_can_be_read() -> None:
    assert (
        printable("a\x1b[2Jb\x9bc\u202ed\ud800\te\nf\u00e9") == "a\\x1b[2Jb\\x9bc\\u202ed\\ud800\te\nf\u00e9"
    )
    shown = printable("begin" + "x" * 10**7 + "end")
    assert shown.startswith("beginx") and shown.endswith("xend") and len(shown) < 4_100


def test_a_command_is_told_without_secrets() -> None:
    words = ["gepa-loop", "sweep", "--grid", "x=[0, 8],1", "--set", "task.options.api_key=k-12"]
    assert told(words) == "gepa-loop sweep --grid 'x=[0, 8],1' --set 'task.options.api_key=***'"
    assert told([]) == ""
    assert told(["task.options.password=$ecret"]) == "'task.options.password=***'"
    assert told(["--set=a.api_key=1", 'x={token="1"}']) == "'--set=a.api_key=***' 'x={token=\"***'"
    assert told(["sk-ant-1234567890abcdef"]) == "'***'"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("run -e ANTHROPIC_API_KEY=sk-1 image", "ANTHROPIC_API_KEY"),
        ('--set task.options={api_key="sk-1"}', "api_key"),
        ("--set=task.options.password=1234", "task.options.password"),
        ("huggingface-cli login --token hf_x", "--token"),
        ("export A=1;HF_TOKEN=hf_x", "HF_TOKEN"),
        ('curl -H "Authorization: Bearer sk-1"', "Authorization"),
        ("curl -H 'X-Api-Key: 12'", "X-Api-Key"),
        ("""--set task.options={"api_key": "12"}""", "api_key"),
        ("echo hf_abcdefghabcdefgh", "hf_"),
        ("pip install --index-url https://me:word@host/x", "an address with a password"),
        ("run -e ANTHROPIC_API_KEY image", None),
        ("export HF_TOKEN=$(cat ~/token)", None),
        ('login --token "$HF_TOKEN"', None),
        ("login --token $HF_TOKEN", None),
        ("--set sampling.max_tokens=24 --set task.name=task-risk-assessment", None),
        ("module load cuda/12.4 && export X_KEY=", None),
        ('curl -H "Authorization: Bearer $TOKEN"', None),
        (
            "--set optimize.seed_prompt=Say one token: yes or no. The key: be short. A bearer of sk-learn-models",
            None,
        ),
    ],
)
def test_what_gives_a_key_away_in_words_for_a_shell(text: str, name: str | None) -> None:
    assert key_in(text) == name

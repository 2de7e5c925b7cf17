"""All runs of a folder over HTTP: a list, each one's page, two side by side. It reads, and writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import ConfigError, GepaLoopError
from gepa_loop.outside.redact import printable
from gepa_loop.show.earlier import of_this_version
from gepa_loop.show.report.read import Told, check_told, read_told
from gepa_loop.show.report.write import page, page_script, part, policy, render
from gepa_loop.show.sweep_report import sweep_page, sweep_script
from gepa_loop.show.view.compare import compare, of_one_task
from gepa_loop.show.view.listing import listed, runs_of
from gepa_loop.stages.grid import is_sweep

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Pages:
    """The routes.

    Args:
        folder: Where the runs lie. A name in an address is looked up among theirs and never becomes a path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self, _request: Request) -> Response:
        rows = [listed(path) for path in runs_of(self.folder).values()]
        return _own("index", 200, folder=str(self.folder), rows=rows)

    def report(self, request: Request) -> Response:
        from plotly.offline import get_plotlyjs
        from starlette.responses import HTMLResponse

        name = request.path_params["name"]
        try:
            folder = self._found(name)
            with of_this_version(name):
                if is_sweep(folder):
                    text, script = sweep_page(folder), sweep_script()
                else:
                    text, script = page(_checked(folder)), page_script()
        except GepaLoopError as error:
            return _failed(error)
        return HTMLResponse(text, headers=_headers(policy(get_plotlyjs(), script)))

    def compare(self, request: Request) -> Response:
        names = request.query_params.getlist("run")
        if len(names) != 2 or names[0] == names[1]:
            return _own(
                "message", 400, title="Two runs, please", text="Select two runs of the list.", hint=""
            )
        try:
            with of_this_version(" or ".join(names)):
                first, second = (_checked(self._found(name)) for name in names)
                if not of_one_task(first, second):
                    tasks = " and ".join(str(told.identity.get("task.name")) for told in (first, second))
                    text = f"Their tasks are {tasks}, and their data differ as well."
                    return _own("message", 400, title="Runs of two tasks", text=text, hint="")
                return _own("compare", 200, pair=compare(first, second))
        except GepaLoopError as error:
            return _failed(error)

    def _found(self, name: str) -> Path:
        found = runs_of(self.folder).get(name)
        if found is None:
            raise ConfigError(f"there is no run {name!r}", "The list has all of them.")
        return found


def app(folder: Path, host: str) -> Starlette:
    """The ASGI application.

    Args:
        folder: Where the runs lie.
        host: Where it listens. On this machine alone it answers to names of this machine alone, so that no page of another
            name that leads here (DNS rebinding) can read it.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if host in LOOPBACK and request.url.hostname not in LOOPBACK:
            response: Response = PlainTextResponse("not a name of this machine", status_code=421)
        else:
            response = await answer(request)
        for name, value in _headers(policy()).items():
            response.headers.setdefault(name, value)
        return response

    pages = Pages(folder)
    return Starlette(
        routes=[
            Route("/", pages.index),
            Route("/compare", pages.compare),
            Route("/runs/{name}", pages.report),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guarded)],
    )


def _checked(folder: Path) -> Told:
    told = read_told(folder)
    check_told(told)
    return told


def _headers(allowed: str) -> dict[str, str]:
    return {"Content-Security-Policy": f"{allowed}; frame-ancestors 'none'", **HEADERS}


def _failed(error: GepaLoopError) -> Response:
    status = 404 if isinstance(error, ConfigError) else 409
    return _own("message", status, title="No page", text=printable(str(error)), hint=printable(error.hint))


def _own(name: str, status: int, **values: object) -> Response:
    """A page of this room."""
    from starlette.responses import HTMLResponse

    script = part("view/script.js")
    style = part("report/style.css") + part("view/style.css")
    text = render(f"view/{name}.html.j2", style=style, script=script, **values)
    allowed = policy(script).replace("form-action 'none'", "form-action 'self'")
    return HTMLResponse(text.encode("utf-8", "replace"), status, _headers(allowed))

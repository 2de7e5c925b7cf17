"""What serves over HTTP: its packages, and a socket that is bound before a model is loaded, so that a port that is taken is said at once."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gepa_loop.errors import EnvironmentFault

if TYPE_CHECKING:
    from starlette.applications import Starlette


def check_packages(what: str) -> None:
    """Raise EnvironmentFault where Starlette or uvicorn is missing; `what` needs them."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"{what} needs Starlette and uvicorn: {error}", "pip install 'gepa-loop[serve]'."
        ) from error


def serve_until_ended(app: Starlette, listener: socket.socket) -> None:
    """Answer at a socket until Ctrl-C; what was printed before is written first."""
    import uvicorn

    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def address_of(host: str, port: int) -> str:
    """By what a server is asked from this machine, where it may listen at all of its addresses."""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:  # a name
        return f"http://{host}:{port}"
    if number.is_unspecified:
        host = "127.0.0.1" if number.version == 4 else "::1"
    # RFC 6874: a zone's % is escaped in an address.
    return f"http://{host}:{port}" if number.version == 4 else f"http://[{host.replace('%', '%25')}]:{port}"


@contextmanager
def free_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; port 0 takes a free one.

    Raises:
        EnvironmentFault: The address cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise EnvironmentFault(
            f"--host {host}: {error.strerror or error}", "Name an address of this machine."
        ) from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(
                f"{host}:{port}: {getattr(error, 'strerror', None) or error}",
                "--port names another one; 0 takes a free one.",
            ) from None
        yield listener

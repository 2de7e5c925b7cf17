"""What keeps HTTP clients from being made: proxies and certificates that the environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gepa_loop.errors import EnvironmentFault
from gepa_loop.outside.redact import redacted


@contextmanager
def connecting(what: str) -> Iterator[None]:
    """Turn what making an HTTP client raises into an EnvironmentFault.

    Args:
        what: Whom the client is for.

    Raises:
        EnvironmentFault: A proxy's scheme needs a package or is none, or a file of certificates cannot be read.
    """
    import httpx

    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise EnvironmentFault(
            f"{what}: no connection can be made: {redacted(str(error))}",
            "Check ALL_PROXY, HTTPS_PROXY and HTTP_PROXY (a SOCKS proxy needs the package socksio), SSL_CERT_FILE "
            "and SSL_CERT_DIR.",
        ) from None


def check_connections(what: str) -> None:
    """Find out, before anybody is asked, whether clients can be made; arguments and errors are those of `connecting`."""
    import httpx

    with connecting(what):
        httpx.Client().close()

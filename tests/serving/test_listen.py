"""Addresses that a server can be asked at."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from gepa_loop.serving.listen import address_of, free_socket


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("0::0", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:80"),
    ],
)
def test_an_address(host: str, address: str) -> None:
    assert address_of(host, 80) == address
    assert urlsplit(address).port == 80


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_it_can_be_asked(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with free_socket(host, 0) as listener:
        listener.listen()
        address = urlsplit(address_of(host, listener.getsockname()[1]))
        with socket.create_connection((address.hostname, address.port), timeout=10):
            pass

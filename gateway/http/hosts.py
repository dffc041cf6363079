"""Decides whether a request is meant for this gateway, by its Host header.

A page may have its name resolve to the gateway's address (DNS rebinding): the browser then takes the gateway for the
page's own server, but sends the page's name. Patterns are those of Starlette's TrustedHostMiddleware; case, port and a
trailing dot do not matter. Facts: RFC 9110 section 7.2; RFC 3986 section 3.2.2 for what a host may be.
"""

import functools
import ipaddress
from collections.abc import Callable, Collection, Iterable
from typing import Final

from starlette._utils import parse_host_header

MAX_HOST: Final = 300
"""Bytes of a Host header: 253 of a name, its port, and some to spare."""


def host_check(patterns: Collection[str]) -> Callable[[bytes], bool]:
    """Return what tells of a Host header whether one of the patterns names it.

    Args:
        patterns: host names and addresses, `*.example.com` for all below a name, `*` for any.
    """
    names = {_normal(pattern) for pattern in patterns}
    suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    @functools.lru_cache(maxsize=256)
    def named(header: bytes) -> bool:
        host = _host(header)
        return host is not None and (host in names or host.endswith(suffixes))

    return lambda header: len(header) <= MAX_HOST and named(header)


def is_address(header: bytes) -> bool:
    """Tell whether a Host header holds an IP address, which no page can have resolve to another."""
    host = _host(header[:MAX_HOST])
    try:
        ipaddress.ip_address((host or "").strip("[]"))
    except ValueError:
        return False
    return True


def host_header(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request's Host header, empty if there is none or more than one."""
    hosts = [value for name, value in headers if name == b"host"]
    return hosts[0] if len(hosts) == 1 else b""


def _host(header: bytes) -> str | None:
    """Return the host of a Host header as patterns are written, None if there is none."""
    parsed = parse_host_header(header.decode("latin-1"))
    return None if parsed is None else _normal(parsed.host)


def _normal(host: str) -> str:
    """Return one spelling of a host: lower case, no dot at its end, an IPv6 address in its shortest form."""
    host = host.lower().removesuffix(".")
    try:
        return f"[{ipaddress.IPv6Address(host.strip('[]')).compressed}]"
    except ValueError:
        return host

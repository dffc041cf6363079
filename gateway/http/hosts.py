"""Matches Host headers with host patterns.

In DNS rebinding, a web page makes its own host name resolve to the gateway's address; the browser then takes the
gateway for the page's server, but still sends the page's host name. Patterns are those of Starlette's
TrustedHostMiddleware; case, port and a trailing dot do not matter. Facts: RFC 9110 section 7.2; RFC 3986 section 3.2.2.
"""

import functools
import ipaddress
from collections.abc import Callable, Collection
from typing import Final

from starlette._utils import parse_host_header

MAX_HOST: Final = 300
"""Bytes of a Host header: at most 253 of a name, the port, and a margin."""


def host_check(patterns: Collection[str]) -> Callable[[bytes], bool]:
    """Return a function that tells whether a Host header matches one of the patterns.

    Args:
        patterns: host names and addresses, `*.example.com` for all hosts below a name.
    """
    names = {_normal(pattern) for pattern in patterns}
    suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    @functools.lru_cache(maxsize=256)
    def allowed(header: bytes) -> bool:
        host = _host(header)
        return host is not None and (host in names or host.endswith(suffixes))

    return allowed


def is_address(header: bytes) -> bool:
    """Tell whether a Host header holds an IP address, which DNS rebinding cannot make the browser send."""
    host = _host(header)
    try:
        ipaddress.ip_address((host or "").strip("[]"))
    except ValueError:
        return False
    return True


def _host(header: bytes) -> str | None:
    """Return the host of a Host header as patterns are written, None if it is invalid."""
    parsed = parse_host_header(header.decode("latin-1").removesuffix(":"))  # Starlette refuses an empty port
    return None if parsed is None else _normal(parsed.host)


def _normal(host: str) -> str:
    """Return one spelling of a host: lower case, no dot at its end, an IPv6 address in its shortest form."""
    host = host.lower().removesuffix(".")
    try:
        return f"[{ipaddress.IPv6Address(host.strip('[]')).compressed}]"
    except ValueError:
        return host

"""What carries the bytes of an attempt: the built-in `pool`, or any `httpx.AsyncBaseTransport` plugged in here.

`wire` calls `exchange`; whatever goes wrong on the way leaves as one of httpx's exceptions. Neither follows redirects,
keeps cookies, unpacks bodies, sends again what may have arrived, or reads proxies from the environment.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

USER_AGENT = "omnia-graphql-gateway"


class Request(NamedTuple):
    """One request; its target is path and query below the base URL."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None
    tenant: str = ""
    """Whose it is: a connection that the same tenant used last is preferred."""


class Sink(Protocol):
    """Takes an answer as it arrives."""

    def sending(self, era: int) -> None:
        """Called just before the request is written; from here on it may count against the quota.

        `era` names the connections that are open now, for `Transport.drop`.
        """

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers; names are looked up in lower case."""

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body; what it raises ends the exchange."""


class Transport(Protocol):
    """Carries one attempt at a time to the REST API, many at once."""

    async def exchange(self, request: Request, sink: Sink) -> None:
        """Send a request and hand its answer to the sink.

        Raises:
            httpx.HTTPError: no complete answer came back; the class tells how far it got.
        """

    def drop(self, era: int) -> int:
        """Close the connections that were open in this era, whatever is under way on them; return how many."""

    async def aclose(self) -> None:
        """Close every connection."""

"""What carries the bytes of an attempt: the built-in `pool`, or any `httpx.AsyncBaseTransport` plugged in here.

`wire` calls `exchange`; whatever goes wrong on the way leaves as one of httpx's exceptions. Neither follows redirects,
keeps cookies, unpacks bodies, sends again what may have arrived, or reads proxies from the environment.
"""

from collections.abc import Mapping
from typing import Protocol

USER_AGENT = "omnia-graphql-gateway"


class Sink(Protocol):
    """Takes an answer as it arrives."""

    def sending(self) -> None:
        """Hear that the request goes out: the upstream may count it from now on."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers; names are looked up in lower case."""

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body; what it raises ends the exchange."""


class Transport(Protocol):
    """Carries one attempt at a time to the REST API, many at once."""

    async def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, sink: Sink
    ) -> None:
        """Send a request to a target, path and query below the base, and hand its answer to the sink.

        Raises:
            httpx.HTTPError: no complete answer came back; the class tells how far it got.
        """

    async def aclose(self) -> None:
        """Close every connection."""

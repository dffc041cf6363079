"""The contract of a transport, which sends one HTTP request and receives its response, and its errors.

TransportError
├── ConnectError          no connection to the server or the proxy; nothing was sent
├── InvalidRequest        the target or a header cannot be written as HTTP; nothing was sent
├── Timeout
│   ├── ConnectTimeout        no connection in time; nothing was sent
│   └── ReadTimeout           the response was not complete in time
├── ConnectionClosed      by the server, after the request was sent
└── InvalidResponse       the response is not HTTP, or its head is too large

`sent` tells whether the server may have seen the request. A transport follows no redirects, keeps no cookies, decodes
no bodies, sends no request again that may have been received, and reads no proxies from the environment.
"""

import ssl
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

USER_AGENT = "omnia-graphql-gateway"


class Options(NamedTuple):
    """Where a transport sends requests, and its limits."""

    base_url: str
    """The API's base; targets are appended to its path."""
    timeout: float
    """Seconds for one attempt, half of them for connecting."""
    connections: int
    """Maximum number of connections."""
    pool_timeout: float
    """Seconds for which an attempt waits for a connection before it begins."""
    proxy: str = ""
    """Address of an http:// or https:// proxy."""
    tls: ssl.SSLContext | None = None
    """For an https:// API or proxy."""


class Request(NamedTuple):
    """One request; its target is path and query below the base URL."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None
    tenant: str = ""
    """Owner of the API key; a connection that the same tenant used last is preferred."""


class ResponseHandler(Protocol):
    """Receives a response in parts; an exception that it raises ends the attempt and reaches the caller."""

    def on_send(self, generation: int) -> None:
        """Called just before the request is written; from here on it may count against the quota.

        `generation` names the connections that are open now, for `Transport.close_generation`.
        """

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers; names are looked up in lower case."""

    def on_data(self, data: bytes) -> None:
        """Take a part of the body."""


class Transport(Protocol):
    """Sends requests to the REST API, many at once."""

    async def send(self, request: Request, handler: ResponseHandler) -> None:
        """Send a request and pass its response to the handler.

        Raises:
            TransportError: no complete response was received.
        """

    def close_generation(self, generation: int) -> int:
        """Close the connections of this generation, requests under way included; return how many."""

    async def aclose(self) -> None:
        """Close every connection."""


class TransportError(Exception):
    """No complete response was received."""

    sent: ClassVar[bool] = True
    """Whether the server may have seen the request."""


class ConnectError(TransportError):
    """No connection."""

    sent = False


class InvalidRequest(TransportError):
    """The request cannot be written as HTTP."""

    sent = False


class Timeout(TransportError):
    """Too late."""


class ConnectTimeout(Timeout):
    """No connection in time."""

    sent = False


class ReadTimeout(Timeout):
    """No complete response in time."""


class ConnectionClosed(TransportError):
    """The server closed the connection before the response was complete."""


class InvalidResponse(TransportError):
    """The response cannot be read as HTTP."""

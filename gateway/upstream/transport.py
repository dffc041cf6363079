"""What carries the bytes of an attempt: the built-in transport, or any `httpx.AsyncBaseTransport` plugged in.

`wire` calls `exchange`; whatever goes wrong leaves as one of httpx's exceptions. Neither follows redirects, keeps
cookies, unpacks bodies, sends again what may have arrived, or reads proxies from the environment.

Built in is pyreqwest, that is reqwest, hyper and rustls: maintained (27 releases since its first, in October 2026 the
latest), typed, 4 MB without dependencies, wheels for glibc Linux, macOS and Windows. CPU microseconds of a GET of 1 KB,
Python 3.11 with uvloop, one core, 1 / 20 in flight: pyreqwest 42 / 29 (TLS 49 / 29), aiohttp 49 / 49 (TLS 87 / 82),
httpx's own httpcore 283 / 546; pyreqwest below httpx's requests and responses 148 / 105, hence the narrow `Transport`.
Through a session: 91 / 66. It imports in 5 ms (aiohttp in 120) and takes 13 MiB, and for each connection that carries
pages of 80 KB and more unpacked up to 0.5 MiB. A call given up before its answer began goes on in the background until
it is answered or times out, and keeps its place among the connections that long.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import certifi
import httpx
import structlog
from pyreqwest import exceptions
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import HeaderMap
from pyreqwest.request import StreamRequest

T = TypeVar("T")

USER_AGENT = "omnia-graphql-gateway"
IDLE = 30
"""Seconds for which an idle connection is kept."""

_CONNECTING = "client error (Connect)"  # hyper's word for a failure before the request was written


class Sink(Protocol):
    """Takes an answer as it arrives."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers."""

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body; what it raises ends the exchange."""


class Transport(Protocol):
    """Carries one attempt at a time to the REST API, many at once."""

    async def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, sink: Sink) -> None:
        """Send a request and hand its answer to the sink.

        Raises:
            httpx.HTTPError: no complete answer came back; the class tells how far it got.
        """

    async def aclose(self) -> None:
        """Close every connection."""


class HttpxTransport:
    """Any `httpx.AsyncBaseTransport`, called below httpx's own client.

    Args:
        transport: what carries the requests.
        timeout: seconds for one attempt.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, timeout: float) -> None:
        self._transport = transport
        self._extensions = {"timeout": {"connect": timeout / 2, "pool": timeout / 2, "read": timeout, "write": timeout}}

    async def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, sink: Sink) -> None:
        """Send a request and hand its answer to the sink."""
        request = httpx.Request(method, url, headers=dict(headers), content=body, extensions=self._extensions)
        response = await self._transport.handle_async_request(request)
        try:
            sink.begin(response.status_code, response.headers)
            async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's stream is async
                sink.feed(chunk)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


class ReqwestTransport:
    """The built-in transport: HTTP/1.1 with keep-alive; certificates are always verified.

    Args:
        timeout: seconds for one attempt, half of it for a free place and half for connecting.
        connections: connections at the most.
        certificates: PEM of authorities that are trusted besides the system's.
    """

    def __init__(self, *, timeout: float, connections: int, certificates: bytes | None = None) -> None:
        def build(more: bytes | None) -> Client:
            builder = ClientBuilder().follow_redirects(enable=False).no_proxy().user_agent(USER_AGENT)
            builder = builder.gzip(enable=False).deflate(enable=False).brotli(enable=False).zstd(enable=False)
            builder = builder.max_connections(connections).pool_timeout(timedelta(seconds=timeout / 2))
            builder = builder.pool_max_idle_per_host(connections).pool_idle_timeout(timedelta(seconds=IDLE))
            builder = builder.timeout(timedelta(seconds=timeout)).connect_timeout(timedelta(seconds=timeout / 2))
            for authorities in filter(None, (certificates, more)):
                builder = builder.add_root_certificate_pem(authorities)
            return builder.build()

        self._client = with_authorities(build)

    async def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, sink: Sink) -> None:
        """Send a request and hand its answer to the sink."""
        try:
            async with self._request(method, url, headers, body) as response:
                sink.begin(response.status, _Headers(response.headers))
                read = response.body_reader.read_chunk
                while (chunk := await read()) is not None:
                    sink.feed(chunk.to_bytes())
        except exceptions.DetailedPyreqwestError as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        """Close every connection, and end what is under way."""
        await self._client.close()

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> StreamRequest:
        try:
            request = self._client.request(method, url).headers(headers)
            return (request if body is None else request.body_bytes(body)).build_streamed()
        except ValueError as error:
            raise httpx.LocalProtocolError("The URL or a header cannot be sent.") from error


class _Headers(Mapping[str, str]):
    """An answer's headers, by name in any case; a value that is not ASCII counts as missing."""

    def __init__(self, headers: HeaderMap) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        try:
            return self._headers[name]
        except ValueError as error:
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def with_authorities(build: Callable[[bytes | None], T]) -> T:
    """Build on the system's certificate authorities or, where it has none (a slim image), on certifi's.

    SSL_CERT_FILE and SSL_CERT_DIR say where the system's are.
    """
    try:
        return build(None)
    except exceptions.BuilderError:
        structlog.get_logger().warning("no_system_certificates", instead="certifi")
        return build(Path(certifi.where()).read_bytes())


def _as_httpx(error: exceptions.DetailedPyreqwestError) -> httpx.HTTPError:
    """Return the exception of httpx that says the same; its text is never shown.

    pyreqwest's own classes do not tell a connection that never came about from one that was lost, its causes do.
    """
    if isinstance(error, exceptions.PoolTimeoutError):
        return httpx.PoolTimeout(str(error))
    if isinstance(error, exceptions.DecodeError | exceptions.ReadError):  # no HTTP, or a body that broke off
        return httpx.RemoteProtocolError(str(error))
    connecting = any(cause["message"] == _CONNECTING for cause in error.details["causes"] or ())
    if isinstance(error, exceptions.RequestTimeoutError):
        return httpx.ConnectTimeout(str(error)) if connecting else httpx.ReadTimeout(str(error))
    return httpx.ConnectError(str(error)) if connecting else httpx.ReadError(str(error))

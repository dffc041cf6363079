"""The built-in transport: the connections to the REST API, who may use one, and since when.

HTTP/1.1 with keep-alive, over TLS with the certificate always verified; no redirects, cookies,
proxies, unpacking or second tries. It is code of our own, on asyncio's transports and uvicorn's parser, because an
operation makes up to a hundred calls and a client library spends most of a call on what the gateway does not use. CPU
microseconds of a GET of 1 KB through the whole `Wire` (Python 3.11, uvloop), 1 / 20 in flight: this 21 / 17 (TLS
40 / 24), aiohttp 77 / 67 (TLS 113 / 97), pyreqwest 107 / 44 (TLS 122 / 41), httpx's own 614 / 1,652 (TLS 689 / 1,417).
pyreqwest besides ran threads, kept 0.5 MiB for each connection, and went on with calls that had been given up.
"""

import asyncio
import socket
import ssl
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import certifi
import httpx
from aiohappyeyeballs import start_connection

from gateway.observability.logging import log
from gateway.upstream.transport.base import USER_AGENT, Request, Sink
from gateway.upstream.transport.http1 import Connection

IDLE = 30.0
"""Seconds for which an idle connection is kept."""

REST = 0.005
"""Seconds of silence after which a connection may be used for another tenant: an answer that came twice is there."""

STAGGER = 0.25
"""Seconds after which a host's next address is tried beside the first (RFC 8305, section 5); uvloop would wait."""

_PORTS = {"http": 80, "https": 443}


class _Waiting(NamedTuple):
    """A call that waits for a place, which comes with a connection of its tenant or without one."""

    tenant: str
    place: "asyncio.Future[Connection | None]"


class Pool:
    """Connections to one host and a queue for the places among them.

    A call takes the idle connection that its tenant used last, else a free place for a new one, else the connection of
    another tenant that has been silent longest, and for REST seconds at least: should an answer come twice, the second
    one finds nobody waiting, or its own tenant. A place is taken before connecting and given back with the connection.
    All of it runs in one event loop.

    Args:
        base_url: the API's base; targets are appended to its path.
        timeout: seconds for one attempt, half of it for connecting.
        connections: connections at the most.
        patience: seconds for which an attempt waits for a place, before it begins.
        certificates: PEM of authorities that are trusted besides the system's.
    """

    def __init__(
        self, base_url: str, *, timeout: float, connections: int, patience: float, certificates: bytes | None = None
    ) -> None:
        url = httpx.URL(base_url)
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or _PORTS[url.scheme]
        self._tls = _tls(certificates) if url.scheme == "https" else None
        self._path = url.raw_path.decode("ascii").rstrip("/")
        self._head = [f"Host: {url.netloc.decode('ascii')}", f"User-Agent: {USER_AGENT}"]
        self._timeout = timeout
        self._patience = patience
        self._free = connections
        self._queue: deque[_Waiting] = deque()
        self._idle: dict[Connection, float] = {}
        """The idle connections, the one silent longest first, and since when each is."""
        self._idle_of: dict[str, dict[Connection, None]] = {}
        """The same by the tenant who used each last."""
        self._rest: asyncio.TimerHandle | None = None
        self._era = 0
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._closed = False

    async def exchange(self, request: Request, sink: Sink) -> None:
        """Send a request and hand its answer to the sink; given up, its connection is closed at once."""
        data, left = self._serialise(request), self._timeout
        connection = self._choose(request.tenant)
        if connection is None:
            connection = await self._take(request.tenant)
            clock = asyncio.get_running_loop().time
            deadline = clock() + self._timeout
            try:
                if connection is None or not connection.open:
                    connection = await self._connect()
            except BaseException:
                self._give(connection)
                raise
            left = deadline - clock()
        connection.tenant = request.tenant
        try:
            sink.sending(self._era)
            await connection.send(data, sink, left)
        finally:
            self._give(connection)

    def drop(self, era: int) -> int:
        """Close the connections that were open in this era, whatever is under way on them; return how many."""
        if era != self._era:
            return 0  # that was done
        self._era += 1
        connections = list(self._all)
        for connection in connections:
            connection.abort()
        return len(connections)

    async def aclose(self) -> None:
        """Close every connection, and end what is under way."""
        self._closed = True
        for limit in self._connecting:
            with suppress(RuntimeError):  # it is running out as it is
                limit.reschedule(0)
        for _, place in self._queue:
            if not place.done():
                place.set_exception(_closed())
        lost = [connection.lost for connection in self._all]
        for connection in list(self._all):
            connection.abort()
        if lost:
            await asyncio.wait(lost)

    def _serialise(self, request: Request) -> bytes:
        method, target, headers, body, _ = request
        lines = [f"{method} {self._path}{target} HTTP/1.1", *self._head]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        lines += ("", "")
        # whatever breaks a line is not printable
        if " " in target or not "".join(lines).isprintable():
            raise httpx.LocalProtocolError("The target or a header cannot be sent.")
        try:
            head = "\r\n".join(lines).encode("latin-1")
        except UnicodeEncodeError as error:
            raise httpx.LocalProtocolError("The target or a header cannot be sent.") from error
        return head if body is None else head + body

    def _choose(self, tenant: str) -> Connection | None:
        """Take an idle connection; None where a new one should be opened, or waited for.

        One that has something to read was not asked for it, or has ended: it is closed.
        """
        while own := self._idle_of.get(tenant):
            connection = next(reversed(own))
            self._take_idle(connection)
            if connection.silent:
                return connection
            connection.abort()
            self._free += 1
        if self._free or not self._idle:
            return None
        connection, since = next(iter(self._idle.items()))
        if asyncio.get_running_loop().time() - since < REST:
            return None
        self._take_idle(connection)
        if connection.silent:
            return connection
        connection.abort()
        self._free += 1
        return None

    def _take_idle(self, connection: Connection) -> None:
        del self._idle[connection]
        own = self._idle_of[connection.tenant]
        del own[connection]
        if not own:
            del self._idle_of[connection.tenant]

    async def _take(self, tenant: str) -> Connection | None:
        """Take a place, first come, first served: with a connection that fell idle, or to open one."""
        if self._free:
            self._free -= 1
            return None
        place: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(tenant, place))
        if not self._rest:
            self._serve()
        limit = asyncio.get_running_loop().call_later(self._patience, _deny, place)
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled() and not place.exception():
                self._give(place.result())  # it came in the very moment
            raise
        finally:
            limit.cancel()

    def _give(self, connection: Connection | None) -> None:
        """Give a place back, with its connection if that can be used again, or to whoever waits for one."""
        if connection is not None and not connection.reusable:
            connection.abort()
            connection = None
        if connection is not None:
            connection.expire(IDLE)
        if connection is not None:
            self._idle[connection] = asyncio.get_running_loop().time()
            self._idle_of.setdefault(connection.tenant, {})[connection] = None
        else:
            self._free += 1
        if self._queue and (not self._rest or connection is None or connection.tenant == self._queue[0].tenant):
            self._serve()  # or when the connection that rests has done so

    def _serve(self) -> None:
        """Give places to those who wait, first come, first served, as far as there are any."""
        while self._queue:
            waiting = self._queue[0]
            if not waiting.place.done():
                connection = self._choose(waiting.tenant)
                if connection is None and not self._free:
                    break
                self._free -= connection is None
                waiting.place.set_result(connection)
            self._queue.popleft()
        if self._queue and self._idle and not self._rest:
            rested = next(iter(self._idle.values())) + REST
            self._rest = asyncio.get_running_loop().call_at(rested, self._wake)

    def _wake(self) -> None:
        self._rest = None
        self._serve()

    def _drop(self, connection: Connection) -> None:
        """Forget an idle connection that has closed; any other one gives its place back itself."""
        if connection in self._idle:
            self._take_idle(connection)
            self._free += 1
            self._serve()

    async def _connect(self) -> Connection:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(self._timeout / 2)
        self._connecting.add(limit)
        try:
            async with limit:
                addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._drop),
                    sock=await start_connection(addresses, happy_eyeballs_delay=STAGGER),
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("No connection in time.") from error
        except (OSError, RuntimeError, UnicodeError) as error:  # no address, nobody there, or not the host of that name
            raise httpx.ConnectError("No connection.") from error
        finally:
            self._connecting.discard(limit)
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._all.discard(connection))
        return connection


def _closed() -> httpx.ConnectError:
    return httpx.ConnectError("The transport is closed.")


def _deny(place: "asyncio.Future[Connection | None]") -> None:
    with suppress(asyncio.InvalidStateError):  # it was given, or given up, a moment ago
        place.set_exception(httpx.PoolTimeout("No connection became free in time."))


def _tls(certificates: bytes | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    with_authorities(context, ssl.get_default_verify_paths().capath)
    if certificates:
        context.load_verify_locations(cadata=certificates.decode("ascii"))
    return context


def with_authorities(context: ssl.SSLContext, directory: str | None) -> None:
    """Let a context that has found no certificate authorities of the system (a slim image) trust certifi's.

    SSL_CERT_FILE and SSL_CERT_DIR say where the system's are; those of a directory are read when they are needed.
    """
    if not context.cert_store_stats()["x509_ca"] and not any(Path(directory or "/nowhere").glob("*.[0-9]")):
        log.warning("no_system_certificates", instead="certifi")
        context.load_verify_locations(certifi.where())

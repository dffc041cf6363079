"""The built-in transport: a pool of HTTP/1.1 connections to one host.

Connections are kept alive; TLS certificates are always verified. It is own code, on asyncio's transports and uvicorn's
parser, because one operation makes up to a hundred calls and an HTTP library spends most of a call on features that the
gateway does not use. CPU microseconds of a GET of 1 KB through `HttpClient` (Python 3.11, uvloop), 1 / 20 in flight:
this 23 / 20 (TLS 54 / 25), aiohttp 3.14 81 / 69 (TLS 119 / 99), pyreqwest 0.15 72 / 31 (TLS 87 / 34), httpx 0.28's
own 386 / 1,149 (TLS 437 / 1,307). pyreqwest also runs threads, keeps 0.5 MiB for each connection, and continues
cancelled calls.
"""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from gateway.upstream.transport.base import (
    USER_AGENT,
    ConnectError,
    ConnectTimeout,
    InvalidRequest,
    Options,
    Request,
    ResponseHandler,
    TransportError,
)
from gateway.upstream.transport.http1 import Connection

IDLE_TIMEOUT = 30.0
"""Seconds for which an idle connection is kept."""

QUIET_PERIOD = 0.005
"""Seconds of silence after which another tenant may use a connection: a second response to the same request, which a
faulty proxy sends, has arrived by then."""

NEXT_ADDRESS_DELAY = 0.25
"""Seconds after which a host's next address is tried beside the first (RFC 8305, section 5); uvloop would wait."""


class _Waiting(NamedTuple):
    """A request that waits for a slot; it gets an idle connection with it, or None to open one."""

    tenant: str
    slot: "asyncio.Future[Connection | None]"


class PoolState(NamedTuple):
    """Numbers of slots without a connection, open connections, idle ones of these, and waiting requests."""

    free: int
    open: int
    idle: int
    waiting: int


class Pool:
    """Connections to one host, and a queue of requests that wait for one.

    A request takes the idle connection that its tenant used last; else it opens one if a slot is free; else it takes
    the connection of another tenant that has been silent longest, and for QUIET_PERIOD at least. So if a request is
    answered twice, the second response finds no request under way, or one of the same tenant. A slot is taken before
    connecting and released with the connection. A pool belongs to one event loop.
    """

    def __init__(self, options: Options) -> None:
        url = urlsplit(options.base_url)
        encrypted = url.scheme == "https"
        self._host = url.hostname or ""
        self._port = url.port or (443 if encrypted else 80)
        self._tls = options.tls if encrypted else None
        self._path = url.path.rstrip("/")
        named = f"[{self._host}]" if ":" in self._host else self._host
        default_port = url.port in {None, 443 if encrypted else 80}
        host = named if default_port else f"{named}:{url.port}"
        self._host_lines = f"Host: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
        self._timeout = options.timeout
        self._pool_timeout = options.pool_timeout
        self._free = options.connections
        self._queue: deque[_Waiting] = deque()
        self._idle: dict[Connection, None] = {}
        """The idle connections, the one silent longest first."""
        self._idle_of: dict[str, dict[Connection, None]] = {}
        """The same by the tenant that used each last."""
        self._wake_up: asyncio.TimerHandle | None = None
        self._generation = 0
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def state(self) -> PoolState:
        """What its slots and connections are used for at the moment."""
        return PoolState(self._free, len(self._all), len(self._idle), len(self._queue))

    async def send(self, request: Request, handler: ResponseHandler) -> None:
        """Send a request and pass its response to the handler; if cancelled, its connection is closed."""
        data, timeout = self.serialise(request), self._timeout
        connection = self._take_connection(request.tenant)
        if connection is None:
            connection = await self._take_slot(request.tenant)
            clock = asyncio.get_running_loop().time
            deadline = clock() + timeout
            try:
                if connection is None or not connection.open:
                    connection = await self._connect()
            except BaseException:
                self._release(connection)
                raise
            timeout = deadline - clock()
        connection.tenant = request.tenant
        try:
            handler.on_send(self._generation)
            await connection.send(data, handler, timeout)
        finally:
            self._release(connection)

    def close_generation(self, generation: int) -> int:
        """Close the connections of this generation, requests under way included; return how many."""
        if generation != self._generation:
            return 0  # they are closed already
        self._generation += 1
        connections = list(self._all)
        for connection in connections:
            connection.abort()
        return len(connections)

    async def aclose(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        for limit in self._connecting:
            with suppress(RuntimeError):  # it has just timed out
                limit.reschedule(0)
        for _, slot in self._queue:
            _fail(slot, _closed())
        closed = [connection.closed for connection in self._all]
        for connection in list(self._all):
            connection.abort()
        if closed:
            await asyncio.wait(closed)

    def serialise(self, request: Request) -> bytes:
        """Return a request as it is sent.

        Raises:
            InvalidRequest: it cannot be written as HTTP.
        """
        method, target, headers, body, _ = request
        # whatever breaks a line is not printable
        if " " in target or not f"{target}{''.join(headers.values())}".isprintable():
            raise InvalidRequest("The target or a header cannot be sent.")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        try:
            head = f"{method} {self._path}{target} HTTP/1.1\r\n{self._host_lines}{lines}{length}\r\n".encode("latin-1")
        except UnicodeEncodeError as error:
            raise InvalidRequest("The target or a header cannot be sent.") from error
        return head if body is None else head + body

    def _take_connection(self, tenant: str) -> Connection | None:
        """Take an idle connection; None if the request must open one or wait.

        A connection with unread input has ended, or has received a response that no request is waiting for; it is
        closed.
        """
        while own := self._idle_of.get(tenant):
            connection = next(reversed(own))
            self._remove_idle(connection)
            if not connection.has_unread_input:
                return connection
            connection.abort()
            self._free += 1
        if self._free or not self._idle:
            return None
        connection = next(iter(self._idle))
        if not connection.idle_for(QUIET_PERIOD):
            return None
        self._remove_idle(connection)
        if not connection.has_unread_input:
            return connection
        connection.abort()
        self._free += 1
        return None

    def _remove_idle(self, connection: Connection) -> None:
        del self._idle[connection]
        own = self._idle_of[connection.tenant]
        del own[connection]
        if not own:
            del self._idle_of[connection.tenant]

    async def _take_slot(self, tenant: str) -> Connection | None:
        """Take a slot, first come, first served: with a connection that became idle, or to open one."""
        if self._free:
            self._free -= 1
            return None
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[Connection | None] = loop.create_future()
        self._queue.append(_Waiting(tenant, slot))
        if not self._wake_up:
            self._serve_queue()
        limit = loop.call_later(self._pool_timeout, _fail, slot, ConnectTimeout("No connection became free in time."))
        try:
            return await slot
        except asyncio.CancelledError:
            if not slot.cancelled() and not slot.exception():
                self._release(slot.result())  # it was granted at the same moment
            raise
        finally:
            limit.cancel()

    def _release(self, connection: Connection | None) -> None:
        """Release a slot, with its connection if that can be used again; serve the queue."""
        if connection is not None and not connection.reusable:
            connection.abort()
            connection = None
        if connection is None:
            self._free += 1
        else:
            connection.rest(IDLE_TIMEOUT)
            self._idle[connection] = None
            self._idle_of.setdefault(connection.tenant, {})[connection] = None
        if self._queue and (not self._wake_up or connection is None or connection.tenant == self._queue[0].tenant):
            self._serve_queue()  # else it is served at the end of a quiet period

    def _serve_queue(self) -> None:
        """Grant slots to waiting requests, first come, first served, as far as there are any."""
        while self._queue:
            waiting = self._queue[0]
            if not waiting.slot.done():
                connection = self._take_connection(waiting.tenant)
                if connection is None and not self._free:
                    break
                self._free -= connection is None
                waiting.slot.set_result(connection)
            self._queue.popleft()
        if self._queue and self._idle and not self._wake_up:
            quiet_at = next(iter(self._idle)).idle_since + QUIET_PERIOD
            self._wake_up = asyncio.get_running_loop().call_at(quiet_at, self._on_quiet)

    def _on_quiet(self) -> None:
        self._wake_up = None
        self._serve_queue()

    def _on_close(self, connection: Connection) -> None:
        """Forget an idle connection that has closed; `_release` handles any other one."""
        if connection in self._idle:
            self._remove_idle(connection)
            self._free += 1
            self._serve_queue()

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
                    lambda: Connection(loop, self._on_close),
                    sock=await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_DELAY),
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError as error:
            raise ConnectTimeout("No connection in time.") from error
        except (OSError, RuntimeError, UnicodeError) as error:  # no address, refused, or a certificate of another host
            raise ConnectError("No connection.") from error
        finally:
            self._connecting.discard(limit)
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        return connection


def _closed() -> ConnectError:
    return ConnectError("The transport is closed.")


def _fail(slot: "asyncio.Future[Connection | None]", error: TransportError) -> None:
    with suppress(asyncio.InvalidStateError):  # it was granted or cancelled at the same moment
        slot.set_exception(error)

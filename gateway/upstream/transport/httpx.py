"""Sends requests through any `httpx.AsyncBaseTransport`, below httpx's own client; used for proxies."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from gateway.upstream.transport import base
from gateway.upstream.transport.base import Options, Request, ResponseHandler

IDLE_TIMEOUT = 30.0
"""Seconds for which an idle connection to a proxy is kept."""


class HttpxTransport:
    """Adapts an `httpx.AsyncBaseTransport`, which manages its connections: none is kept for one tenant.

    It is replaced by a new one, if `create` makes one, after a mismatched response, since httpx does not tell which
    connection that came on, and after a request without a response: httpcore 1.0 never frees the place of a tunnel
    whose TLS handshake failed or was cancelled. A replaced one is closed once its requests have ended.

    Args:
        options: of which `connections` requests are sent at once; the others wait here, since httpcore is slow with
            long queues of its own.
        create: returns the transport that sends the requests.
    """

    def __init__(self, options: Options, create: Callable[[], httpx.AsyncBaseTransport]) -> None:
        timeout = options.timeout
        self._base = options.base_url.rstrip("/")
        self._create = create
        self._current = create()
        self._generation = 0
        self._under_way = Counter[httpx.AsyncBaseTransport]()
        self._timeout = timeout
        self._pool_timeout = options.pool_timeout
        self._slots = asyncio.Semaphore(options.connections)
        self._extensions = {"timeout": {"connect": timeout / 2, "pool": timeout / 2, "read": timeout, "write": timeout}}

    async def send(self, request: Request, handler: ResponseHandler) -> None:
        """Send a request and pass its response to the handler."""
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise base.ConnectTimeout from error
        transport = self._current
        self._under_way[transport] += 1
        try:
            # httpx limits each read, not all of them together
            with _own_errors():
                async with asyncio.timeout(self._timeout):
                    await self._send(transport, request, handler)
        finally:
            self._slots.release()
            self._under_way[transport] -= 1
            await self._close_replaced()

    def close_generation(self, generation: int) -> int:
        """Send no more requests over the connections of this generation; return 0, httpx does not count them."""
        if generation == self._generation:
            self._replace(self._current)
        return 0

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in {self._current, *self._under_way}:
            await transport.aclose()

    async def _send(self, transport: httpx.AsyncBaseTransport, request: Request, handler: ResponseHandler) -> None:
        method, target, headers, body, _ = request
        url = self._base + target
        sent = httpx.Request(method, url, headers=dict(headers), content=body, extensions=self._extensions)
        handler.on_send(self._generation)
        try:
            response = await transport.handle_async_request(sent)
        except BaseException:
            self._replace(transport)
            raise
        try:
            handler.on_head(response.status_code, response.headers)
            async for data in response.stream:  # type: ignore[union-attr]  # an async transport's stream is async
                handler.on_data(data)
        finally:
            await response.aclose()

    def _replace(self, transport: httpx.AsyncBaseTransport) -> None:
        if transport is self._current:
            self._current = self._create()
            self._generation += 1

    async def _close_replaced(self) -> None:
        for transport, count in list(self._under_way.items()):
            if not count and transport is not self._current:
                del self._under_way[transport]
                await transport.aclose()


def through_proxy(options: Options) -> HttpxTransport:
    """Return a transport that sends every request through the proxy of the options.

    A request to an https:// API goes through a tunnel (CONNECT), so that the proxy sees no key.
    """
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=options.connections, keepalive_expiry=IDLE_TIMEOUT
    )
    encrypted = options.proxy.lower().startswith("https:")
    proxy = httpx.Proxy(options.proxy, ssl_context=options.tls if encrypted else None)
    verify = options.tls or True

    def create() -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, proxy=proxy)

    return HttpxTransport(options, create)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what httpx or a socket raises as an error of `base`."""
    try:
        yield
    except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise base.ConnectTimeout from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise base.ReadTimeout from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise base.ConnectError from error
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise base.InvalidRequest from error
    except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
        if str(error).startswith("Server disconnected"):  # httpcore has one class for a closed connection and no HTTP
            raise base.ConnectionClosed from error
        raise base.InvalidResponse from error
    except (httpx.HTTPError, httpx.StreamError, OSError) as error:
        raise base.ConnectionClosed from error

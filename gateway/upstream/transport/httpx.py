"""Sends requests through any `httpx.AsyncBaseTransport`, below httpx's own client."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from gateway.upstream.transport import base
from gateway.upstream.transport.base import Request, ResponseHandler


class HttpxTransport:
    """Adapts an `httpx.AsyncBaseTransport`.

    It manages its connections itself: none is closed after a mismatched response, none is kept for one tenant.

    Args:
        base_url: the API's base; targets are appended to its path.
        transport: what sends the requests.
        timeout: seconds for one attempt.
        connections: attempts at once; the others wait here, since httpcore is slow with long queues of its own.
        pool_timeout: seconds for which an attempt waits here, before it begins.
    """

    def __init__(
        self,
        base_url: str,
        transport: httpx.AsyncBaseTransport,
        *,
        timeout: float,
        connections: int,
        pool_timeout: float,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._transport = transport
        self._timeout = timeout
        self._pool_timeout = pool_timeout
        self._slots = asyncio.Semaphore(connections)
        self._extensions = {"timeout": {"connect": timeout / 2, "pool": timeout / 2, "read": timeout, "write": timeout}}

    async def send(self, request: Request, handler: ResponseHandler) -> None:
        """Send a request and pass its response to the handler."""
        method, target, headers, body, _ = request
        try:
            async with asyncio.timeout(self._pool_timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise base.ConnectTimeout from error
        try:
            with _own_errors():
                url = self._base + target
                sent = httpx.Request(method, url, headers=dict(headers), content=body, extensions=self._extensions)
                # httpx limits each read, not all of them together
                async with asyncio.timeout(self._timeout):
                    handler.on_send(0)
                    await self._receive(await self._transport.handle_async_request(sent), handler)
        finally:
            self._slots.release()

    def close_generation(self, generation: int) -> int:  # noqa: ARG002 - part of the contract
        """Close nothing: httpx does not tell which connection a response came on."""
        return 0

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _receive(self, response: httpx.Response, handler: ResponseHandler) -> None:
        try:
            handler.on_head(response.status_code, response.headers)
            async for data in response.stream:  # type: ignore[union-attr]  # an async transport's stream is async
                handler.on_data(data)
        finally:
            await response.aclose()


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

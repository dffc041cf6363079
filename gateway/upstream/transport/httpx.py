"""Sends attempts through any `httpx.AsyncBaseTransport`."""

import asyncio

import httpx

from gateway.upstream.transport.base import Request, Sink


class HttpxTransport:
    """Any `httpx.AsyncBaseTransport`, called below httpx's own client.

    Its connections are its own business: answers are compared with their requests as ever, but none is closed after a
    mismatch, and none is kept for one tenant.

    Args:
        base_url: the API's base; targets are appended to its path.
        transport: what carries the requests.
        timeout: seconds for one attempt.
        connections: attempts at once; the others wait, since httpcore stalls on long queues of its own.
    """

    def __init__(self, base_url: str, transport: httpx.AsyncBaseTransport, timeout: float, connections: int) -> None:
        self._base = base_url.rstrip("/")
        self._transport = transport
        self._timeout = timeout
        self._places = asyncio.Semaphore(connections)
        self._extensions = {"timeout": {"connect": timeout / 2, "pool": timeout / 2, "read": timeout, "write": timeout}}

    async def exchange(self, request: Request, sink: Sink) -> None:
        """Send a request and hand its answer to the sink."""
        method, target, headers, body, _ = request
        url = self._base + target
        sent = httpx.Request(method, url, headers=dict(headers), content=body, extensions=self._extensions)
        try:
            # httpx limits each read, not all of them together
            async with self._places, asyncio.timeout(self._timeout):
                sink.sending(0)
                await self._read(await self._transport.handle_async_request(sent), sink)
        except TimeoutError as error:
            raise httpx.ReadTimeout("The answer did not come in time.") from error

    def drop(self, era: int) -> int:  # noqa: ARG002 - part of the contract
        """Close nothing: httpx has no way to tell which connection an answer came on."""
        return 0

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _read(self, response: httpx.Response, sink: Sink) -> None:
        try:
            sink.begin(response.status_code, response.headers)
            async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's stream is async
                sink.feed(chunk)
        finally:
            await response.aclose()

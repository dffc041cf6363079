"""One attempt at one REST call: bytes out, bytes in, and every way in which that can fail.

`client` calls `Wire.attempt`; this is the only room that knows httpx. The transport is any
`httpx.AsyncBaseTransport`, called below httpx's own client, so that no cookie, redirect or header of
one caller can reach another. Whatever goes wrong leaves as an `errors.UpstreamError`.
"""

import asyncio
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import httpx
import msgspec

from gateway.upstream import errors, models

MAX_MESSAGE = 500
"""Characters of an upstream's message that are passed on."""

_ERROR_BODY = msgspec.json.Decoder(models.ErrorBody)


class Reply(NamedTuple):
    """Status, headers and body of an answer, complete and unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """The connections to one REST API.

    Args:
        base_url: the API's base; targets are appended to its path.
        timeout: seconds for one attempt, from connecting to the last byte.
        connections: connections at the most.
        max_bytes: of an answer, unpacked.
        transport: stands in for the network, in tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        connections: int,
        max_bytes: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._timeout = timeout
        self._max_bytes = max_bytes
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._transport = transport or httpx.AsyncHTTPTransport(limits=limits)
        self._extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def attempt(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Send one attempt and return what came back, whatever its status.

        Raises:
            errors.Failed: nothing complete came back; `reached` tells whether the upstream may have seen it.
        """
        request = httpx.Request(
            method, self._base + target, headers=dict(headers), content=body, extensions=self._extensions
        )
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(request)
                try:
                    return Reply(response.status_code, response.headers, await self._read(response))
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError, zlib.error) as error:
            raise _failure(error, self._timeout, answered=response is not None) from error

    async def _read(self, response: httpx.Response) -> bytes:
        """Read a body in whatever way it is packed, never keeping more than the cap."""
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise errors.BadAnswer("The upstream's answer has an encoding that was not asked for; try again later.")
        unpack = None if encoding == "identity" else zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
        body = bytearray()
        async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's stream is async
            body += unpack.decompress(chunk, self._max_bytes + 1 - len(body)) if unpack else chunk
            if len(body) > self._max_bytes:
                raise errors.BadAnswer(
                    f"The upstream's answer is larger than {self._max_bytes} bytes; ask for fewer objects at once."
                )
        if unpack and body and not unpack.eof:
            raise errors.BadAnswer("The upstream's answer ended too early; try again later.")
        return bytes(body)


def rejection(reply: Reply) -> errors.UpstreamError:
    """Return the exception that stands for an answer whose status is no success.

    The message of a 4xx in either of the two JSON bodies is passed on; every other one is ours.
    """
    status = reply.status
    told = _told(reply.body) if 400 <= status < 500 else None
    error: errors.UpstreamError
    if 400 <= status < 500:
        kind = errors.BY_STATUS.get(status, errors.Rejected)
        error = kind(_message(told) or f"The upstream refused the call with status {status}.")
    elif status in {502, 503, 504}:
        error = errors.Unavailable("The upstream is not available at the moment; try again later.")
    elif status < 400:
        error = errors.BadAnswer(f"The upstream answered with status {status}, which is not followed.")
    else:
        error = errors.BadAnswer(f"The upstream failed with status {status}; try again later.")
    code = told.error.code if told and isinstance(told.error, models.ErrorDetail) else None
    error.answer = errors.Answer(status, code and code[:100], reply.headers.get("X-Request-Id", "")[:100] or None)
    error.field_errors = told.details.field_errors or None if told and told.details else None
    return error


def _told(body: bytes) -> models.ErrorBody | None:
    try:
        return _ERROR_BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _message(told: models.ErrorBody | None) -> str:
    if told is None:
        return ""
    message = told.error if isinstance(told.error, str) else told.error.message
    if told.details and told.details.form_errors:
        message = f"{message}: {'; '.join(told.details.form_errors)}"
    return message[:MAX_MESSAGE]


def _failure(error: Exception, timeout: float, *, answered: bool) -> errors.Failed:
    """Return the exception that stands for what httpx or the socket raised; its text is never passed on."""
    failed: errors.Failed
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        failed = errors.TimedOut(f"The upstream did not answer within {timeout:g} s; try again later.")
    elif isinstance(error, httpx.DecodingError | zlib.error) or answered:
        failed = errors.BadAnswer("The upstream's answer broke off or could not be read; try again later.")
    else:
        failed = errors.Unavailable("The upstream cannot be reached; try again later.")
    failed.reached = not isinstance(
        error,
        httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol | httpx.InvalidURL,
    )
    return failed

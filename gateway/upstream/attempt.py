"""One attempt at one REST call: bytes out, bytes in, and every way in which that can fail.

`calls` calls `Wire.attempt`; `transport` carries the bytes, below httpx's own client, so that no cookie, redirect
or header of one caller can reach another. A body is unpacked here, within a cap, as it arrives. Whatever goes
wrong leaves as an `errors.UpstreamError`, and says whether the upstream may have seen the call. An answer to another
call is the upstream's or a proxy's fault; it ends every connection that was open.
"""

import contextlib
import zlib
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import httpx
import msgspec

from gateway.observability.logging import log
from gateway.upstream import errors, models, repair
from gateway.upstream.request_ids import RequestIds
from gateway.upstream.transport.base import Request, Transport
from gateway.upstream.transport.httpx import HttpxTransport
from gateway.upstream.transport.pool import Pool

MAX_FIELDS = 10
"""Fields whose errors are passed on: three messages of 200 characters for each. The inputs have three fields."""
MAX_MESSAGE = 500
"""Characters of an upstream's message that are passed on."""
MIN_SECRET = 8
"""Bytes from which a key is looked for in what the upstream says; a shorter one is no secret, but part of words."""

MAX_MEMBERS = 1000
"""Gzip members of one answer; each costs a pass over what follows it."""

_CODINGS = {"gzip", "x-gzip", "deflate"}
_GZIP = b"\x1f\x8b"
_ID = "X-Request-Id"
_ERROR_BODY = msgspec.json.Decoder(models.ErrorBody)
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError, zlib.error)
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


class Reply(NamedTuple):
    """Status, headers and body of an answer, complete and unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    era: int = 0
    """Names the connections that were open with its own."""
    proven: bool = False
    """Whether it repeats the request id of its attempt."""


class Wire:
    """The connections to one REST API.

    Args:
        base_url: the API's base; targets are appended to its path.
        timeout: seconds for one attempt, from connecting to the last byte.
        connections: connections at the most.
        patience: seconds for which an attempt waits until one is free.
        max_bytes: of an answer, unpacked.
        transport: stands in for the network, in tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        connections: int,
        patience: float,
        max_bytes: int,
        transport: httpx.AsyncBaseTransport | Transport | None = None,
    ) -> None:
        self.mismatches = 0
        """Answers that belonged to another call."""
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._ids = RequestIds()
        if isinstance(transport, httpx.AsyncBaseTransport):
            transport = HttpxTransport(base_url, transport, timeout, connections)
        self._transport = transport or Pool(base_url, timeout=timeout, connections=connections, patience=patience)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def attempt(self, request: Request, sending: Callable[[], None] = lambda: None) -> Reply:
        """Send one attempt, a body as JSON, and return what came back, whatever its status.

        The request id that is sent is the operation's, with what makes it the attempt's own. `sending` is called when
        the request goes out: given up before, the upstream has not seen it.

        Raises:
            errors.Failed: nothing complete came back; `reached` tells whether the upstream may have seen it.
        """
        method, target, headers, body, tenant = request
        mark = self._ids.mark()
        intake = _Intake(self._max_bytes, sending, mark, self._ids)
        headers = {**headers, _ID: f"{headers.get(_ID, 'operation')}-{mark}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            await self._transport.exchange(Request(method, target, headers, body, tenant), intake)
            return intake.reply()
        except _FAILURES as error:
            raise _failure(error, self._timeout, answered=intake.status > 0) from error
        except errors.Mismatch as error:
            self.distrust(intake.era, error)
            raise

    def distrust(self, era: int, error: errors.Mismatch) -> None:
        """Close the connections of an era in which an answer to another call has come."""
        self.mismatches += 1
        log.warning("answer_of_another_call", told_by=error.field, closed=self._transport.drop(era))


class _Intake:
    """Takes in one answer, unpacking its body as it arrives and never keeping more than the cap."""

    def __init__(self, max_bytes: int, sending: Callable[[], None], mark: str, ids: RequestIds) -> None:
        self.status = 0
        self.era = 0
        self._sending = sending
        self._mark = mark
        self._ids = ids
        self._max_bytes = max_bytes
        self._headers: Mapping[str, str] = {}
        self._unpacker: _Unpacker | None = None
        self._first: bytes | None = None
        self._rest = bytearray()
        self._size = 0

    def sending(self, era: int) -> None:
        """Note that the request goes out, and beside which connections."""
        self.era = era
        self._sending()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers, which must be this attempt's."""
        if not self._ids.fits(self._mark, status, headers.get("x-request-id")):
            raise errors.Mismatch(field="X-Request-Id")
        self.status = status
        self._headers = headers
        names = (name.strip() for name in headers.get("content-encoding", "").lower().split(","))
        codings = [name for name in names if name not in {"", "identity"}]
        if len(codings) == 1 and codings[0] in _CODINGS:
            self._unpacker = _Unpacker()
        elif codings:
            raise errors.BadAnswer("The upstream's answer has an encoding that was not asked for; try again later.")

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._unpacker:
            chunk = self._unpacker.unpack(chunk, self._max_bytes + 1 - self._size)
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise errors.BadAnswer(
                f"The upstream's answer is larger than {self._max_bytes} bytes; ask for fewer objects at once."
            )
        if self._first is None:  # most bodies come in one piece, others in a million
            self._first = chunk
        else:
            self._rest += chunk

    def reply(self) -> Reply:
        """Return the answer, which must be complete."""
        if self._unpacker and self._first is not None and not self._unpacker.complete:
            raise _broken()
        body = self._first or b""
        proven = self._mark in self._headers.get("x-request-id", "")
        return Reply(self.status, self._headers, body + self._rest if self._rest else body, self.era, proven)


class _Unpacker:
    """Unpacks gzip members, a zlib stream, or deflated data without a header, whatever its coding is called."""

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None
        self._head = b""
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether what came so far ends where a stream ends."""
        return self._stream is None and not self._head and self._members > 0

    def unpack(self, packed: bytes, room: int) -> bytes:
        """Unpack a piece, up to `room` bytes.

        Raises:
            errors.BadAnswer: something else follows.
            zlib.error: it is not packed.
        """
        packed, self._head, unpacked = self._head + packed, b"", b""
        while packed and len(unpacked) < room:
            if self._stream is None:
                if len(packed) < len(_GZIP):
                    self._head = packed
                    break
                self._stream = self._begin(packed[0], packed[:2])
            unpacked += self._stream.decompress(packed, room - len(unpacked))
            packed = self._stream.unused_data
            if self._stream.eof:
                self._stream = None
        return unpacked

    def _begin(self, first: int, head: bytes) -> "zlib._Decompress":
        if self._members and (head != _GZIP or self._members == MAX_MEMBERS):
            raise _broken()
        self._members += 1
        has_header = head == _GZIP or (first % 16 == zlib.DEFLATED and int.from_bytes(head, "big") % 31 == 0)
        return zlib.decompressobj(wbits=zlib.MAX_WBITS + 32 if has_header else -zlib.MAX_WBITS)


def rejection(reply: Reply, key: str = "") -> errors.UpstreamError:
    """Return the exception that stands for an answer whose status is no success.

    The message of a 4xx in either of the two JSON bodies is passed on; every other one is ours. Where the upstream
    repeats the API key, it is redacted: it may be the gateway's own.
    """
    status = reply.status
    told = _told(reply.body) if 400 <= status < 500 else None
    error: errors.UpstreamError
    if 400 <= status < 500:
        kind = errors.BY_STATUS.get(status, errors.Rejected)
        error = kind(_message(told, key) or f"The upstream refused the call with status {status}.")
    elif status in {502, 503, 504}:
        error = errors.Unavailable("The upstream is not available at the moment; try again later.")
    elif status < 400:
        error = errors.BadAnswer(f"The upstream answered with status {status}, which is not followed.")
    else:
        error = errors.BadAnswer(f"The upstream failed with status {status}; try again later.")
    code = told.error.code if told and isinstance(told.error, models.ErrorDetail) else None
    error.answer = said(reply, key, code and redact(code, key)[:100])
    error.field_errors = _field_errors(told.details.field_errors, key) if told and told.details else None
    return error


def said(reply: Reply, key: str, code: str | None = None) -> errors.Answer:
    """Return what an answer says of itself, without the API key."""
    return errors.Answer(reply.status, code, redact(reply.headers.get("x-request-id", ""), key)[:100] or None)


def redact(text: str, key: str) -> str:
    """Return what the upstream said without the API key; do it before the text is cut."""
    return text.replace(key, "***") if len(key.encode()) >= MIN_SECRET else text


def _told(body: bytes) -> models.ErrorBody | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ERROR_BODY.decode(body)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ERROR_BODY.decode(repair.clean(body, "strict"))
    return None


def _message(told: models.ErrorBody | None, key: str) -> str:
    if told is None:
        return ""
    message = told.error if isinstance(told.error, str) else told.error.message
    if told.details and told.details.form_errors:
        message = f"{message}: {'; '.join(told.details.form_errors)}"
    return redact(message, key)[:MAX_MESSAGE]


def _field_errors(told: dict[str, list[str]], key: str) -> dict[str, list[str]] | None:
    fields = islice(told.items(), MAX_FIELDS)
    return {
        redact(name, key)[:100]: [redact(message, key)[:200] for message in messages[:3]] for name, messages in fields
    } or None


def _failure(error: Exception, timeout: float, *, answered: bool) -> errors.Failed:
    """Return the exception that stands for what httpx or the socket raised; its text is never passed on."""
    failed: errors.Failed
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        failed = errors.TimedOut(f"The upstream did not answer within {timeout:g} s; try again later.")
    elif answered or _unreadable(error):
        failed = _broken()
    else:
        failed = errors.Unavailable("The upstream cannot be reached; try again later.")
    failed.reached = not isinstance(error, _NEVER_SENT)
    return failed


def _unreadable(error: Exception) -> bool:
    """Tell an answer that is no HTTP from a connection that was closed without one, which may be tried again."""
    closed = str(error).startswith("Server disconnected")  # httpcore has one class for both
    return isinstance(error, httpx.DecodingError | httpx.RemoteProtocolError) and not closed


def _broken() -> errors.BadAnswer:
    return errors.BadAnswer("The upstream's answer broke off or could not be read; try again later.")

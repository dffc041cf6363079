"""One attempt at a REST call: an HTTP request, its decompressed response, and the error for every failure.

Attempts go to a transport directly, below httpx's client, so that no cookie, redirect or header of one caller reaches
another. A body is decompressed as it is received, up to a limit. Every failure is an `errors.UpstreamError` that tells
whether the upstream may have seen the request. A response that belongs to another request closes all connections.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Mapping
from itertools import count, islice
from typing import Any, NamedTuple

import httpx
import msgspec

from gateway.observability.logging import log
from gateway.settings import Settings
from gateway.upstream import errors, models, repair
from gateway.upstream.tls import tls_context
from gateway.upstream.transport.base import InvalidResponse, Options, Request, Timeout, Transport, TransportError
from gateway.upstream.transport.httpx import HttpxTransport, through_proxy
from gateway.upstream.transport.pool import Pool

MAX_FIELDS = 10
"""Fields whose errors are passed on, with three messages of 200 characters each. The inputs have three fields."""
MAX_MESSAGE = 500
"""Characters of an upstream message that are passed on."""
MIN_SECRET = 8
"""Bytes from which a key is redacted in upstream messages; a shorter one is no secret and may be part of a word."""

MAX_MEMBERS = 1000
"""Gzip members of one response; each costs a pass over the data after it."""

ENOUGH = 10
"""Responses in a row that must repeat their ids before all have to."""
MISSES = 3
"""Responses without the id after which they need not repeat it, unless ENOUGH in a row between them do."""
LESS_SURE = 10
"""Factor by which more responses in a row are needed after each such mistake."""
RECENT = 256
"""Ids of earlier responses that are remembered."""

_CODINGS = {"gzip", "x-gzip", "deflate"}
_GZIP = b"\x1f\x8b"
_ID = "X-Request-Id"
_SUFFIX = re.compile(r"gw[0-9a-f]{16}")
_HEADERS = {"Cache-Control": "no-cache"}
"""A cache in between would answer reads that follow a write with older responses, and repeat their request ids."""
_ERROR_BODY = msgspec.json.Decoder(models.ErrorBody)


class Response(NamedTuple):
    """Status, headers and body of a complete response, decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    generation: int = 0
    """Names the connections that were open when the request was sent."""
    verified: bool = False
    """Whether it repeats the request id of its attempt."""


class HttpClient:
    """Makes attempts at one REST API over one transport.

    `transport` is used in place of the built-in one and of a proxy in the settings.
    """

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | Transport | None = None) -> None:
        self.mismatches = 0
        """Responses that belonged to another request."""
        self._timeout = settings.upstream_timeout
        self._max_bytes = settings.max_upstream_bytes
        self._ids = RequestIds()
        needs_tls = settings.upstream_proxy or settings.upstream_url.lower().startswith("https:")
        options = Options(
            settings.upstream_url,
            settings.upstream_timeout,
            settings.upstream_connections,
            settings.deadline,
            settings.upstream_proxy,
            tls_context() if needs_tls and not transport else None,
        )
        if isinstance(transport, httpx.AsyncBaseTransport):
            self._transport: Transport = HttpxTransport(options, lambda: transport)
        elif transport:
            self._transport = transport
        elif settings.upstream_proxy:
            self._transport = through_proxy(options)
        else:
            self._transport = Pool(options)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def attempt(self, request: Request, sending: Callable[[], None] = lambda: None) -> Response:
        """Send one request, a body as JSON, and return the response, whatever its status.

        The request id that is sent is the operation's with a suffix for this attempt. `sending` is called just before
        the request is written; an attempt that ends before did not reach the upstream.

        Raises:
            errors.Failed: no complete response; `reached` tells whether the upstream may have seen the request.
        """
        method, target, headers, body, tenant = request
        suffix = self._ids.next()
        receiver = _Receiver(self._max_bytes, sending, suffix, self._ids)
        headers = {**headers, _ID: f"{headers.get(_ID, 'operation')}-{suffix}", **_HEADERS}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            await self._transport.send(Request(method, target, headers, body, tenant), receiver)
            return receiver.response()
        except TransportError as error:
            raise _failure(error, self._timeout, head_received=receiver.status > 0) from error
        except errors.Mismatch as error:
            self.report_mismatch(receiver.generation, error)
            raise

    def report_mismatch(self, generation: int, error: errors.Mismatch) -> None:
        """Close the connections of a generation on which a response to another request was received."""
        self.mismatches += 1
        closed = self._transport.close_generation(generation)
        log.warning("mismatched_response", field=error.field, connections_closed=closed)


class RequestIds:
    """Makes the ids of attempts at one upstream, and tells whether a response with an id can belong to an attempt.

    The vendor says that every response carries an `X-Request-Id`, but not whether it is the request's. If an upstream
    repeats the request's id in several responses in a row, every later response must repeat it too. If it gives each
    of several responses in a row an id of its own, a later response with one of them is a second copy. Ids of
    attempts are unique: a response with the id of another attempt, of this gateway or another, is the response to that.
    """

    def __init__(self) -> None:
        self._numbers = count(int.from_bytes(os.urandom(7)))
        self._repeated = _Habit()
        self._distinct = _Habit()
        self._recent: dict[str, None] = {}

    def next(self) -> str:
        """Return the unique suffix of the next attempt's id; the operation's id goes before it."""
        return f"gw{next(self._numbers):016x}"

    def fits(self, suffix: str, status: int, id_: str | None) -> bool:
        """Return whether a response with this id, or with None, can belong to the attempt of this suffix.

        A proxy's error page (a 4xx without an id, or a 5xx) fits any attempt and changes nothing.
        """
        if id_ and suffix in id_:
            return self._repeated.judge(kept=True)
        if id_ and _SUFFIX.search(id_):
            return False
        if status >= 500 or (status >= 400 and not id_):
            return True
        return self._repeated.judge(kept=False) and (id_ is None or self._distinct.judge(kept=self._is_new(id_)))

    def _is_new(self, id_: str) -> bool:
        if id_ in self._recent:
            return False
        self._recent[id_] = None
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return True


class _Habit:
    """What an upstream does in each response, once it did it in enough of them; a few misses in a row end that."""

    def __init__(self) -> None:
        self._row = 0
        self._enough = ENOUGH
        self._misses = 0
        self._required = False

    def judge(self, *, kept: bool) -> bool:
        """Return whether a response that kept to the habit, or did not, may be believed."""
        if kept:
            self._row += 1
            if self._row >= self._enough:
                self._required, self._misses = True, 0
            return True
        self._row = 0
        if not self._required:
            return True
        self._misses += 1
        if self._misses >= MISSES:
            self._required, self._misses = False, 0
            self._enough *= LESS_SURE
        return False


class _Receiver:
    """Receives one response; decompresses its body and never keeps more than the limit."""

    def __init__(self, max_bytes: int, sending: Callable[[], None], suffix: str, ids: RequestIds) -> None:
        self.status = 0
        self.generation = 0
        self._sending = sending
        self._suffix = suffix
        self._ids = ids
        self._max_bytes = max_bytes
        self._headers: Mapping[str, str] = {}
        self._decompressor: _Decompressor | None = None
        self._first: bytes | None = None
        self._rest = bytearray()
        self._size = 0

    def on_send(self, generation: int) -> None:
        """Note which connections are open."""
        self.generation = generation
        self._sending()

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take status and headers.

        Raises:
            errors.Mismatch: the request id is another attempt's.
            errors.BadResponse: the content encoding was not asked for.
        """
        if not self._ids.fits(self._suffix, status, headers.get("x-request-id")):
            raise errors.Mismatch(field="X-Request-Id")
        self.status = status
        self._headers = headers
        encoding = headers.get("content-encoding")
        if not encoding:
            return
        codings = [name for part in encoding.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
        if len(codings) == 1 and codings[0] in _CODINGS:
            self._decompressor = _Decompressor()
        elif codings:
            raise errors.BadResponse("The upstream's answer has an encoding that was not asked for; try again later.")

    def on_data(self, data: bytes) -> None:
        """Take a part of the body.

        Raises:
            errors.BadResponse: it cannot be decompressed, or the body is too large.
        """
        if self._decompressor:
            data = self._decompressor.decompress(data, self._max_bytes + 1 - self._size)
        self._size += len(data)
        if self._size > self._max_bytes:
            raise errors.BadResponse(
                f"The upstream's answer is larger than {self._max_bytes} bytes; ask for fewer objects at once."
            )
        if self._first is None:  # most bodies come in one part, others in a million
            self._first = data
        else:
            self._rest += data

    def response(self) -> Response:
        """Return the complete response."""
        if self._decompressor and self._first is not None and not self._decompressor.complete:
            raise _unreadable()
        body = self._first or b""
        verified = self._suffix in self._headers.get("x-request-id", "")
        return Response(
            self.status, self._headers, body + self._rest if self._rest else body, self.generation, verified
        )


class _Decompressor:
    """Decompresses gzip members, a zlib stream, or deflated data without a header, whatever the coding's name."""

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None
        self._head = b""
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether the data so far ends where a stream ends."""
        return self._stream is None and not self._head and self._members > 0

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Decompress a part, up to `limit` bytes.

        Raises:
            errors.BadResponse: it is not compressed, or something else follows.
        """
        data, self._head, decompressed = self._head + data, b"", b""
        while data and len(decompressed) < limit:
            if self._stream is None:
                if len(data) < len(_GZIP):
                    self._head = data
                    break
                self._stream = self._begin(data[0], data[:2])
            try:
                decompressed += self._stream.decompress(data, limit - len(decompressed))
            except zlib.error as error:
                raise _unreadable() from error
            data = self._stream.unused_data
            if self._stream.eof:
                self._stream = None
        return decompressed

    def _begin(self, first: int, head: bytes) -> "zlib._Decompress":
        if self._members and (head != _GZIP or self._members == MAX_MEMBERS):
            raise _unreadable()
        self._members += 1
        has_header = head == _GZIP or (first % 16 == zlib.DEFLATED and int.from_bytes(head, "big") % 31 == 0)
        return zlib.decompressobj(wbits=zlib.MAX_WBITS + 32 if has_header else -zlib.MAX_WBITS)


def error_for(response: Response, key: str = "") -> errors.UpstreamError:
    """Return the exception for a response whose status is no success.

    The message of a 4xx in either of the two JSON bodies is passed on; every other message is the gateway's. The API
    key is redacted where the upstream repeats it: it may be the gateway's own.
    """
    status = response.status
    body = _error_body(response.body) if 400 <= status < 500 else None
    error: errors.UpstreamError
    if 400 <= status < 500:
        kind = errors.BY_STATUS.get(status, errors.Rejected)
        error = kind(_message(body, key) or f"The upstream refused the call with status {status}.")
    elif status in {502, 503, 504}:
        error = errors.Unavailable("The upstream is not available at the moment; try again later.")
    elif status < 400:
        error = errors.BadResponse(f"The upstream answered with status {status}, which is not followed.")
    else:
        error = errors.BadResponse(f"The upstream failed with status {status}; try again later.")
    code = body.error.code if body and isinstance(body.error, models.ErrorDetail) else None
    error.response = summary(response, key, code and redact(code, key)[:100])
    error.field_errors = _field_errors(_detail(body, "fieldErrors"), key)
    return error


def summary(response: Response, key: str, code: str | None = None) -> errors.ErrorResponse:
    """Return status, code and request id of a response, without the API key."""
    return errors.ErrorResponse(
        response.status, code, redact(response.headers.get("x-request-id", ""), key)[:100] or None
    )


def redact(text: str, key: str) -> str:
    """Return a text of the upstream without the API key; call it before the text is cut."""
    return text.replace(key, "***") if len(key.encode()) >= MIN_SECRET else text


def _error_body(body: bytes) -> models.ErrorBody | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ERROR_BODY.decode(body)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ERROR_BODY.decode(repair.clean(body, "strict"))
    return None


def _message(body: models.ErrorBody | None, key: str) -> str:
    if body is None:
        return ""
    message = body.error if isinstance(body.error, str) else body.error.message
    if problems := _texts(_detail(body, "formErrors")):
        message = f"{message}: {'; '.join(problems)}"
    return redact(message, key)[:MAX_MESSAGE]


def _detail(body: models.ErrorBody | None, name: str) -> Any:
    return body.details.get(name) if body and isinstance(body.details, dict) else None


def _texts(told: Any) -> list[str]:
    """Return the messages of a list, or of one that was written without it."""
    return [text for text in (told if isinstance(told, list) else [told]) if isinstance(text, str)]


def _field_errors(told: Any, key: str) -> dict[str, list[str]] | None:
    named = told.items() if isinstance(told, dict) else ()
    fields = islice(((name, messages) for name, value in named if (messages := _texts(value))), MAX_FIELDS)
    return {
        redact(name, key)[:100]: [redact(message, key)[:200] for message in messages[:3]] for name, messages in fields
    } or None


def _failure(error: TransportError, timeout: float, *, head_received: bool) -> errors.Failed:
    """Return the exception for a transport's error; the error's text is never passed on."""
    failed: errors.Failed
    if isinstance(error, Timeout):
        failed = errors.TimedOut(f"The upstream did not answer within {timeout:g} s; try again later.")
    elif head_received or isinstance(error, InvalidResponse):
        failed = _unreadable()
    else:
        failed = errors.Unavailable("The upstream cannot be reached; try again later.")
    failed.reached = error.sent
    return failed


def _unreadable() -> errors.BadResponse:
    return errors.BadResponse("The upstream's answer broke off or could not be read; try again later.")

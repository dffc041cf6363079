"""One HTTP/1.1 connection to the REST API, parsed by llhttp; one request at a time.

llhttp (`httptools`) alone decides where a head, a body and a response end (RFC 9112): it refuses two lengths, bare line
feeds, folded headers and anything after a response. This module adds size limits and timeouts. Header names are in
lower case; of repeated headers the last one counts.
"""

import asyncio
import select
from collections.abc import Callable

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from gateway.upstream.transport.base import (
    ConnectError,
    ConnectionClosed,
    InvalidResponse,
    ReadTimeout,
    ResponseHandler,
)

MAX_HEAD = 2**16
"""Bytes of a response's headers, and of consecutive bytes outside a body: interim responses, trailers, framing."""


class Connection(asyncio.Protocol):
    """A connection for one request at a time; it closes itself if it cannot be used for another.

    Args:
        loop: the loop that it runs in.
        on_close: called once it can no longer be used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_close: Callable[["Connection"], None]) -> None:
        self.open = False
        self.tenant = ""
        """Tenant of the last request."""
        self.closed = loop.create_future()
        """Done when the socket is closed."""
        self.idle_since = 0.0
        """Loop time at which the last response was complete, if it is idle."""
        self._loop = loop
        self._on_close = on_close
        self._transport: asyncio.Transport
        self._handler: ResponseHandler
        self._response: asyncio.Future[None] | None = None
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__  # llhttp calls it for each header: no Python frame
        self._parser = HttpResponseParser(self)
        self._head_received = self._complete = self._has_length = self._keep_alive = False
        self._outside_body = 0
        self._expires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._readable = select.poll()
        self._poll = self._readable.poll

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent."""
        return self.open and self._response is None

    @property
    def has_unread_input(self) -> bool:
        """Whether the socket holds bytes, or an end of file, that the loop has not read yet."""
        return bool(self._poll(0))

    def send(self, request: bytes, handler: ResponseHandler, timeout: float) -> asyncio.Future[None]:
        """Send a request; the future is done once the response is complete, or fails within `timeout` seconds.

        Raises:
            ConnectError: the connection is closed; nothing was sent.
        """
        if not self.open:
            raise ConnectError("The connection was closed before the request was sent.")
        self._handler = handler
        self._fields.clear()
        self._head_received = self._complete = False
        self._outside_body = 0
        self._expire(self._loop.time() + timeout)
        self._response = response = self._loop.create_future()
        self._transport.write(request)
        return response

    def rest(self, timeout: float) -> None:
        """Stay open without a request for `timeout` seconds, then close."""
        self.idle_since = now = self._loop.time()
        self._expire(now + timeout)

    def idle_for(self, seconds: float) -> bool:
        """Tell whether it has been idle for so long."""
        return self._loop.time() - self.idle_since >= seconds

    def abort(self) -> None:
        """Close at once; a request under way fails."""
        if not self.closed.done():
            self._leave()
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be open."""
        self._transport = transport  # type: ignore[assignment]  # asyncio's and uvloop's have no common class
        if connected := transport.get_extra_info("socket"):
            self._readable.register(connected.fileno(), select.POLLIN)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Parse a part of the response; data without a request is never trusted."""
        if self._response is None:
            self.abort()
            return
        self._outside_body += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self._complete:
                self._end(_cause(error))
                return
            self._keep_alive = False
        if self._complete:
            self._end(None)
        elif self._outside_body > MAX_HEAD:
            self._end(InvalidResponse("The response's head is too large."))

    def eof_received(self) -> None:
        """End a response that has no length; asyncio then closes the transport."""
        self._leave()
        if self._response is not None and self._head_received and not self._has_length:
            self._keep_alive = False
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way."""
        self._leave()
        self.closed.set_result(None)
        if self._timer:
            self._timer.cancel()
        if self._response is not None:
            self._end(ConnectionClosed(f"The connection was closed: {exc}"))

    def on_message_begin(self) -> None:
        """Refuse data after a complete response (called by llhttp, as the next three)."""
        if self._complete:
            raise InvalidResponse("Data follows the response.")

    def on_headers_complete(self) -> None:
        """Pass on status and headers, unless the response is an interim one."""
        fields, status = self._fields, self._parser.get_status_code()
        if self._outside_body > MAX_HEAD and sum(map(len, (*fields, *fields.values()))) > MAX_HEAD:
            raise InvalidResponse("The response's head is too large.")
        if status < 200:
            if status < 100 or status == 101:
                raise InvalidResponse(f"The response's status is {status}.")
            fields.clear()
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1").rstrip(" \t") for name, value in fields.items()
        }
        self._head_received = True
        self._has_length = "content-length" in headers or "transfer-encoding" in headers
        self._handler.on_head(status, headers)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._outside_body = 0
        self._handler.on_data(body)

    def on_message_complete(self) -> None:
        """Note that the response is complete, and whether the connection can be used again."""
        if self._head_received:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()

    def _expire(self, at: float) -> None:
        """Set the time at which the request under way, or the idle connection, ends."""
        self._expires = at
        # a timer that fires too early is set again: few requests need a timer of their own
        if self._timer is None or at < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._expires, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._expires:
            self._set_timer()
        elif self._response is not None:
            self._end(ReadTimeout("The response was not complete in time."))
        else:
            self._leave()
            self._transport.close()

    def _leave(self) -> None:
        self.open = False
        self._on_close(self)

    def _end(self, error: BaseException | None) -> None:
        """End the request under way."""
        response, self._response = self._response, None
        del self._handler
        if error is not None or not self._keep_alive:
            self.abort()  # unsent bytes are dropped: a server that has responded need not read them
        if response is None or response.done():
            return
        if error is None:
            response.set_result(None)
        else:
            response.set_exception(error)


def _cause(error: HttpParserError) -> BaseException:
    """Return the exception that a callback raised, or the one for a response that is not HTTP."""
    if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
        return error.__context__
    return InvalidResponse(str(error))

"""One connection to the REST API: a request out, its answer in, one at a time, framed by llhttp.

`pool` opens connections, gives each to one exchange at a time and takes it back. Where a head, a body and an answer
end is said by llhttp alone (`httptools`, which parses the callers' requests too): RFC 9112 as Node has it, strict
about two lengths, bare line feeds, folded headers and whatever follows an answer. What is added here is who is told
of it, the caps, and until when. An answer's header names are in lower case; of repeated headers the last one counts.
"""

import asyncio
import select
from collections.abc import Callable

import httpx
from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from gateway.upstream.transport.base import Sink

MAX_HEAD = 2**16
"""Bytes of an answer's headers, and in a row that bring nothing of a body: interim answers, trailers, framing."""


class Connection(asyncio.Protocol):
    """A connection for one exchange at a time, which closes itself once it is no use for another.

    Args:
        loop: the loop it lives on.
        drop: is told of a connection that has closed, so that it is not kept as an idle one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, drop: Callable[["Connection"], None]) -> None:
        self.open = False
        self.tenant = ""
        """Whose request was sent last."""
        self.lost = loop.create_future()
        """Done when the socket is closed."""
        self._loop = loop
        self._drop = drop
        self._transport: asyncio.Transport
        self._sink: Sink
        self._answer: asyncio.Future[None] | None = None
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__  # llhttp calls it for each header: no frame of Python's
        self._parser = HttpResponseParser(self)
        self._begun = self._complete = self._delimited = self._keep = False
        self._barren = 0
        self._expires = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._input = select.poll()
        self._poll = self._input.poll

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.open and self._answer is None

    @property
    def silent(self) -> bool:
        """Whether nothing waits in the socket's buffer: neither bytes nor an end that the loop has not come to yet."""
        return not self._poll(0)

    def send(self, request: bytes, sink: Sink, within: float) -> asyncio.Future[None]:
        """Send a request; the future is done with its answer, or fails within so many seconds.

        Raises:
            httpx.ConnectError: the connection has closed, nothing was sent.
        """
        if not self.open:
            raise httpx.ConnectError("The connection was closed before the request was sent.")
        self._sink = sink
        self._fields.clear()
        self._begun = self._complete = False
        self._barren = 0
        self.expire(within)
        self._answer = answer = self._loop.create_future()
        self._transport.write(request)
        return answer

    def expire(self, within: float) -> None:
        """End, in so many seconds, what is going on then, be it an exchange or idleness."""
        self._expires = self._loop.time() + within
        # an alarm that rings too early is set anew: hardly any exchange needs one of its own
        if self._alarm is None or self._expires < self._alarm.when():
            self._set_alarm()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if not self.lost.done():
            self._leave()
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be open."""
        self._transport = transport  # type: ignore[assignment]  # asyncio's and uvloop's are no common class
        if connected := transport.get_extra_info("socket"):
            self._input.register(connected.fileno(), select.POLLIN)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Read on in the answer; where none is asked for, nothing that comes can be trusted."""
        if self._answer is None:
            self.abort()
            return
        self._barren += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self._complete:
                self._end(_reason(error))
                return
            self._keep = False
        if self._complete:
            self._end(None)
        elif self._barren > MAX_HEAD:
            self._end(httpx.RemoteProtocolError("The answer's head is too large."))

    def eof_received(self) -> None:
        """End an answer that has no other end; the transport closes itself then."""
        self._leave()
        if self._answer is not None and self._begun and not self._delimited:
            self._keep = False
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._leave()
        self.lost.set_result(None)
        if self._alarm:
            self._alarm.cancel()
        if self._answer is not None:
            self._end(httpx.ReadError(f"The connection was lost: {exc}"))

    def on_message_begin(self) -> None:
        """Refuse what follows a complete answer (llhttp's callback, as are the rest)."""
        if self._complete:
            raise httpx.RemoteProtocolError("Something follows the answer.")

    def on_headers_complete(self) -> None:
        """Hand over status and headers, unless the answer is an interim one."""
        fields, status = self._fields, self._parser.get_status_code()
        if self._barren > MAX_HEAD and sum(map(len, (*fields, *fields.values()))) > MAX_HEAD:
            raise httpx.RemoteProtocolError("The answer's head is too large.")
        if status < 200:
            if status < 100 or status == 101:
                raise httpx.RemoteProtocolError(f"The answer's status is {status}.")
            fields.clear()
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1").rstrip(" \t") for name, value in fields.items()
        }
        self._begun = True
        self._delimited = "content-length" in headers or "transfer-encoding" in headers
        self._sink.begin(status, headers)

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body."""
        self._barren = 0
        self._sink.feed(body)

    def on_message_complete(self) -> None:
        """Note that an answer is complete, and whether another may follow."""
        if self._begun:
            self._complete = True
            self._keep = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._expires, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._loop.time() < self._expires:
            self._set_alarm()
        elif self._answer is not None:
            self._end(httpx.ReadTimeout("The answer did not come in time."))
        else:
            self._leave()
            self._transport.close()

    def _leave(self) -> None:
        self.open = False
        self._drop(self)

    def _end(self, error: BaseException | None) -> None:
        """End the exchange."""
        answer, self._answer = self._answer, None
        del self._sink
        if error is not None or not self._keep:
            self.abort()  # flushes nothing: who has answered need not read on
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)


def _reason(error: HttpParserError) -> BaseException:
    """Return what a callback raised, the sink among them, or what says that this is no HTTP."""
    if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
        return error.__context__
    return httpx.RemoteProtocolError(str(error))

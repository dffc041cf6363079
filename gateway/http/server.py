"""uvicorn's HTTP/1.1 protocol, strict about what a request is, with bounds on what clients may send and hold.

The parser is llhttp. It accepts some requests that RFC 9112 refuses; they are refused here, before they reach the
application: no or several Host headers, unknown transfer codings, HTTP/0.9. `Upgrade` is ignored, as RFC 9110 section
7.8 allows; trailers are discarded. A refused request is the last of its connection: nothing after it is parsed.
"""

import asyncio
import json
import re
import select
import socket
import struct
from typing import NoReturn

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.execution.errors import request_error
from gateway.http.disconnect import DISCONNECTED
from gateway.http.middleware import SECURITY, request_id
from gateway.http.writer import Writer
from gateway.observability.logging import log
from gateway.upstream.errors import ErrorCode

_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(:[0-9]{0,5})?")
"""`host[:port]` of RFC 3986, without user information; an empty host, which no http URI has, does not match."""
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE | re.DOTALL)
_SIMPLE = re.compile(rb"\s*[A-Z]+ \S+\r?\n")
"""A complete HTTP/0.9 request, which llhttp takes for the request line of HTTP/1.1."""
_REQUEST, _HEAD, _BODY = range(3)  # what is read next on a connection
_USUAL = 100  # headers of a request
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
_BODY_FIELDS = {b"content-length", b"transfer-encoding"}
_CLOSED: int = getattr(select, "POLLRDHUP", select.POLLHUP)
"""The poll event of a peer that has closed the connection; it comes although input is unread."""


class _Refused(Exception):
    """Stops the parser; the reason is in `Protocol._refusal`."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol; the limits are class attributes."""

    head_timeout = 10.0
    """Seconds from the connection, or a later request's first byte, to the end of its head."""
    max_head = 64 * 1024
    """Bytes of request line and headers, of trailers, and of chunk framing between two pieces of a body."""
    max_pipelined = 100
    """Requests of one connection that wait for the responses to earlier ones."""
    linger_timeout = 30.0
    """Seconds in which a client that is still sending may finish and read the response that refused it."""
    max_discarded = 128 * 1024 * 1024
    """Bytes that are read and discarded in that time."""
    write_timeout = 30.0
    """Seconds between checks that a slow client reads `write_rate`; it is disconnected if it does not."""
    write_rate = 16 * 1024
    """Bytes per second that a client must read."""
    max_waiting = 128 * 1024 * 1024
    """Bytes of responses that wait for slow clients in this process; above it the client slow for longest is
    disconnected."""
    closed_check = 0.25
    """Seconds between checks that the client is still connected while reading is paused."""

    transport: Writer

    slow_since: float | None = None
    """Time of the event loop since which the client has been slow, or None."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        self._socket = transport
        self.transport = Writer(transport, self.loop, self._end)
        self._ended = False  # whether parsing has stopped
        self._keep = True  # whether the connection is kept after the last request
        self._host: bytes | None = None
        self._part = _REQUEST
        self._unread = 0  # bytes since the last start of a request or piece of a body
        self._whole = False  # whether the bytes that have just arrived start with a head
        self._fields = 0  # bytes of complete headers or trailers
        self._open = 0  # requests without a complete response
        self._started: RequestResponseCycle | None = None  # the last request that was passed to the application
        self._refusal: tuple[str, str] | None = None
        self._discarded = 0
        self._ignoring_upgrade = False
        self._slow: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._closed_check: asyncio.TimerHandle | None = None
        self._hurry: asyncio.TimerHandle | None = self.loop.call_later(self.head_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer, and tell the application."""
        self._relax()
        self._caught_up()
        for timer in (self._linger, self._closed_check):
            if timer is not None:
                timer.cancel()
        if self._started is not None:  # uvicorn tells only the last request of a pipeline
            self._tell_disconnect(self._started)
        super().connection_lost(exc)

    def _tell_disconnect(self, cycle: RequestResponseCycle) -> None:
        """Make `receive` return `http.disconnect`, and complete the future of `DISCONNECTED`."""
        cycle.disconnected = True
        cycle.message_event.set()
        disconnected: asyncio.Future[bool] = cycle.scope[DISCONNECTED]  # type: ignore[typeddict-item]
        if not disconnected.done():
            disconnected.set_result(True)

    def shutdown(self) -> None:
        """Finish the current request; do not wait for a client whose connection is being closed."""
        self._keep = False
        super().shutdown()
        if self._linger is not None:
            self._socket.close()

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse the data, or discard it after the last request of the connection."""
        if self._ended:
            self._discard(len(data))
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._unread += len(data)
        self._whole = self._part == _REQUEST
        try:
            self._parse(data)
            if self._part != _REQUEST or not self._open:
                self._check_progress(data)
        except (httptools.HttpParserError, _Refused):
            self._refusal = self._refusal or ("400 Bad Request", "This is not an HTTP/1.1 request (RFC 9112).")
            self._refuse()
        if self.flow.read_paused and self._closed_check is None:
            self._closed_check = self.loop.call_later(self.closed_check, self._check_closed)

    def _check_closed(self) -> None:
        """Close the connection if the client has; the transport does not notice while reading is paused."""
        self._closed_check = None
        if self.flow.read_paused and not self._socket.is_closing():
            poll = select.poll()
            poll.register(self._socket.get_extra_info("socket"), _CLOSED)
            if poll.poll(0):
                self._socket.close()
            else:
                self._closed_check = self.loop.call_later(self.closed_check, self._check_closed)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            else:
                return

    def _ignore_upgrade(self) -> None:
        """Parse the body of a request with `Upgrade`, and the requests after it, as HTTP/1.1.

        llhttp takes everything after such a head for another protocol. A new parser gets a head with nothing but the
        length of the body.
        """
        fields = [b"%b: %b" % field for field in self.headers if field[0] in _BODY_FIELDS]
        connection = b"keep-alive" if self._keep else b"close"
        head = b"\r\n".join([b"POST / HTTP/1.1", b"Connection: " + connection, *fields, b"", b""])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._ignoring_upgrade = True
        self.parser.feed_data(head)
        self._ignoring_upgrade = False

    def _check_progress(self, data: bytes) -> None:
        """Limit bytes and time of an incomplete head."""
        if self._unread > self.max_head:
            self._reject("431 Request Header Fields Too Large", f"Headers or trailers are over {self.max_head} bytes.")
        if self._unread == len(data) and _SIMPLE.fullmatch(data):
            self._reject("400 Bad Request", "HTTP/0.9 is not served.")
        # most heads arrive complete and need no timer; blank lines between requests have stopped uvicorn's own
        if self._part != _BODY and self._hurry is None:
            self._hurry = self.loop.call_later(self.head_timeout, self._too_slow)

    def on_message_begin(self) -> None:
        """Start to count the bytes and the time of a head."""
        super().on_message_begin()
        self._part = _HEAD
        self._fields = 0
        if not self._whole:
            self._unread = 0
        self._whole = False
        if self._hurry is not None:
            self._relax()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, discard a trailer."""
        if self._part == _HEAD:
            self.headers.append((name.lower(), value.rstrip()))
        else:
            self._fields += len(name) + len(value) + 4
            self._check_fields()

    def on_headers_complete(self) -> None:
        """Start the request, or refuse it."""
        if not self._ignoring_upgrade:
            self._check_head()
            super().on_headers_complete()
            self.scope[DISCONNECTED] = self.loop.create_future()  # type: ignore[typeddict-unknown-key]  # ASGI allows it
            self._open += 1
            # a response before the body is complete is the last of the connection
            self._keep, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._part = _BODY
        self._unread = self._fields = 0
        if self._hurry is not None:
            self._relax()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body; it allows for some bytes of chunk framing."""
        self._unread = max(0, self._unread - 8 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        if not self.parser.should_upgrade():  # else llhttp has not read the body yet
            self._part = _REQUEST
            self._unread = 0
            if not self.parser.should_keep_alive():  # a trailer `Connection: close` stops llhttp as well
                self._keep = False
            if not self.cycle.response_started:
                self.cycle.keep_alive = self._keep
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    # Requests that RFC 9112 refuses and llhttp accepts

    def _check_head(self) -> None:
        if self._unread > self.max_head or len(self.headers) > _USUAL:
            self._fields = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
            self._check_fields()
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            self._reject("505 HTTP Version Not Supported" if version > "1.1" else "400 Bad Request", "Use HTTP/1.1.")
        if self.parser.should_upgrade() and self.parser.get_method() == b"CONNECT":
            self._reject("400 Bad Request", "CONNECT is not served: this is not a proxy.")
        if not self.url.startswith(b"/") or b"#" in self.url:
            self._check_target(version)
        fields = dict(self.headers)
        host = fields.get(b"host")
        if host != self._host or host is None or len(fields) < len(self.headers):
            self._check_host(host, version)
        if b"transfer-encoding" in fields:
            self._check_codings(version)
        if b"expect" in fields:  # without a meaning in HTTP/1.0: RFC 9110 section 10.1.1
            self.expect_100_continue = version == "1.1" and fields[b"expect"].lower() == b"100-continue"
        if len(self.pipeline) >= self.max_pipelined:
            self._reject("400 Bad Request", f"More than {self.max_pipelined} requests wait for a response.")

    def _check_fields(self) -> None:
        if self._fields > self.max_head:
            self._reject("431 Request Header Fields Too Large", f"Headers or trailers are over {self.max_head} bytes.")

    def _check_target(self, version: str) -> None:
        """Turn an absolute target into path and Host, which it replaces (RFC 9112 section 3.2.2)."""
        if b"#" in self.url:
            self._reject("400 Bad Request", "The request target must not have a fragment.")
        if self.url == b"*" and self.parser.get_method() == b"OPTIONS":
            return
        absolute = _ABSOLUTE.fullmatch(self.url)
        if not absolute:
            self._reject("400 Bad Request", "The request target must be a path or an http URI.")
        authority, path, query = absolute.groups(b"")
        self.url = (path or b"/") + query
        if version == "1.0" and not any(name == b"host" for name, _ in self.headers):
            self.headers.append((b"host", b""))
        self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def _check_host(self, host: bytes | None, version: str) -> None:
        count = [name for name, _ in self.headers].count(b"host")
        if count > 1 or (not count and version == "1.1"):
            self._reject("400 Bad Request", "A request must have one Host header.")
        if host is not None and not _AUTHORITY.fullmatch(host):
            self._reject("400 Bad Request", "The Host header must be a host, with or without a port.")
        self._host = host  # most requests of a connection have the same host

    def _check_codings(self, version: str) -> None:
        values = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
        codings = [coding.strip(b" \t").lower() for coding in values.split(b",")]
        if version == "1.0" or b"chunked" in codings[:-1]:
            self._reject("400 Bad Request", "The Transfer-Encoding is invalid.")
        if codings != [b"chunked"]:
            self._reject("501 Not Implemented", "The only supported transfer coding is chunked.")

    def _reject(self, status: str, problem: str) -> NoReturn:
        self._refusal = (status, problem)
        raise _Refused

    # Refusing

    def _too_slow(self) -> None:
        self._refusal = ("408 Request Timeout", f"The headers did not arrive within {self.head_timeout:g} s.")
        self._refuse()

    def _refuse(self) -> None:
        """Send the refusal, after the responses to earlier requests, and close the connection."""
        self._ended = True
        self._relax()
        if self._part == _BODY:  # the application is reading this request and must not respond as well
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            self._tell_disconnect(self.cycle)
            self._open -= 1
        if not self._open:
            self._send_refusal()

    def _send_refusal(self) -> None:
        begun = self._part == _BODY and self.cycle.response_started
        if self._refusal and self._part != _REQUEST and not begun:  # a client that sent nothing expects no response
            status, problem = self._refusal
            id_ = request_id()
            log.info("request_refused", request_id=id_, status=int(status[:3]), problem=problem)
            body = json.dumps({"errors": [request_error(problem, ErrorCode.BAD_REQUEST)]}).encode()
            fields = (
                *SECURITY,
                (b"x-request-id", id_.encode()),
                (b"content-type", b"application/json; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            )
            head = [b"HTTP/1.1 " + status.encode(), *(b"%b: %b" % field for field in fields)]
            shown = b"" if self.parser.get_method() == b"HEAD" else body
            self.transport.write(b"\r\n".join([*head, b"", shown]))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start the request as soon as the client has read the responses before it."""
        self.transport.flush()
        if self.flow.write_paused:
            self.pipeline.append((cycle, app))
        else:
            self._started = cycle
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Start the next request, or refuse it."""
        self._open -= 1
        super().on_response_complete()
        if self._refusal and not self._open:
            self._send_refusal()

    def _relax(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    # Writing and closing

    def _end(self) -> None:
        """Close the connection; if the client is still sending, wait until it has read the response.

        Closing a socket with unread bytes resets the connection, and the response is lost (RFC 9112 section 9.6).
        """
        self._ended = True
        if self._socket.is_closing():
            return
        if self.waiting:
            self._watch()
        if self.pipeline or self._part != _REQUEST:
            self._socket.write_eof()
            self.flow.resume_reading()
            self._linger = self.loop.call_later(self.linger_timeout, self._socket.close)
        else:
            self._socket.close()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self.max_discarded:
            self._socket.abort()

    @property
    def waiting(self) -> int:
        """Bytes that are not sent yet because the client has not read the bytes before them."""
        return self._socket.get_write_buffer_size()

    def disconnect(self) -> None:
        """Reset the connection, so that neither this process nor the kernel keeps the waiting bytes."""
        log.info("slow_client_disconnected", waiting=self.waiting)
        self._socket.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.abort()

    def pause_writing(self) -> None:
        """Watch a client that reads more slowly than responses are written."""
        super().pause_writing()
        self._watch()
        slow = [each for each in self.connections if isinstance(each, Protocol) and each.slow_since is not None]
        total = sum(each.waiting for each in slow)
        for each in sorted(slow, key=lambda each: each.slow_since or 0.0):
            if total > self.max_waiting and each is not self:
                total -= each.waiting
                each.disconnect()

    def resume_writing(self) -> None:
        """Start the next request and stop watching, unless the connection is to be closed once everything is sent."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._caught_up()
            if self.pipeline and self._started and self._started.response_complete:
                self._start_asgi_task(*self.pipeline.pop())

    def _watch(self) -> None:
        if self._slow is None:
            self.slow_since = self.loop.time()
            self._slow = self.loop.call_later(self.write_timeout, self._check_reader, self.waiting)

    def _check_reader(self, before: int) -> None:
        self._slow = None
        waiting = self.waiting
        if waiting and before - waiting < self.write_rate * self.write_timeout:
            self.disconnect()
        elif waiting:
            self._slow = self.loop.call_later(self.write_timeout, self._check_reader, waiting)

    def _caught_up(self) -> None:
        self.slow_since = None
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

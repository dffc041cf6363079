"""Logging: the gateway's own logger, how it is set up, and the one line that each operation leaves.

The logger is independent of structlog's configuration, which belongs to the application that embeds the gateway: its
lines go to the standard library's logger `gateway`, as text. `configure` sends them to stderr instead, for a process
of the gateway's own. Constant event names, fields apart; never a key, a document or a variable. A client's mistake is
INFO, ours ERROR with a traceback, which is formatted here: a handler that shows local variables would show keys.
"""

import contextvars
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

MAX_NAME = 100
"""Characters of an operation's name that are logged; a caller chooses it, as long as the body may be."""
MIN_SECRET = 5
"""Characters from which a key is redacted in a traceback: a shorter one is part of any text."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_IDS = ("tenant", "request_id")
_ENCODE = msgspec.json.Encoder(enc_hook=repr).encode
_STANDARD = logging.getLogger("gateway")

secret: contextvars.ContextVar[str] = contextvars.ContextVar("secret", default="")
"""The API key of the request at hand, redacted in tracebacks: an exception's text may hold it."""


class _Output:
    """Passes lines on to the logger that `logger` is at the time."""

    def __init__(self) -> None:
        self.logger: Any = _STANDARD

    def __getattr__(self, method: str) -> Any:
        return getattr(self.logger, method)


def _enabled(_: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return structlog.stdlib.filter_by_level(_STANDARD, method, event)


def _redacted(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Redact the key of the request at hand in a traceback."""
    key = secret.get()
    if len(key) >= MIN_SECRET and "exception" in event:
        event["exception"] = event["exception"].replace(key, "***")
    return event


def _for_machines(_: Any, __: str, event: structlog.typing.EventDict) -> str:
    """Write JSON; what can be no JSON, such as half a surrogate pair in an exception's text, by its `repr`."""
    try:
        return _ENCODE(event).decode()
    except UnicodeEncodeError:
        return json.dumps(event, default=repr)


def _for_people(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out what says nothing, and put the long ids last."""
    told = {name: value for name, value in event.items() if value not in (None, [], "") and name not in _IDS}
    return told | {name: event[name] for name in _IDS if event.get(name)}


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, pad_event_to=0, pad_level=False, exception_formatter=plain
    )


_SAFE: list[Any] = [structlog.processors.format_exc_info, _redacted]
_output = _Output()

_EMBEDDED: list[Any] = [_enabled, *_SAFE, _for_people, _console(colors=False)]

PROCESSORS = list(_EMBEDDED)
"""What each line passes on its way out."""

log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    _output, processors=PROCESSORS, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
).bind()


def configure(level: int, log_format: str) -> None:
    """Send the gateway's lines and the standard library's records to stderr, one line each.

    Args:
        level: the least severe level to write.
        log_format: `console`, `json`, or `auto`: console on a terminal, else json.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [structlog.processors.add_log_level]
    last: list[Any] = (
        [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            *_SAFE,
            _for_people,
            _console(colors=sys.stderr.isatty()),
        ]
        if console
        else [structlog.processors.TimeStamper(fmt="iso", utc=True), *_SAFE, _for_machines]
    )
    PROCESSORS[:] = [_enabled, *shared, *last]
    _output.logger = structlog.WriteLogger(sys.stderr)  # which writes a line and its end at once
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(level, logging.WARNING))
    _STANDARD.setLevel(level)


def embed() -> None:
    """Send the gateway's lines to the standard library's logger `gateway`, as before `configure`."""
    PROCESSORS[:] = _EMBEDDED
    _output.logger = _STANDARD
    _STANDARD.setLevel(logging.NOTSET)


def request_id(given: str | None) -> str:
    """Return the caller's request id where it is sane (64 of letters, digits, `.`, `_`, `-`), else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def operation_done(fields: Mapping[str, Any]) -> None:
    """Leave the line of one operation: who, what, status, codes, REST calls, milliseconds."""
    log.info("operation", **{**fields, "name": name[:MAX_NAME] if (name := fields.get("name")) else None})

"""The gateway's logger and its configuration.

The logger is independent of structlog's configuration, which belongs to the application that embeds the gateway: its
lines go to the standard library's logger `gateway`, as text. `configure` sends them to stderr instead, for a process
of the gateway's own. Event names are constant; API keys, documents and variables are never logged. A client's mistake
is INFO, the gateway's own fault is ERROR with a traceback. Tracebacks are formatted here, because a handler that shows
local variables would show API keys.
"""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

MAX_NAME = 100
"""Characters of an operation's name that are logged; the client chooses the name."""
MIN_SECRET = 5
"""Characters from which an API key is redacted in a traceback: a shorter one occurs in any text."""

_IDS = ("tenant", "request_id")
_ENCODE = msgspec.json.Encoder(enc_hook=repr).encode
_STANDARD = logging.getLogger("gateway")

secret: contextvars.ContextVar[str] = contextvars.ContextVar("secret", default="")
"""The API key of the current request, which is redacted in tracebacks."""


class _Output:
    """Forwards to the current `logger`; structlog's `filter_by_level` sees the level of `_STANDARD`."""

    disabled = False
    getEffectiveLevel = staticmethod(_STANDARD.getEffectiveLevel)  # noqa: N815 - the standard library's name

    def __init__(self) -> None:
        self.logger: Any = _STANDARD

    def __getattr__(self, method: str) -> Any:
        return getattr(self.logger, method)


def _format_exception(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Format the traceback, with the API key of the current request redacted."""
    if "exc_info" not in event:
        return event
    event = structlog.processors.format_exc_info(logger, method, event)
    key = secret.get()
    if len(key) >= MIN_SECRET and "exception" in event:
        event["exception"] = event["exception"].replace(key, "***")
    return event


def _add_timestamp(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["timestamp"] = datetime.now(UTC)
    return event


def _render_json(_: Any, __: str, event: structlog.typing.EventDict) -> str:
    """Return the line as JSON; values that JSON cannot hold are written by `repr`."""
    try:
        return _ENCODE(event).decode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps({**event, "timestamp": event["timestamp"].isoformat()}, default=repr)


def _order(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Remove empty values, and put the long ids last."""
    shown = {name: value for name, value in event.items() if value not in (None, [], "") and name not in _IDS}
    return shown | {name: event[name] for name in _IDS if event.get(name)}


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, pad_event_to=0, pad_level=False, exception_formatter=plain
    )


_output = _Output()

_EMBEDDED: list[Any] = [structlog.stdlib.filter_by_level, _format_exception, _order, _console(colors=False)]

PROCESSORS = list(_EMBEDDED)
"""The logger's processors."""

log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    _output, processors=PROCESSORS, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
).bind()


def configure(level: int, log_format: str) -> None:
    """Write the gateway's lines and the standard library's records to stderr, one line each.

    Args:
        level: the lowest level that is written.
        log_format: `console`, `json`, or `auto`: console on a terminal, else json.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [structlog.processors.add_log_level]
    last: list[Any] = (
        [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _format_exception,
            _order,
            _console(colors=sys.stderr.isatty()),
        ]
        if console
        else [_add_timestamp, _format_exception, _render_json]
    )
    PROCESSORS[:] = [structlog.stdlib.filter_by_level, *shared, *last]
    _output.logger = structlog.WriteLogger(sys.stderr)  # writes a line and its end at once
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(level, logging.WARNING))
    _STANDARD.setLevel(level)


def embed() -> None:
    """Undo `configure`: send the gateway's lines to the standard library's logger `gateway`."""
    PROCESSORS[:] = _EMBEDDED
    _output.logger = _STANDARD
    _STANDARD.setLevel(logging.NOTSET)

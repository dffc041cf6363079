"""Logging and metrics: how they are set up, and the one line that each operation leaves.

`cli` calls `configure` once; `endpoint` calls `operation_done`. Constant event names, fields apart;
never a key, a document or a variable. A caller's mistake is INFO, ours ERROR with a traceback.
"""

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

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_IDS = ("tenant", "request_id")
_ENCODE = msgspec.json.Encoder(enc_hook=repr).encode

log = structlog.get_logger("gateway")


def configure(level: int, log_format: str) -> None:
    """Send structlog's and the standard library's records to stderr, one line each.

    Args:
        level: the least severe level to write.
        log_format: `console`, `json`, or `auto`: console on a terminal, else json.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [structlog.processors.add_log_level]
    # tracebacks without local variables: those hold keys
    last: list[Any] = (
        [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _for_people,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                sort_keys=False,
                pad_event_to=0,
                pad_level=False,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
        if console
        else [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _for_machines,
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # which writes a line and its end at once
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(level, logging.WARNING))


def request_id(given: str | None) -> str:
    """Return the caller's request id where it is sane (64 of letters, digits, `.`, `_`, `-`), else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def operation_done(fields: Mapping[str, Any]) -> None:
    """Leave the line of one operation: who, what, status, codes, REST calls, milliseconds."""
    log.info("operation", **{**fields, "name": name[:MAX_NAME] if (name := fields.get("name")) else None})


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

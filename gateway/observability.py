"""Logging and metrics: how they are set up, and the one line that each operation leaves.

`cli` calls `configure` once; `endpoint` calls `operation_done`. Constant event names, fields apart;
never a key, a document or a variable. A caller's mistake is INFO, ours ERROR with a traceback.
"""

import bisect
import itertools
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

MAX_NAME = 100
"""Characters of an operation's name that are logged; a caller chooses it, as long as the body may be."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_IDS = ("tenant", "request_id")
_ENCODE = msgspec.json.Encoder(enc_hook=repr).encode

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; prometheus-client's own bounds, to the default deadline."""

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


class Metrics:
    """What this process counts, for `/metrics` in Prometheus' text format; labels hold no caller's words.

    Plain counters are read when Prometheus asks, so that counting costs an operation next to nothing.
    """

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._codes: Counter[str] = Counter()
        self._spent = 0
        self._saved: Counter[str] = Counter()
        self._seconds = [0] * (len(BUCKETS) + 1)
        self._total_seconds = 0.0
        self._watched: list[tuple[str, str, Callable[[], float]]] = []

    def count(self, type_: str, status: int, seconds: float, codes: Iterable[str], bill: Any = None) -> None:
        """Count one request, by its operation's type."""
        self._requests[type_, str(status)] += 1
        self._codes.update(codes)
        self._seconds[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._total_seconds += seconds
        if bill and bill.touched:
            self._spent += bill.spent
            self._saved.update(msgspec.structs.asdict(bill.saved))

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a counter that another room keeps."""
        self._watched.append((name, text, read))

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as prometheus-client asks its collectors to."""
        yield _counter("gateway_requests", "Requests by operation type and status.", ["type", "status"], self._requests)
        codes = {(code,): count for code, count in self._codes.items()}
        yield _counter("gateway_errors", "GraphQL errors by code.", ["code"], codes)
        yield CounterMetricFamily("gateway_rest_calls", "REST calls sent.", self._spent)
        saved = {(how,): count for how, count in self._saved.items()}
        yield _counter("gateway_rest_calls_saved", "REST calls done without, by how.", ["how"], saved)
        sums = [*itertools.accumulate(self._seconds)]
        buckets = [(str(bound), count) for bound, count in zip((*BUCKETS, "+Inf"), sums, strict=True)]
        yield HistogramMetricFamily(
            "gateway_request_seconds", "Seconds from a request to its answer.", buckets, self._total_seconds
        )
        for name, text, read in self._watched:
            yield CounterMetricFamily(name, text, read())

    def text(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


def _counter(name: str, text: str, labels: list[str], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


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

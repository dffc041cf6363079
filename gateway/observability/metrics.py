"""The metrics, as Prometheus reads them. Labels hold nothing that a client chose.

Each application has a registry of its own. If PROMETHEUS_MULTIPROC_DIR was set before prometheus-client was
imported, that counts in files of this directory.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; prometheus-client's own bounds, to the default deadline."""


class Metrics:
    """What one application counts, for `/metrics` in Prometheus' text format.

    Args:
        directory: of several processes' files (PROMETHEUS_MULTIPROC_DIR), to be summed; None for this one alone.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._registry = CollectorRegistry()
        self.rest_calls = self.counter("gateway_rest_calls", "REST calls sent.")
        requests = self.counter("gateway_requests", "Requests by operation type and status.", "type", "status")
        # looking a child up takes prometheus-client longer than to count
        self._request = cache(requests.labels)
        self._error = cache(self.counter("gateway_errors", "GraphQL errors by code.", "code").labels)
        saved = self.counter("gateway_rest_calls_saved", "REST calls done without, by how.", "how")
        self._saved = cache(saved.labels)
        self._seconds = Histogram(
            "gateway_request_seconds", "Seconds from a request to its answer.", buckets=BUCKETS, registry=self._registry
        )
        self._watched: list[_Watched] = []

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a new counter of this application."""
        return Counter(name, text, labels, registry=self._registry)

    def count(self, type_: str, status: int, seconds: float, codes: Iterable[str], bill: Any = None) -> None:
        """Count one request, by its operation's type."""
        self._request(type_, str(status)).inc()
        self._seconds.observe(seconds)
        for code in codes:
            self._error(code).inc()
        if bill and bill.touched:
            for how, calls in msgspec.structs.asdict(bill.saved).items():
                counter = self._saved(how)  # shown from now on, if only as 0
                if calls:
                    counter.inc(calls)
        self._catch_up()

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a number that is kept elsewhere and only grows; it is read after each request."""
        self._watched.append(_Watched(self.counter(name, text), read))

    def text(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        self._catch_up()
        registry = self._registry
        if self._directory:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _catch_up(self) -> None:
        for watched in self._watched:
            watched.catch_up()


class _Watched:
    def __init__(self, counter: Counter, read: Callable[[], float]) -> None:
        self._counter = counter
        self._read = read
        self._seen = 0.0

    def catch_up(self) -> None:
        if (value := self._read()) != self._seen:
            self._counter.inc(value - self._seen)
            self._seen = value

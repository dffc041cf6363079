"""Prometheus metrics. Labels hold no text that a client chose.

Each application has its own registry. If PROMETHEUS_MULTIPROC_DIR was set before prometheus-client was imported, it
counts in files of this directory.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; prometheus-client's own bounds, to the default deadline."""


class Metrics:
    """The counters of one application.

    Args:
        directory: of the files of several processes (PROMETHEUS_MULTIPROC_DIR), which are summed; None for one process.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self.shared = bool(directory)
        """Whether other processes show these counters, which `update` must keep up to date."""
        self._registry = CollectorRegistry()
        # `labels` is slower than counting
        self.requests = cache(
            self._counter("gateway_requests", "Requests by operation type and status.", "type", "status").labels
        )
        self.seconds = Histogram(
            "gateway_request_seconds",
            "Seconds from a request to its response.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.errors = cache(self._counter("gateway_errors", "GraphQL errors by code.", "code").labels)
        self.rest_calls = self._counter("gateway_rest_calls", "REST calls sent.")
        self.saved = cache(self._counter("gateway_rest_calls_saved", "REST calls saved, by how.", "how").labels)
        self._watched: list[_Watched] = []

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a number that is counted elsewhere and only grows."""
        self._watched.append(_Watched(self._counter(name, text), read))

    def update(self) -> None:
        """Read the watched numbers."""
        for watched in self._watched:
            watched.update()

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        self.update()
        registry = self._registry
        if self._directory:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)


class _Watched:
    def __init__(self, counter: Counter, read: Callable[[], float]) -> None:
        self._counter = counter
        self._read = read
        self._seen = 0.0

    def update(self) -> None:
        if (value := self._read()) != self._seen:
            self._counter.inc(value - self._seen)
            self._seen = value

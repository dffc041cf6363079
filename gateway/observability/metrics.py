"""The metrics of one process, as Prometheus reads them. Labels hold nothing that a client chose."""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; prometheus-client's own bounds, to the default deadline."""


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

"""The metrics, as Prometheus reads them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from gateway.app import create_app
from gateway.http.middleware import RequestLogging
from gateway.observability.metrics import Metrics
from gateway.settings import load
from tests.harness import UPSTREAM, Gateway, open_gateway

COUNTING = """
from gateway.observability.metrics import Metrics

metrics = Metrics()
for status in (200, 200, 499):
    metrics.requests("query", status).inc()
    metrics.errors("RATE_LIMITED").inc()
    metrics.seconds.observe(0.02)
metrics.rest_calls.inc()
"""


async def scrape(gateway: Gateway) -> dict[str, float]:
    text = (await gateway.http.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join((sample.name, *sorted(sample.labels.values()))): sample.value for sample in samples}


async def test_counts_requests_errors_and_rest_calls(gateway: Gateway) -> None:
    await gateway.ask("{ phoneNumbers(first: 50) { nodes { agent { name } } } }")
    await gateway.ask("{ agents { totalCount } }", key=None)
    await gateway.ask("{ nothing }")

    metrics = await scrape(gateway)

    assert metrics["gateway_requests_total 200 query"] == 2
    assert metrics["gateway_requests_total 200 none"] == 1
    assert metrics["gateway_errors_total UNAUTHENTICATED"] == 1
    assert metrics["gateway_errors_total GRAPHQL_VALIDATION_FAILED"] == 1
    assert metrics["gateway_rest_calls_total"] == len(gateway.calls) == 2
    assert metrics["gateway_rest_calls_saved_total swept"] == 11
    assert metrics["gateway_request_seconds_count"] == 3
    assert metrics["gateway_redis_failures_total"] == 0


async def test_labels_hold_no_text_of_a_client(gateway: Gateway) -> None:
    await gateway.ask('query Secret { agents(search: "private") { totalCount } }', key="demo-2")

    text = (await gateway.http.get("/metrics")).text

    assert not any(word in text for word in ("Secret", "private", "demo-2"))


def test_the_metrics_of_several_processes_are_their_sums(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", COUNTING], env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}, check=True, timeout=60
        )

    lines = Metrics(str(tmp_path)).text().decode().splitlines()

    assert 'gateway_requests_total{status="200",type="query"} 4.0' in lines
    assert 'gateway_requests_total{status="499",type="query"} 2.0' in lines
    assert 'gateway_errors_total{code="RATE_LIMITED"} 6.0' in lines
    assert 'gateway_request_seconds_bucket{le="0.025"} 6.0' in lines
    assert "gateway_rest_calls_total 2.0" in lines


async def test_a_worker_reads_watched_numbers_after_each_request(tmp_path: Path) -> None:
    async def app(scope: Scope, _: Receive, __: Send) -> None:
        scope["gateway.record"].graphql = True

    async def ignore(*_: Any) -> Any:
        raise AssertionError

    metrics, reads = Metrics(str(tmp_path)), iter(range(1, 100))
    metrics.watch("gateway_watched", "Numbers read.", lambda: next(reads))
    for _ in range(2):
        scope = {"type": "http", "method": "POST", "headers": []}
        await RequestLogging(app, metrics)(scope, ignore, ignore)

    assert next(reads) == 3


async def test_applications_in_one_process_count_each_for_itself(gateway: Gateway) -> None:
    async with open_gateway() as other:
        await gateway.ask("{ agents { totalCount } }")
        await gateway.ask("{ agents { totalCount } }")
        await other.ask("{ agents { totalCount } }")

        counts = [(await scrape(each))["gateway_rest_calls_total"] for each in (gateway, other)]

    assert counts == [2, 1]
    third = httpx.ASGITransport(create_app(load({}, {"upstream_url": UPSTREAM})))
    async with httpx.AsyncClient(transport=third, base_url="http://gateway") as http:
        assert "gateway_rest_calls_total 0.0" in (await http.get("/metrics")).text

"""The metrics, as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Gateway


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


async def test_labels_hold_no_word_of_a_caller(gateway: Gateway) -> None:
    await gateway.ask('query Secret { agents(search: "private") { totalCount } }', key="demo-2")

    text = (await gateway.http.get("/metrics")).text

    assert not any(word in text for word in ("Secret", "private", "demo-2"))

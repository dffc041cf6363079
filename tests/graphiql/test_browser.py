"""GraphiQL in a real Chromium, against a `gateway demo` process."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.graphiql import SAMPLE_QUERIES, static_dir
from tests.browser import MODEL, Visit, needs_chromium, open_browser, open_visit, playwright

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(static_dir() is None, reason="the GraphiQL bundle was not built"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    with open_visit(chromium) as opened:
        yield opened


@contextmanager
def demo_process() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("gateway")), "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "gateway demo ended"
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("gateway demo did not answer within 20 s")


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    with demo_process() as origin:
        yield origin


@pytest.fixture
def graphiql(visit: Visit, demo: str) -> Visit:
    visit.page.goto(f"{demo}/graphql")
    visit.page.get_by_label("Execute query").wait_for()
    visit.page.wait_for_load_state("networkidle")
    return visit


class TestGraphiQL:
    def test_the_nested_query_is_open_and_answers_at_once(self, graphiql: Visit, tmp_path: Path) -> None:
        assert graphiql.model("operation.graphql") == SAMPLE_QUERIES[0].query

        answer = graphiql.execute()

        graphiql.page.screenshot(path=tmp_path / "nested.png")
        assert json.loads(graphiql.model("response.json")) == answer
        agents = answer["data"]["agents"]["nodes"]
        assert len(agents) == 12
        assert all(number["agent"]["name"] == agent["name"] for agent in agents for number in agent["numbers"])
        assert sum(len(agent["numbers"]) for agent in agents) > 12
        assert answer["extensions"]["quota"]["spent"] == 2

    def test_asks_no_other_host_and_offends_no_policy(self, graphiql: Visit, demo: str) -> None:
        graphiql.execute()
        graphiql.page.get_by_label("Prettify query").click()
        graphiql.page.get_by_label("Show Documentation Explorer").click()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("Open settings dialog").click()
        graphiql.page.wait_for_load_state("networkidle")

        assert {request for request in graphiql.requests if not request.startswith((f"{demo}/", "data:"))} == set()
        assert graphiql.complaints == []

    def test_every_sample_has_its_tab_and_validates(self, graphiql: Visit) -> None:
        names = ["AgentsWithNumbers", "OneAgent", "PhoneNumbersPage", "QuotaLeft", "ChangeNumbers"]
        assert graphiql.tabs() == names

        for name in names:
            graphiql.page.get_by_role("tab", name=name).click()
            answer = graphiql.execute()
            assert "errors" not in answer, name

    def test_a_sample_can_be_had_again_from_the_toolbar(self, graphiql: Visit) -> None:
        graphiql.page.get_by_label("Sample operations").click()
        graphiql.page.get_by_role("menuitem", name="One agent").click()

        playwright.expect(graphiql.page.get_by_role("tab", name="OneAgent")).to_have_count(2)
        assert graphiql.execute()["data"]["agent"]["name"]

    def test_prettify_sets_out_the_query_and_the_headers(self, graphiql: Visit) -> None:
        graphiql.fill("operation.graphql", "{rateLimit{limit}}")
        graphiql.fill("request-headers.json", '{"X-API-Key":"demo"}')

        graphiql.page.get_by_label("Prettify query").click()
        graphiql.until(f"({MODEL})('operation.graphql').getLineCount() > 4")

        assert graphiql.model("operation.graphql") == "{\n  rateLimit {\n    limit\n  }\n}\n"
        assert graphiql.model("request-headers.json") == '{\n  "X-API-Key": "demo"\n}\n'

    def test_the_docs_show_what_the_schema_says(self, graphiql: Visit) -> None:
        graphiql.page.get_by_label("Show Documentation Explorer").click()
        docs = graphiql.page.get_by_label("Documentation Explorer", exact=True)
        docs.get_by_text("Query", exact=True).click()

        docs.get_by_text("Costs no REST call").first.wait_for()

    def test_without_a_key_the_answer_says_so(self, graphiql: Visit) -> None:
        graphiql.fill("request-headers.json", '{"X-API-Key": ""}')

        with graphiql.page.expect_request(lambda request: request.method == "POST") as asked:
            graphiql.page.get_by_label("Execute query").click()
        graphiql.page.get_by_text('"UNAUTHENTICATED"').wait_for()

        assert "x-api-key" not in asked.value.headers

    def test_tabs_and_history_outlive_a_reload_but_a_key_does_not(self, graphiql: Visit) -> None:
        graphiql.fill("request-headers.json", '{"X-API-Key": "demo-2"}')
        assert len(graphiql.execute()["data"]["agents"]["nodes"]) == 5
        graphiql.page.get_by_role("tab", name="QuotaLeft").click()
        graphiql.until("localStorage['graphiql:tabState']?.includes('\"activeTabIndex\":3')")

        graphiql.page.reload()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("History", exact=True).get_by_text("AgentsWithNumbers").first.wait_for()

        assert len(graphiql.tabs()) == 5
        assert "QuotaLeft" in graphiql.model("operation.graphql")
        assert json.loads(graphiql.model("request-headers.json")) == {"X-API-Key": "demo"}
        assert "demo-2" not in graphiql.page.evaluate("JSON.stringify(localStorage)")

    def test_a_key_outlives_a_reload_where_the_user_says_so(self, graphiql: Visit) -> None:
        graphiql.page.get_by_label("Open settings dialog").click()
        graphiql.page.locator("#enable-persist-headers").click()
        graphiql.page.keyboard.press("Escape")
        graphiql.fill("request-headers.json", '{"X-API-Key": "demo-2"}')
        graphiql.execute()
        graphiql.until("localStorage['graphiql:headers']?.includes('demo-2')")

        graphiql.page.reload()
        graphiql.page.get_by_label("Open settings dialog").click()
        kept = graphiql.model("request-headers.json")
        graphiql.page.locator("#disable-persist-headers").click()
        graphiql.until("localStorage['graphiql:shouldPersistHeaders'] === 'false'")

        assert json.loads(kept) == {"X-API-Key": "demo-2"}
        assert "demo-2" not in graphiql.page.evaluate("localStorage['graphiql:queries']")

    def test_stopping_ends_the_request(self, graphiql: Visit) -> None:
        graphiql.page.route("**/graphql", lambda _: None)
        graphiql.page.get_by_label("Execute query").click()

        with graphiql.page.expect_event("requestfailed") as ended:
            graphiql.page.get_by_label("Stop query").click()

        assert ended.value.failure == "net::ERR_ABORTED"

    def test_an_answer_that_is_no_json_is_shown(self, graphiql: Visit) -> None:
        graphiql.page.route("**/graphql", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))

        graphiql.page.get_by_label("Execute query").click()

        graphiql.page.get_by_text('"502 Bad Gateway: <h1>Bad gateway</h1>"').wait_for()

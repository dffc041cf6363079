"""GraphiQL in a real Chromium, against a `gateway demo` process."""

import json
import os
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

from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.graphiql import DEMO_SAMPLES, SAMPLES, static_dir
from tests.browser import MODEL, Visit, needs_chromium, open_browser, open_visit, playwright
from tests.server import serve_app

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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def started(command: str, port: int, *options: str) -> Iterator[str]:
    """Run `gateway COMMAND` on this port, and yield its origin."""
    program = str(Path(sys.executable).with_name("gateway"))
    with subprocess.Popen([program, command, "--port", str(port), *options], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "the gateway ended"
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the gateway did not answer within 20 s")


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    with started("demo", free_port()) as origin:
        yield origin


@pytest.fixture
def graphiql(visit: Visit, demo: str) -> Visit:
    visit.open(demo)
    return visit


class TestGraphiQL:
    def test_the_nested_query_is_open_and_answers_at_once(self, graphiql: Visit, tmp_path: Path) -> None:
        assert graphiql.model("operation.graphql") == DEMO_SAMPLES[0].query

        answer = graphiql.execute()

        graphiql.page.screenshot(path=tmp_path / "nested.png")
        assert json.loads(graphiql.model("response.json")) == answer
        agents = answer["data"]["agents"]["nodes"]
        assert len(agents) == 12
        assert all(number["agent"]["name"] == agent["name"] for agent in agents for number in agent["numbers"])
        assert sum(len(agent["numbers"]) for agent in agents) > 12
        assert answer["extensions"]["quota"]["spent"] == 2
        if picture := os.environ.get("SCREENSHOT"):  # docs/graphiql.png
            graphiql.page.set_viewport_size({"width": 1280, "height": 720})
            graphiql.page.screenshot(path=picture)

    def test_asks_no_other_host_and_offends_no_policy(self, graphiql: Visit, demo: str) -> None:
        graphiql.execute()
        graphiql.page.get_by_label("Prettify query").click()
        graphiql.page.get_by_label("Show Documentation Explorer").click()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("Open settings dialog").click()
        graphiql.page.get_by_role("dialog").wait_for()
        graphiql.page.evaluate("document.fonts.ready.then(() => true)")

        assert {request for request in graphiql.requests if not request.startswith((f"{demo}/", "data:"))} == set()
        assert graphiql.complaints == []

    def test_every_sample_has_its_tab_and_validates(self, graphiql: Visit) -> None:
        names = ["AgentsWithNumbers", "OneAgent", "PhoneNumbersPage", "QuotaLeft", "ChangeNumbers"]
        assert graphiql.tabs() == names

        for name in names:
            assert "errors" not in graphiql.run(name), name

    def test_a_sample_can_be_had_again_from_the_toolbar(self, graphiql: Visit) -> None:
        graphiql.page.get_by_label("Sample operations").click()
        graphiql.page.get_by_role("menuitem", name="One agent").click()

        playwright.expect(graphiql.page.get_by_role("tab", name="OneAgent")).to_have_count(2)
        assert graphiql.execute()["data"]["agent"]["name"]

    def test_prettify_sets_out_the_query_and_the_headers(self, graphiql: Visit) -> None:
        graphiql.fill("operation.graphql", "{rateLimit{limit}}")
        graphiql.fill("request-headers.json", '{"Cache-Control":"no-cache"}')

        graphiql.page.get_by_label("Prettify query").click()
        graphiql.until(f"({MODEL})('operation.graphql').getLineCount() > 4")

        assert graphiql.model("operation.graphql") == "{\n  rateLimit {\n    limit\n  }\n}\n"
        assert graphiql.model("request-headers.json") == '{\n  "Cache-Control": "no-cache"\n}\n'

    def test_the_docs_show_what_the_schema_says(self, graphiql: Visit) -> None:
        graphiql.page.get_by_label("Show Documentation Explorer").click()
        docs = graphiql.page.get_by_label("Documentation Explorer", exact=True)
        docs.get_by_text("Query", exact=True).click()

        docs.get_by_text("Costs no REST call").first.wait_for()

    def test_without_a_key_the_answer_says_so(self, graphiql: Visit) -> None:
        graphiql.key.fill("")

        sent = graphiql.send()

        assert "x-api-key" not in sent.headers
        graphiql.page.get_by_text('"UNAUTHENTICATED"').wait_for()

    def test_tabs_and_history_outlive_a_reload(self, graphiql: Visit) -> None:
        graphiql.execute()
        graphiql.page.get_by_role("tab", name="QuotaLeft").click()
        graphiql.until("""Object.values(localStorage).join().includes('"activeTabIndex":3')""")

        graphiql.page.reload()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("History", exact=True).get_by_text("AgentsWithNumbers").first.wait_for()

        assert len(graphiql.tabs()) == 5
        assert "QuotaLeft" in graphiql.model("operation.graphql")

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


class TestKey:
    """The key of all tabs, in a field of its own; `demo` is filled in by the demo, `demo-2` is typed."""

    def test_holds_for_every_tab_and_outlives_a_reload(self, graphiql: Visit) -> None:
        assert graphiql.key.input_value() == "demo"
        graphiql.key.fill("demo-2")

        graphiql.page.get_by_role("tab", name="PhoneNumbersPage").click()
        known = graphiql.send()
        graphiql.page.get_by_label("New tab").click()
        graphiql.fill("operation.graphql", "{ agents { totalCount } }")
        new = graphiql.execute()
        graphiql.page.reload()
        graphiql.page.get_by_label("Execute query").wait_for()

        assert known.headers["x-api-key"] == "demo-2"
        assert new["data"] == {"agents": {"totalCount": 5}}
        assert graphiql.key.input_value() == "demo-2"
        assert graphiql.send().headers["x-api-key"] == "demo-2"

    def test_is_kept_in_the_session_and_nowhere_else(self, graphiql: Visit) -> None:
        graphiql.key.fill("demo-2")
        graphiql.execute()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("History", exact=True).get_by_text("AgentsWithNumbers").first.wait_for()
        graphiql.page.reload()
        graphiql.page.get_by_label("Execute query").wait_for()
        graphiql.execute()

        assert "AgentsWithNumbers" in graphiql.stored()
        assert "demo-2" not in graphiql.stored()
        assert graphiql.stored("sessionStorage").count("demo-2") == 1
        assert graphiql.page.evaluate("indexedDB.databases()") == []
        assert graphiql.page.context.cookies() == []

    def test_in_the_headers_editor_is_for_its_tab_and_not_kept(self, graphiql: Visit) -> None:
        graphiql.fill("request-headers.json", '{"x-api-key": "demo-2"}')
        own = graphiql.send()
        graphiql.page.get_by_role("tab", name="QuotaLeft").click()
        other = graphiql.send()
        stored = graphiql.stored() + graphiql.stored("sessionStorage")

        assert own.headers["x-api-key"] == "demo-2"
        assert other.headers["x-api-key"] == "demo"
        assert "demo-2" not in stored

    def test_is_gone_in_a_new_session(self, graphiql: Visit, demo: str) -> None:
        graphiql.key.fill("demo-2")

        other = graphiql.page.context.new_page()
        other.goto(f"{demo}/graphql")

        assert other.get_by_label("API key", exact=True).input_value() == "demo"


class TestServe:
    """GraphiQL of `gateway serve`, in front of a REST API that writes down its calls."""

    @pytest.fixture
    def calls(self) -> list[str]:
        return []

    @pytest.fixture
    def upstream(self, calls: list[str]) -> Iterator[str]:
        spaces = {"secret-key": sample_workspace(agents=5, numbers=11, prefix="real")}
        with serve_app(create_demo(spaces, on_call=calls.append)) as port:
            yield f"http://127.0.0.1:{port}"

    def test_every_tab_only_reads_and_runs_as_it_is(self, visit: Visit, upstream: str, calls: list[str]) -> None:
        with started("serve", free_port(), "--upstream-url", upstream) as origin:
            visit.open(origin)
            assert visit.key.input_value() == ""
            visit.key.fill("secret-key")
            answers = [visit.run(name) for name in visit.tabs()]

        assert len(answers) == 4
        assert not [answer["errors"] for answer in answers if "errors" in answer]
        assert calls
        assert [call for call in calls if not call.startswith("GET ") or not call.endswith(" 200")] == []

    def test_every_sample_of_the_toolbar_only_reads(self, visit: Visit, upstream: str, calls: list[str]) -> None:
        with started("serve", free_port(), "--upstream-url", upstream) as origin:
            visit.open(origin)
            visit.key.fill("secret-key")
            visit.page.get_by_label("Sample operations").click()
            titles = visit.page.get_by_role("menuitem").all_inner_texts()
            visit.page.keyboard.press("Escape")
            for title in titles:
                visit.page.get_by_label("Sample operations").click()
                visit.page.get_by_role("menuitem", name=title).click()
                assert "errors" not in visit.execute(), title

        assert titles == [sample.title for sample in SAMPLES]
        assert {call.split()[0] for call in calls} == {"GET"}

    def test_sends_no_key_where_none_was_entered(self, visit: Visit, upstream: str, calls: list[str]) -> None:
        with started("serve", free_port(), "--upstream-url", upstream) as origin:
            visit.open(origin)
            answers = [visit.run(name) for name in visit.tabs()]

        *refused, quota = [answer.get("errors") for answer in answers]
        assert [errors[0]["extensions"]["code"] for errors in refused] == ["UNAUTHENTICATED"] * 3
        assert quota is None
        assert calls == []

    def test_needs_no_key_where_the_gateway_has_one(self, visit: Visit, upstream: str, calls: list[str]) -> None:
        options = ("--upstream-url", upstream, "--upstream-api-key", "secret-key")
        with started("serve", free_port(), *options) as origin:
            visit.open(origin)
            answers = [visit.run(name) for name in visit.tabs()]

        assert not [answer["errors"] for answer in answers if "errors" in answer]
        assert {call.split()[0] for call in calls} == {"GET"}

    def test_has_nothing_of_a_demo_that_was_at_its_address(self, visit: Visit, upstream: str, calls: list[str]) -> None:
        port = free_port()
        with started("demo", port) as origin:
            visit.open(origin)
            visit.run("ChangeNumbers")
            assert "ChangeNumbers" in visit.stored()

        with started("serve", port, "--upstream-url", upstream, "--upstream-api-key", "secret-key") as origin:
            visit.open(origin)
            visit.page.get_by_label("Show History").click()
            shown = visit.page.get_by_label("History", exact=True).inner_text()
            names = visit.tabs()
            answers = [visit.run(name) for name in names]

        assert "ChangeNumbers" not in names
        assert "ChangeNumbers" not in shown
        assert not [answer["errors"] for answer in answers if "errors" in answer]
        assert {call.split()[0] for call in calls} == {"GET"}

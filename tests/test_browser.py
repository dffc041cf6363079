"""GraphiQL in a real Chromium: against a `gateway demo` process, and its other pages with every request answered here.

Needs Debian's chromium, the playwright package and, for the demo, the bundle; for the CDN page also npm.
"""

import base64
import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql import build_schema, graphql_sync

from gateway.graphiql import CDN, CDN_INTEGRITY, SAMPLE_QUERIES, Page, page, static_dir

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
NPM = shutil.which("npm")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
needs_bundle = pytest.mark.skipif(static_dir() is None, reason="the GraphiQL bundle was not built")
needs_npm = pytest.mark.skipif(NPM is None, reason="npm is not installed")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
SMALL = build_schema('type Query { "Says hello." hello: String }')


@dataclass
class Visit:
    """A page in the browser, and what happened there that should not have."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hear(self, line: Any) -> None:
        # Chromium reports here, too, what a policy or a hash refused.
        if line.type in ("error", "warning"):
            self.complaints.append(line.text)

    def execute(self) -> Any:
        with self.page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            self.page.get_by_label("Execute query").click()
        body = answered.value.json()
        self.page.get_by_text('"data": {').first.wait_for()
        return body

    def model(self, name: str) -> str:
        """Read an editor whole; what it draws is only the part in sight."""
        return str(self.page.evaluate(f"{MODEL}.getValue()", name))

    def fill(self, name: str, text: str) -> None:
        self.page.evaluate(f"([name, text]) => ({MODEL})(name).setValue(text)", [name, text])

    def tabs(self) -> list[str]:
        return [str(tab.inner_text()) for tab in self.page.get_by_role("tab").all()]


MODEL = "name => __MONACO.editor.getModels().find(model => model.uri.path.endsWith(name))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("console", visit.hear)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    yield visit
    context.close()


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


@needs_bundle
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

        assert graphiql.tabs()[5:] == ["OneAgent"]
        assert graphiql.execute()["data"]["agent"]["name"]

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
        graphiql.page.wait_for_function("localStorage['graphiql:tabState']?.includes('\"activeTabIndex\":3')")

        graphiql.page.reload()
        graphiql.page.get_by_label("Show History").click()
        graphiql.page.get_by_label("History", exact=True).get_by_text("AgentsWithNumbers").wait_for()

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
        graphiql.page.wait_for_function("localStorage['graphiql:headers']?.includes('demo-2')")

        graphiql.page.reload()
        graphiql.page.get_by_label("Open settings dialog").click()
        kept = graphiql.model("request-headers.json")
        graphiql.page.locator("#disable-persist-headers").click()
        graphiql.page.wait_for_function("localStorage['graphiql:shouldPersistHeaders'] === 'false'")

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

        graphiql.page.get_by_text("<h1>Bad gateway</h1>").wait_for()


def serve(visit: Visit, answer: Page, files: Callable[[str], bytes] | None = None) -> None:
    """Answer for `http://gateway` and, from `files`, for the CDN."""

    def gateway(route: Any) -> None:
        if route.request.method == "GET":
            route.fulfill(body=answer.html, content_type="text/html; charset=utf-8", headers=dict(answer.headers))
        else:
            asked = route.request.post_data_json
            answered = graphql_sync(SMALL, asked["query"], {"hello": "world"}, operation_name=asked["operationName"])
            route.fulfill(json=answered.formatted)

    def cdn(route: Any) -> None:
        path = route.request.url.removeprefix(CDN)
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert files
        route.fulfill(body=files(path), content_type=kind, headers={"access-control-allow-origin": "*"})

    visit.page.route("http://gateway/**", gateway)
    visit.page.route(f"{CDN}**", cdn)
    visit.page.goto("http://gateway/graphql")


def test_where_npm_was_missing_the_page_says_so(visit: Visit, tmp_path: Path) -> None:
    serve(visit, page(bundled=False))

    visit.page.screenshot(path=tmp_path / "missing.png")
    assert visit.page.get_by_role("heading", level=1).inner_text() == "GraphiQL was not built"
    assert visit.page.get_by_role("link").evaluate("link => link.href") == "http://gateway/graphql?cdn=1"
    assert visit.complaints == []


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Fetch the packages that the CDN serves; the fixture's value reads one of their files."""
    directory = tmp_path_factory.mktemp("packages")
    assert NPM
    packages = sorted({path.split("/")[0] for path in CDN_INTEGRITY})
    done = subprocess.run([NPM, "pack", *packages], cwd=directory, capture_output=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip("npm cannot reach its registry")

    def read(path: str) -> bytes:
        name, _, member = path.partition("/")
        with tarfile.open(directory / f"{name.replace('@', '-')}.tgz") as archive:
            return (archive.extractfile(f"package/{member}") or io.BytesIO()).read()

    return read


@needs_npm
class TestCdnPage:
    @pytest.mark.parametrize("path", CDN_INTEGRITY)
    def test_the_hashes_are_those_of_the_packages(self, path: str, packed: Callable[[str], bytes]) -> None:
        digest = base64.b64encode(hashlib.sha384(packed(path)).digest()).decode()

        assert CDN_INTEGRITY[path] == f"sha384-{digest}"

    def test_the_page_works_from_the_pinned_files(
        self, visit: Visit, packed: Callable[[str], bytes], tmp_path: Path
    ) -> None:
        serve(visit, page(cdn=True, api_key="demo"), packed)
        editor = visit.page.locator(".graphiql-query-editor .CodeMirror")
        editor.wait_for()
        editor.evaluate("element => element.CodeMirror.setValue('query Greeting { hello }')")
        visit.page.get_by_role("tab", name="Greeting").wait_for()

        with visit.page.expect_request(lambda request: request.method == "POST") as asked:
            visit.page.get_by_label("Execute query").click()
        visit.page.locator(".result-window").get_by_text('"world"').wait_for()

        visit.page.screenshot(path=tmp_path / "cdn.png")
        assert asked.value.headers["x-api-key"] == "demo"
        assert {*visit.requests} == {"http://gateway/graphql", *(CDN + path for path in CDN_INTEGRITY)}
        assert visit.complaints == []

    def test_a_changed_file_is_not_run(self, visit: Visit, packed: Callable[[str], bytes]) -> None:
        serve(visit, page(cdn=True), lambda path: packed(path) + b"\n")
        visit.page.wait_for_load_state()

        assert sum("integrity" in complaint for complaint in visit.complaints) == len(CDN_INTEGRITY)
        assert visit.page.evaluate("typeof React") == "undefined"

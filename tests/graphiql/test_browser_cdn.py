"""The GraphiQL pages that stand in for the bundle, in a real Chromium; every request is answered by the test."""

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import build_schema, graphql_sync

from gateway.graphiql import CDN, CDN_INTEGRITY, Page, page
from tests.browser import Visit, needs_chromium, open_browser, open_visit

pytestmark = needs_chromium
NPM = shutil.which("npm")
SMALL = build_schema('type Query { "Says hello." hello: String }')


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    with open_visit(chromium) as opened:
        yield opened


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


@pytest.mark.skipif(NPM is None, reason="npm is not installed")
class TestCdnPage:
    @pytest.mark.parametrize("path", CDN_INTEGRITY)
    def test_the_hashes_are_those_of_the_packages(self, path: str, packed: Callable[[str], bytes]) -> None:
        digest = base64.b64encode(hashlib.sha384(packed(path)).digest()).decode()

        assert CDN_INTEGRITY[path] == f"sha384-{digest}"

    def test_the_page_works_from_the_pinned_files(
        self, visit: Visit, packed: Callable[[str], bytes], tmp_path: Path
    ) -> None:
        serve(visit, page(cdn=True), packed)
        editor = visit.page.locator(".graphiql-query-editor .CodeMirror")
        editor.wait_for()
        editor.evaluate("element => element.CodeMirror.setValue('query Greeting { hello }')")
        visit.page.get_by_role("tab", name="Greeting").wait_for()
        visit.key.fill("secret-key")

        with visit.page.expect_request(lambda request: request.method == "POST") as asked:
            visit.page.get_by_label("Execute query").click()
        visit.page.locator(".result-window").get_by_text('"world"').wait_for()

        visit.page.screenshot(path=tmp_path / "cdn.png")
        assert asked.value.headers["x-api-key"] == "secret-key"
        assert {*visit.requests} == {"http://gateway/graphql", *(CDN + path for path in CDN_INTEGRITY)}
        assert visit.complaints == []

    def test_the_key_holds_for_every_tab_and_is_kept_in_the_session_alone(
        self, visit: Visit, packed: Callable[[str], bytes]
    ) -> None:
        serve(visit, page(cdn=True), packed)
        visit.key.fill("secret-key")
        visit.page.get_by_label("New tab").click()
        editor = visit.page.locator(".graphiql-query-editor .CodeMirror")
        editor.evaluate("element => element.CodeMirror.setValue('query Greeting { hello }')")
        visit.page.get_by_role("tab", name="Greeting").wait_for()
        sent = visit.send()
        visit.page.locator(".result-window").get_by_text('"world"').wait_for()
        visit.page.reload()

        assert sent.headers["x-api-key"] == "secret-key"
        assert visit.key.input_value() == "secret-key"
        assert "Greeting" in visit.stored()
        assert "secret-key" not in visit.stored()
        assert visit.stored("sessionStorage").count("secret-key") == 1

    def test_opens_with_the_same_tabs_as_the_bundle(self, visit: Visit, packed: Callable[[str], bytes]) -> None:
        serve(visit, page(cdn=True), packed)
        visit.page.get_by_label("Execute query").wait_for()

        assert visit.tabs() == ["AgentsWithNumbers", "ActiveAgents", "PhoneNumbersPage", "QuotaLeft"]

    def test_a_changed_file_is_not_run(self, visit: Visit, packed: Callable[[str], bytes]) -> None:
        serve(visit, page(cdn=True), lambda path: packed(path) + b"\n")
        visit.page.wait_for_load_state()

        assert sum("integrity" in complaint for complaint in visit.complaints) == len(CDN_INTEGRITY)
        assert visit.page.evaluate("typeof React") == "undefined"

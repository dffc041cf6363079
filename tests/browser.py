"""A real Chromium for the tests: Debian's, driven by Playwright, asking nothing of the network by itself."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
MODEL = "name => __MONACO.editor.getModels().find(model => model.uri.path.endsWith(name))"


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
        """Run the open tab and return the answer, which must have data."""
        body = self.send().response().json()
        self.page.get_by_text('"data": {').first.wait_for()
        return body

    def run(self, tab: str) -> Any:
        """Run a tab by its name and return the answer."""
        self.page.get_by_role("tab", name=tab).click()
        return self.send().response().json()

    def send(self) -> Any:
        """Run the open tab and return the request."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            self.page.get_by_label("Execute query").click()
        return answered.value.request

    def open(self, origin: str) -> None:
        """Open GraphiQL and wait until it has read the schema."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST"):
            self.page.goto(f"{origin}/graphql")
        self.page.get_by_label("Execute query").wait_for()

    @property
    def key(self) -> Any:
        """The field of the API key."""
        return self.page.get_by_label("API key", exact=True)

    def stored(self, storage: str = "localStorage") -> str:
        """Everything that the browser keeps for this origin, as text."""
        return str(self.page.evaluate(f"JSON.stringify({storage})"))

    def model(self, name: str) -> str:
        """Read an editor whole; what it draws is only the part in sight."""
        return str(self.page.evaluate(f"{MODEL}.getValue()", name))

    def fill(self, name: str, text: str) -> None:
        self.page.evaluate(f"([name, text]) => ({MODEL})(name).setValue(text)", [name, text])

    def until(self, expression: str) -> None:
        # Not `wait_for_function`, which the policy keeps from evaluating.
        for _ in range(100):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"still not so after 5 s: {expression}")

    def tabs(self) -> list[str]:
        return [str(tab.inner_text()) for tab in self.page.get_by_role("tab").all()]


@contextmanager
def open_browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@contextmanager
def open_visit(chromium: Any) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("console", visit.hear)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    yield visit
    context.close()

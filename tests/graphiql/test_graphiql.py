"""The GraphiQL page, its policy and its build step; what a browser makes of them is in `test_browser.py`."""

import base64
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from graphql import OperationDefinitionNode, OperationType, parse

from gateway.demo.rest_api import Workspace, sample_workspace
from gateway.graphiql import (
    CDN,
    CDN_INTEGRITY,
    DEMO,
    DEMO_SAMPLES,
    SAMPLES,
    Preset,
    Sample,
    assets,
    page,
    static_dir,
)
from tests.harness import open_gateway

ROOM = Path(__file__).parents[2] / "gateway" / "graphiql"
SEALED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def config(text: str) -> Any:
    block = re.search(r'<script type="application/json" id="graphiql-config">(.*?)</script>', text, re.DOTALL)
    assert block
    return json.loads(block[1])


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class TestBundledPage:
    def test_allows_this_origin_and_no_other_host(self) -> None:
        answer = page(bundled=True)

        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; "
            f"style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:; {SEALED}"
        )
        assert re.findall(r'(?:src|href)="(?!data:)(.*?)"', answer.html) == ["graphiql/main.css", "graphiql/main.js"]

    def test_has_no_script_of_its_own(self) -> None:
        scripts = re.findall(r"<script([^>]*)>([^<]*)", page(bundled=True).html)

        assert [attributes for attributes, text in scripts if text] == [' type="application/json" id="graphiql-config"']

    def test_tells_the_endpoint_the_key_and_the_samples(self) -> None:
        told = config(page(DEMO, endpoint="/v1/graphql", bundled=True).html)

        assert told["endpoint"] == "/v1/graphql"
        assert told["preset"] == "demo"
        assert told["apiKey"] == "demo"
        assert [sample["title"] for sample in told["samples"]] == [sample.title for sample in DEMO_SAMPLES]

    def test_starts_without_a_key_and_with_the_samples_that_only_read(self) -> None:
        told = config(page(bundled=True).html)

        assert told["preset"] == told["apiKey"] == ""
        assert [sample["query"] for sample in told["samples"]] == [sample.query for sample in SAMPLES]

    @pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", "<!--<script>", "\u2028\"'&"])
    def test_values_cannot_break_out_of_their_block(self, hostile: str) -> None:
        answer = page(Preset(hostile, hostile), endpoint=hostile, bundled=True).html

        assert config(answer)["apiKey"] == hostile
        assert answer.count("<script") == page(bundled=True).html.count("<script")

    def test_the_path_of_the_assets_is_escaped(self) -> None:
        assert '"/a&quot;&gt;&lt;b/main.js"' in page(assets='/a"><b', bundled=True).html

    def test_is_what_there_is_where_npm_was_there(self) -> None:
        assert page() == page(bundled=static_dir() is not None)


class TestMissingPage:
    def test_says_plainly_what_is_missing_how_to_get_it_and_what_else_there_is(self) -> None:
        answer = page(bundled=False)

        assert "GraphiQL was not built" in answer.html
        assert "npm was missing" in answer.html
        assert "pip install --force-reinstall" in answer.html
        assert '<a href="?cdn=1">' in answer.html

    def test_runs_no_script_and_styles_by_hash(self) -> None:
        answer = page(Preset(api_key="secret"), bundled=False)

        style = re.search(r"<style>(.*?)</style>", answer.html, re.DOTALL)
        assert style
        assert answer.headers["Content-Security-Policy"] == (
            f"default-src 'none'; style-src {digest(style[1])}; img-src data:; {SEALED}"
        )
        assert "secret" not in answer.html


class TestCdnPage:
    def test_every_foreign_file_is_pinned_and_has_its_hash(self) -> None:
        tags = re.findall(rf'<(?:script|link)[^>]*"{re.escape(CDN)}[^>]*>', page(cdn=True).html)

        assert len(tags) == len(CDN_INTEGRITY)
        for tag, (path, integrity) in zip(tags, CDN_INTEGRITY.items(), strict=True):
            assert re.match(r"[a-z-]+@\d+\.\d+\.\d+/", path)
            assert f'"{CDN}{path}" integrity="{integrity}" crossorigin="anonymous"' in tag

    def test_allows_those_files_only_and_its_own_script_by_hash(self) -> None:
        answer = page(cdn=True)

        inline = re.search(r"<script>(.*?)</script>", answer.html, re.DOTALL)
        assert inline
        style, *scripts = (CDN + path for path in CDN_INTEGRITY)
        assert answer.headers["Content-Security-Policy"] == (
            f"default-src 'none'; script-src {' '.join(scripts)} {digest(inline[1])}; connect-src 'self'; "
            f"style-src {style} 'unsafe-inline'; font-src data:; img-src data:; {SEALED}"
        )

    def test_its_own_script_is_the_same_whatever_it_is_told(self) -> None:
        policies = {page(Preset(api_key=key), cdn=True).headers["Content-Security-Policy"] for key in ("", "</script>")}

        assert len(policies) == 1


class TestSamples:
    @pytest.mark.parametrize("sample", dict.fromkeys((*SAMPLES, *DEMO_SAMPLES)), ids=lambda sample: sample.title)
    def test_each_is_one_named_operation(self, sample: Sample) -> None:
        assert operation(sample).name

    @pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.title)
    def test_those_for_any_workspace_read_and_name_no_id(self, sample: Sample) -> None:
        assert operation(sample).operation is OperationType.QUERY
        assert not re.search(r"id:", sample.query, re.IGNORECASE)

    def test_the_ids_of_the_demos_are_those_of_the_demo(self) -> None:
        workspace = sample_workspace()

        ids = re.findall(r'd: "(.*?)"', "".join(sample.query for sample in DEMO_SAMPLES))

        assert ids
        assert not set(ids) - {*workspace.agents, *workspace.numbers}

    @pytest.mark.parametrize("workspace", [Workspace("w", {}, {}), sample_workspace(agents=250, numbers=2000)])
    async def test_those_for_any_workspace_run_on_an_empty_and_a_large_one(self, workspace: Workspace) -> None:
        async with open_gateway(workspaces={"demo": workspace}) as gateway:
            for sample in SAMPLES:
                await gateway.data(sample.query)

            assert {call.split()[0] for call in gateway.calls} == {"GET"}


def operation(sample: Sample) -> OperationDefinitionNode:
    (node,) = parse(sample.query).definitions
    assert isinstance(node, OperationDefinitionNode)
    return node


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "chunks").mkdir()
    (tmp_path / "main.js").write_text("entry();" * 500)
    (tmp_path / "chunks" / "a-1.js").write_text("chunk();")
    return tmp_path


@asynccontextmanager
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(assets(directory))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield http


class TestAssets:
    async def test_entries_are_asked_for_again_and_hashed_files_never(self, bundle: Path) -> None:
        async with client(bundle) as http:
            entry, chunk = await http.get("/main.js"), await http.get("/chunks/a-1.js")

        assert entry.headers["cache-control"] == "no-cache"
        assert chunk.headers["cache-control"] == "public, max-age=31536000, immutable"

    async def test_an_unchanged_entry_is_not_sent_again(self, bundle: Path) -> None:
        async with client(bundle) as http:
            first = await http.get("/main.js")
            again = await http.get("/main.js", headers={"if-none-match": first.headers["etag"]})

        assert again.status_code == 304

    async def test_a_worker_may_load_scripts_and_nothing_else(self, bundle: Path) -> None:
        async with client(bundle) as http:
            answer = await http.get("/main.js")

        assert answer.headers["content-security-policy"] == f"default-src 'none'; script-src 'self'; {SEALED}"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_files_travel_compressed(self, bundle: Path) -> None:
        async with client(bundle) as http:
            answer = await http.get("/main.js", headers={"accept-encoding": "gzip"})

        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text == "entry();" * 500


@pytest.fixture(scope="module")
def build_step() -> ModuleType:
    pytest.importorskip("hatchling", reason="the build step needs hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOM / "frontend" / "hatch_build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Checkout:
    """A room with sources and an `npm` that writes down how it was called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.room = root / "gateway" / "graphiql"
        (self.room / "frontend" / "node_modules").mkdir(parents=True)
        (self.room / "boot.js").write_text("boot")
        (self.room / "page.css").write_text("style")
        (self.room / "frontend" / "main.jsx").write_text("main")
        (self.room / "frontend" / "node_modules" / "big.js").write_text("not a source")
        self.log = root / "calls"
        self.npm("mkdir -p ../static && cat main.jsx ../boot.js ../page.css > ../static/main.js")

    def npm(self, build: str) -> None:
        program = self.root / "npm"
        program.write_text(f'#!/bin/sh\necho "$@" $(ls) >> {self.log}\nif [ "$1" = run ]; then {build}; fi\n')
        program.chmod(0o755)

    @property
    def environ(self) -> Mapping[str, str]:
        return {"PATH": f"{self.root}:/usr/bin:/bin"}

    @property
    def main(self) -> str:
        return (self.room / "static" / "main.js").read_text()

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


class TestBuildStep:
    def test_builds_beside_the_sources_and_leaves_no_packages_there(
        self, build_step: ModuleType, checkout: Checkout
    ) -> None:
        assert build_step.build_bundle(checkout.room, checkout.environ) is None

        assert checkout.calls() == ["ci main.jsx", "run build main.jsx"]
        assert checkout.main == "mainbootstyle"

    @pytest.mark.parametrize("source", ["boot.js", "page.css", "frontend/main.jsx"])
    def test_builds_again_only_where_a_source_changed(
        self, build_step: ModuleType, checkout: Checkout, source: str
    ) -> None:
        build_step.build_bundle(checkout.room, checkout.environ)
        build_step.build_bundle(checkout.room, checkout.environ)
        assert len(checkout.calls()) == 2

        (checkout.room / source).write_text("changed")
        build_step.build_bundle(checkout.room, checkout.environ)

        assert len(checkout.calls()) == 4
        assert "changed" in checkout.main

    def test_names_what_is_missing_without_npm(self, build_step: ModuleType, checkout: Checkout) -> None:
        assert build_step.build_bundle(checkout.room, {"PATH": ""}) == "npm was not found"

    def test_a_failed_build_is_reported_and_the_old_bundle_stays(
        self, build_step: ModuleType, checkout: Checkout
    ) -> None:
        build_step.build_bundle(checkout.room, checkout.environ)
        (checkout.room / "boot.js").write_text("broken")
        checkout.npm("echo 'no such host' >&2; exit 1")

        problem = build_step.build_bundle(checkout.room, checkout.environ)

        assert problem == "`npm run build` failed:\nno such host\n\n"
        assert checkout.main == "mainbootstyle"

    def test_an_npm_that_cannot_run_is_reported(self, build_step: ModuleType, checkout: Checkout) -> None:
        (checkout.root / "npm").write_text("no program at all")

        problem = build_step.build_bundle(checkout.room, checkout.environ)

        assert problem.startswith("`npm ci` did not run: ")

    def test_can_be_switched_off(self, build_step: ModuleType, checkout: Checkout) -> None:
        environ = {**checkout.environ, "OMNIA_SKIP_GRAPHIQL_BUILD": "1"}

        assert build_step.build_bundle(checkout.room, environ) == "OMNIA_SKIP_GRAPHIQL_BUILD is set"
        assert not checkout.log.exists()

    def test_warns_and_lets_the_installation_go_on(self, build_step: ModuleType, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path)
        warnings: list[str] = []
        hook = build_step.GraphiQLBuildHook(str(tmp_path), {}, None, None, "", "wheel", Recorder(warnings))

        hook.initialize("standard", {})  # with the machine's own npm, which finds no package.json
        build_step.build_bundle(checkout.room, {**os.environ, **checkout.environ})
        hook.initialize("standard", {})

        (warning,) = warnings
        assert warning.startswith("GraphiQL was not built: ")
        assert warning.endswith("The gateway works without it.")


class Recorder:
    """The part of hatchling's application that a build hook speaks to."""

    def __init__(self, warnings: list[str]) -> None:
        self.display_warning = warnings.append

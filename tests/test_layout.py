"""The layout: who may import whom, and that everything says what it is."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType

from gateway.schema import GRAPHQL_SCHEMA

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gateway"

LAYERS = ("http", "estimate", "execution", "schema", "dataloaders", "upstream", "upstream.transport")
"""From the top down: a package imports only from those below it. `http` and `estimate` do not import each other."""

BESIDE = {"demo": set[str](), "graphiql": {"observability"}, "observability": set[str](), "settings": set[str]()}
"""Packages that no layer is above or below, with what they import of the gateway."""

ON_HTTPX = {
    "gateway.upstream.transport.httpx",
    "gateway.estimate.typical",  # runs operations on the demo's API, in memory
}
TYPED_BY_HTTPX = {"gateway.upstream.attempt", "gateway.upstream.client", "gateway.app"}
"""They pass a transport on, and name httpx only for its type."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if "frontend" not in path.parts}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}
modules = pytest.mark.parametrize("module", FILES)


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every module that a tree imports, wherever in it, with the name it takes from there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in FILES else (str(node.module), alias.name)


def imports(module: str, *packages: str) -> set[str]:
    return {name for name, _ in imported(TREES[module]) if name.split(".")[0] in packages}


def package_of(module: str) -> str:
    """The layer, or the package beside them, that a module is in; the module's own name for `app` and `cli`."""
    inner = module.removeprefix("gateway").removeprefix(".")
    return "upstream.transport" if inner.startswith("upstream.transport") else inner.split(".")[0]


def allowed(package: str) -> set[str]:
    """What a package may import of the gateway."""
    if package in BESIDE:
        return BESIDE[package]
    below = set(LAYERS[LAYERS.index(package) + 1 :]) - ({"estimate"} if package == "http" else set())
    return below | {"settings", "observability"} | ({"demo"} if package == "estimate" else set())


@modules
def test_imports_only_from_the_layers_below(module: str) -> None:
    package = package_of(module)
    imported_packages = {package_of(name) for name in imports(module, "gateway")} - {package}
    if package in {"", "app", "cli", "__main__"}:
        assert "cli" not in imported_packages or package == "__main__"
        assert "app" not in imported_packages or package == "cli"
    else:
        assert imported_packages <= allowed(package)


@modules
def test_imports_no_test_and_takes_no_private_name(module: str) -> None:
    private = {name for source, name in imported(TREES[module]) if source in FILES and re.match("_(?!_)", name)}

    assert not imports(module, "tests", "pytest")
    assert not private


def test_only_one_transport_knows_httpx() -> None:
    assert {module for module in FILES if imports(module, "httpx", "httpcore")} <= ON_HTTPX | TYPED_BY_HTTPX
    for module in TYPED_BY_HTTPX:
        nodes = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)]
        names = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "httpx"}
        assert names <= {"AsyncBaseTransport"}, module


def test_only_the_command_and_the_estimate_import_the_demo() -> None:
    importers = {module for module in FILES if "gateway.demo.rest_api" in imports(module, "gateway")}

    assert importers == {"gateway.cli", "gateway.estimate.typical"}


@modules
def test_a_module_says_what_it_does(module: str) -> None:
    assert (ast.get_docstring(TREES[module]) or "").split("\n")[0].endswith((".", ":", ",")), "no first sentence"


@modules
def test_a_module_is_named_for_what_it_holds(module: str) -> None:
    assert not {"utils", "util", "helpers", "common", "misc", "core"} & set(module.split("."))


@modules
def test_a_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__


def undescribed() -> Iterator[str]:
    for name, kind in GRAPHQL_SCHEMA.type_map.items():
        if name.startswith("__"):
            continue
        members = [(name, kind)]
        if isinstance(kind, GraphQLEnumType):
            members += [(f"{name}.{value}", member) for value, member in kind.values.items()]
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            members += [(f"{name}.{field}", member) for field, member in kind.fields.items()]
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
            fields = kind.fields.items()
            members += [(f"{name}.{field}({arg}:)", given) for field, its in fields for arg, given in its.args.items()]
        yield from (path for path, member in members if not (member.description or "").endswith("."))


def test_every_type_field_argument_and_value_of_the_schema_is_described_in_sentences() -> None:
    assert list(undescribed()) == []

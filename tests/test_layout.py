"""The layout: who may import whom, how long a file may be, and that everything says what it is."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType

from gateway.schema import SCHEMA

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gateway"

RANKS: tuple[set[str], ...] = (
    {"gateway", "gateway.upstream"},
    {"gateway.settings", "gateway.planner", "gateway.limits", "gateway.observability"},
    {"gateway.asked", "gateway.graphiql.samples", "gateway.upstream.models", "gateway.upstream.errors", "gateway.demo"},
    {"gateway.graphiql", "gateway.errors", "gateway.response", "gateway.upstream.retry", "gateway.upstream.quota"},
    {"gateway.upstream.transport", "gateway.upstream.reads", "gateway.upstream.flights"},
    {"gateway.connection", "gateway.cost", "gateway.upstream.cache", "gateway.upstream.http1"},
    {"gateway.upstream.tenants", "gateway.upstream.pool"},
    {"gateway.upstream.wire"},
    {"gateway.upstream.calls", "gateway.upstream.replicas"},
    {"gateway.upstream.client"},
    {"gateway.batches", "gateway.inventory"},
    {"gateway.loaders"},
    {"gateway.context"},
    {"gateway.schema.pagination", "gateway.schema.types"},
    {"gateway.schema.queries"},
    {"gateway.schema.mutations"},
    {"gateway.schema"},
    {"gateway.compiled", "gateway.validation"},
    {"gateway.executor"},
    {"gateway.check", "gateway.execution", "gateway.request"},
    {"gateway.documents"},
    {"gateway.endpoint"},
    {"gateway.app"},
    {"gateway.cli"},
    {"gateway.__main__"},
)
"""From the bottom up: a module imports only from sets above its own in this list."""

RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
ON_HTTPX = {f"gateway.upstream.{name}" for name in ("wire", "transport", "pool", "http1")}
TYPED_BY_HTTPX = {"gateway.upstream.client", "gateway.app"}
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


@modules
def test_imports_only_what_ranks_lower(module: str) -> None:
    higher = {name for name in imports(module, "gateway") if RANK[name] >= RANK[module]}

    assert not higher


def test_ranks_every_module_and_no_other() -> None:
    assert set(RANK) == set(FILES)
    assert sum(map(len, RANKS)) == len(RANK)


@modules
def test_imports_no_test_and_takes_no_private_name(module: str) -> None:
    private = {name for source, name in imported(TREES[module]) if source in FILES and re.match("_(?!_)", name)}

    assert not imports(module, "tests", "pytest")
    assert not private


def test_only_the_wire_knows_httpx() -> None:
    assert {module for module in FILES if imports(module, "httpx", "httpcore")} <= ON_HTTPX | TYPED_BY_HTTPX
    for module in TYPED_BY_HTTPX:
        nodes = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)]
        names = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "httpx"}
        assert names <= {"AsyncBaseTransport"}, module


def test_only_the_command_imports_the_demo_and_the_demo_nothing_of_ours() -> None:
    assert {module for module in FILES if "gateway.demo" in imports(module, "gateway")} == {"gateway.cli"}
    assert not imports("gateway.demo", "gateway")


@modules
def test_a_module_is_short_and_says_what_it_owns(module: str) -> None:
    lines = FILES[module].read_text("utf-8").splitlines()

    assert len(lines) <= 300
    assert (ast.get_docstring(TREES[module]) or "").split("\n")[0].endswith((".", ":", ",")), "no first sentence"


@modules
def test_a_module_is_named_for_what_it_holds(module: str) -> None:
    assert not {"utils", "util", "helpers", "common", "base", "misc", "core"} & set(module.split("."))


@modules
def test_a_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__


def undescribed() -> Iterator[str]:
    for name, kind in SCHEMA._schema.type_map.items():
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

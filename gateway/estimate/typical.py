"""Runs an operation on the in-memory REST API and counts its REST calls.

The sizes of the lists are known, as they are after a client's first operations; nothing else is. Values that only a
client has are filled in: an id names an object of the workspace, a search matches, a list starts at its first page,
and a variable has its default or a value of its type.
"""

import sys
from dataclasses import replace
from typing import Any

import httpx
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_named_type,
    is_non_null_type,
    parse,
    print_ast,
    type_from_ast,
    visit,
)
from graphql.language import ast, visitor

from gateway.demo.rest_api import Workspace, create_demo, sample_workspace
from gateway.estimate.sizes import Sizes
from gateway.execution.documents import Document
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.execution.response import ResponseSize
from gateway.schema import GRAPHQL_SCHEMA
from gateway.schema.context import Context
from gateway.settings import Settings
from gateway.upstream.client import Client
from gateway.upstream.resources import RESOURCES

_KEY = "check"
_ROOTS: dict[str, Any] = GRAPHQL_SCHEMA.query_type.fields  # type: ignore[union-attr]
_LISTS = [name for name, field in _ROOTS.items() if "totalCount" in getattr(get_named_type(field.type), "fields", ())]
_SIZES = Document(parse("{" + " ".join(f"{name}(first: 100) {{ totalCount }}" for name in _LISTS) + "}"))
_SETTINGS = Settings(upstream_url="http://demo", max_rest_calls=1_000_000, quota_reserve=0, deadline=3600.0)
_SEARCH = ast.StringValueNode(value="e")  # which nearly every name and description contains
_PHONE_NUMBER = "+493023125900"
_OWNERS = {resource.owner_key: resource.owner.type_name for resource in RESOURCES.values() if resource.owner}
_SCALARS = {"Int": 50, "Boolean": True, "String": _PHONE_NUMBER}


class Typical:
    """Counts the REST calls of operations in a workspace of these sizes."""

    def __init__(self, sizes: Sizes) -> None:
        rows: dict[str, Any] = {**sizes}
        self._workspace = sample_workspace(**rows)
        self._engine = Engine(Limits(), introspection=True)

    async def calls(self, document: ast.DocumentNode) -> int:
        """Return the REST calls of the one operation of a valid document."""
        writable = [name for name, resource in RESOURCES.items() if resource.writable]  # a mutation changes their rows
        rows: dict[str, Any] = {
            name: {id_: {**row} for id_, row in getattr(self._workspace, name).items()} for name in writable
        }
        workspace = replace(self._workspace, **rows)
        client = Client(_SETTINGS, httpx.ASGITransport(app=create_demo({_KEY: workspace}, quota=10**9)))
        filled = _Filler(workspace)
        node = visit(document, TypeInfoVisitor(filled.info, filled))
        try:
            await self._run(client, _SIZES, {})
            return await self._run(client, Document(node), filled.variables(node))
        finally:
            await client.aclose()

    async def _run(self, client: Client, document: Document, variables: dict[str, Any]) -> int:
        session = await client.session(_KEY, "check")
        await self._engine.execute(document, None, variables, Context(session), ResponseSize(sys.maxsize))
        return session.usage.spent


class _Filler(Visitor):
    """Puts values into a document that only a client has; distinct ids stay distinct."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.info = TypeInfo(GRAPHQL_SCHEMA)
        self._left = {resource.type_name: iter([*getattr(workspace, name)]) for name, resource in RESOURCES.items()}
        self._ids: dict[tuple[str, str], str] = {}

    def enter_argument(self, node: ast.ArgumentNode, *_: Any) -> Any:
        """Fill in ids and searches; take cursors out."""
        if node.name.value == "after":
            return visitor.REMOVE
        field = self.info.get_field_def()
        if node.name.value == "id" and field:
            kind = next(name for name in self._left if name in get_named_type(field.type).name)
            return ast.ArgumentNode(name=node.name, value=self._id(kind, node.value))
        searches = node.name.value == "search" and not isinstance(node.value, ast.NullValueNode)
        return ast.ArgumentNode(name=node.name, value=_SEARCH) if searches else None

    def enter_object_field(self, node: ast.ObjectFieldNode, *_: Any) -> Any:
        """Fill in the id of an input."""
        owner = _OWNERS.get(node.name.value)
        if owner is None or isinstance(node.value, ast.NullValueNode):
            return None
        return ast.ObjectFieldNode(name=node.name, value=self._id(owner, node.value))

    def variables(self, document: ast.DocumentNode) -> dict[str, Any]:
        """Return values of the variables that need one."""
        operation = next(node for node in document.definitions if isinstance(node, ast.OperationDefinitionNode))
        values: dict[str, Any] = {}
        for definition in operation.variable_definitions or ():
            type_: Any = type_from_ast(GRAPHQL_SCHEMA, definition.type)
            if definition.default_value is None and is_non_null_type(type_):
                values[definition.variable.name.value] = self._value(get_named_type(type_), "")
        return values

    def _value(self, type_: Any, name: str) -> Any:
        if isinstance(type_, GraphQLInputObjectType):
            return {name: self._value(get_named_type(field.type), name) for name, field in type_.fields.items()}
        if isinstance(type_, GraphQLEnumType):
            return next(iter(type_.values))
        if name in _OWNERS:
            return self._id(_OWNERS[name], ast.StringValueNode(value="$")).value
        return _SCALARS.get(type_.name, "id")

    def _id(self, kind: str, given: ast.ValueNode) -> ast.StringValueNode:
        key = kind, print_ast(given)
        if key not in self._ids:
            self._ids[key] = next(self._left[kind], "none-is-left")
        return ast.StringValueNode(value=self._ids[key])

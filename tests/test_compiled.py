"""Compiled execution of what no schema of ours has: it is left to graphql-core."""

from functools import partial
from typing import Any

import msgspec
import pytest
import strawberry
from graphql import OperationDefinitionNode, execute, parse

from gateway.executor import CompiledExecutor, Counts, Plans, answer


class Thing(msgspec.Struct):
    """Source of `Odd`."""

    rate: float = 0.5
    part: object = None


@strawberry.type
class Part:
    id: strawberry.ID


@strawberry.type
class Odd:
    rate: float
    part: Part

    @strawberry.field
    def shout(self) -> str:
        return "loud"


@strawberry.type
class OddQuery:
    @strawberry.field(graphql_type=Odd | None)  # type: ignore[untyped-decorator]
    async def odd(self, info: strawberry.Info) -> Thing:  # noqa: ARG002 - as the root fields of the real schema
        return Thing()

    @strawberry.field(graphql_type=Part | None)  # type: ignore[untyped-decorator]
    async def sized(self, info: strawberry.Info, sizes: list[int]) -> None:  # noqa: ARG002
        return None


@pytest.mark.parametrize(
    ("text", "data", "fallen_back"),
    [
        ("{ odd { rate } }", {"odd": {"rate": 0.5}}, 2),
        ("{ odd { shout } }", {"odd": {"shout": "loud"}}, 2),
        ("{ odd { part { id } } }", {"odd": None}, 2),
        ("{ sized(sizes: 1) { id } }", {"sized": None}, 1),
    ],
)
async def test_what_no_schema_of_ours_has_is_graphql_cores(
    text: str, data: dict[str, object], fallen_back: int
) -> None:
    document, schema, counts = parse(text), strawberry.Schema(OddQuery)._schema, Counts()
    (operation,) = document.definitions
    assert isinstance(operation, OperationDefinitionNode)
    plans = Plans(schema, operation)
    build = partial(CompiledExecutor.build, schema, document, plans=plans, counts=counts)
    context: Any = None

    compiled = await answer(plans, counts, context, {}, build)
    running: Any = execute(schema, document, executor_class=CompiledExecutor, plans=plans, counts=counts)
    result = await running

    assert (compiled, result.data) == (None, data)
    assert [error.path for error in result.errors or ()] == ([["odd", "part"]] if "part" in text else [])
    assert (counts.compiled, counts.fallen_back) == (0, fallen_back)

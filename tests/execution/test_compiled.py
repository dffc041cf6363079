"""Compiled execution of what no schema of ours has, most of which it leaves to graphql-core."""

import enum
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import strawberry
from graphql import execute, parse

from gateway.execution.documents import Document
from gateway.execution.executor import CompiledExecutor, Counts, answer
from gateway.schema import graphql_schema
from tests.harness import bounds


@strawberry.enum
class Mood(enum.Enum):
    CALM = "calm"


class Thing(msgspec.Struct):
    """Source of `Odd` and `Plain`."""

    rate: float = 0.5
    part: object = None
    size: object = None
    mood: object = None


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


class Things(msgspec.Struct):
    """Source of `Listed`, without the list that must be there."""

    things: object = None


@strawberry.type
class Plain:
    size: int | None
    mood: Mood | None


@strawberry.type
class Listed:
    things: list[Plain]


@strawberry.type
class OddQuery:
    @strawberry.field(graphql_type=Listed | None)  # type: ignore[untyped-decorator]
    async def listed(self, info: strawberry.Info) -> Things:  # noqa: ARG002
        return Things()

    @strawberry.field(graphql_type=Odd | None)  # type: ignore[untyped-decorator]
    async def odd(self, info: strawberry.Info) -> Thing:  # noqa: ARG002 - as the root fields of the real schema
        return Thing()

    @strawberry.field(graphql_type=Part | None)  # type: ignore[untyped-decorator]
    async def sized(self, info: strawberry.Info, sizes: list[int]) -> None:  # noqa: ARG002
        return None


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (Thing(), {"size": None, "mood": None}),
        (Thing(size=-(2**31), mood=Mood.CALM), {"size": -(2**31), "mood": "CALM"}),
        (Thing(size=2**31), None),
        (Thing(size=True), None),
        (Thing(mood="calm"), None),
    ],
)
async def test_a_leaf_is_its_own_answer_where_its_type_is_right(source: Thing, row: dict[str, object] | None) -> None:
    @strawberry.type
    class Query:
        @strawberry.field(graphql_type=Plain | None)  # type: ignore[untyped-decorator]
        async def plain(self, info: strawberry.Info) -> Thing:  # noqa: ARG002
            return source

    plans = Document(parse("{ plain { size mood } }")).plans(graphql_schema(strawberry.Schema(Query)), None)
    context: Any = None

    result = await answer(plans, Counts(), context, {}, bounds())

    assert msgspec.to_builtins(result and result.data) == (row and {"plain": row})


@pytest.mark.parametrize(
    ("text", "data", "fallen_back"),
    [
        ("{ odd { rate } }", {"odd": {"rate": 0.5}}, 2),
        ("{ odd { shout } }", {"odd": {"shout": "loud"}}, 2),
        ("{ odd { part { id } } }", {"odd": None}, 2),
        ("{ sized(sizes: 1) { id } }", {"sized": None}, 1),
        ("{ listed { things { size } } }", {"listed": None}, 2),
    ],
)
async def test_what_no_schema_of_ours_has_is_graphql_cores(
    text: str, data: dict[str, object], fallen_back: int
) -> None:
    document, schema, counts = parse(text), graphql_schema(strawberry.Schema(OddQuery)), Counts()
    plans = Document(document).plans(schema, None)
    context: Any = SimpleNamespace(session=SimpleNamespace(check_deadline=lambda: None))

    compiled = await answer(plans, counts, context, {}, bounds())
    options: Any = {"plans": plans, "counts": counts, "bounds": bounds()}
    running: Any = execute(schema, document, context_value=context, executor_class=CompiledExecutor, **options)
    result = await running

    assert (compiled, result.data) == (None, data)
    failed = {"part": [["odd", "part"]], "things": [["listed", "things"]]}
    paths = [path for name, path in failed.items() if name in text]
    assert [error.path for error in result.errors or ()] == (paths[0] if paths else [])
    assert (counts.compiled, counts.fallen_back) == (0, fallen_back)

"""What a resolver is told of the fields below its own: the same by graphql-core and where execution is compiled."""

import asyncio
from typing import Any

import pytest
import strawberry
from graphql import execute, parse
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from gateway.execution.documents import Document
from gateway.execution.executor import Counts, answer
from gateway.schema import graphql_schema
from gateway.schema.context import Context, Info, Look, reaches_numbers
from gateway.schema.types import SCALARS, AgentConnection
from gateway.settings import load
from gateway.upstream.client import Client
from tests.harness import UPSTREAM, bounds, open_gateway

MORE = "fragment G on AgentConnection { y: nodes { ... { z: numbers { id } } } }"


@strawberry.type
class Probe:
    """Has the root field that looks ahead."""

    @strawberry.field(graphql_type=AgentConnection | None)  # type: ignore[untyped-decorator]
    async def agents(self, info: Info) -> None:
        info.context.seen.append((isinstance(info, Look), reaches_numbers(info)))  # type: ignore[attr-defined]


class Watched(Context):
    """Notes what resolvers saw: whether execution was compiled, and their answer."""

    seen: list[tuple[bool, bool]]


@pytest.mark.parametrize(
    ("text", "reaches"),
    [
        ("{ agents { nodes { numbers { id } } } }", True),
        ("{ agents { edges { node { numbers { id } } } } }", True),
        ("{ agents { ...F } } fragment F on AgentConnection { x: nodes { id } ...G } " + MORE, True),
        ("query($yes: Boolean = true) { agents { nodes { id numbers @include(if: $yes) { id } } } }", True),
        ("query($yes: Boolean = true) { agents { nodes @skip(if: $yes) { numbers { id } } totalCount } }", False),
        ("{ agents { nodes { id } edges { cursor node { name } } } }", False),
        ("{ agents { edges { cursor } numbers: totalCount } }", False),
    ],
)
async def test_a_list_of_agents_knows_whether_their_numbers_are_wanted(text: str, *, reaches: bool) -> None:
    schema = graphql_schema(strawberry.Schema(Probe, config=StrawberryConfig(scalar_map=SCALARS)))
    context = Watched(await Client(load({}, {"upstream_url": UPSTREAM})).session("demo", "id"))
    context.seen = []
    document = parse(text)

    await answer(Document(document).plans(schema, None), Counts(), context, {}, bounds())
    running: Any = execute(
        schema, document, context_value=context, executor_class=StrawberryGraphQLCoreExecutionContext
    )
    await running

    assert context.seen == [(True, reaches), (False, reaches)]


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_fragments_that_double_at_each_level_are_looked_into_once(compiled: str) -> None:
    doubling = " ".join(f"fragment F{at} on Agent {{ ...F{at + 1} ...F{at + 1} }}" for at in range(60))
    text = f'{{ agent(id: "nope") {{ ...F0 }} }} {doubling} fragment F60 on Agent {{ id }}'

    async with open_gateway(settings={"compiled": compiled}) as gateway:
        data = await asyncio.wait_for(gateway.data(text), 5)

    assert data == {"agent": None}

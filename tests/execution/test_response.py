"""The bounds of one response: its bytes are counted before they are built, and others are served meanwhile."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from graphql import ExecutionResult

from gateway.demo.rest_api import Workspace, create_demo, sample_workspace
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.execution.response import Pace, ResponseSize, ResponseTooLarge
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream import errors
from gateway.upstream.client import Client
from tests.harness import UPSTREAM, Clock, Gateway, Recorder, errors_of, open_gateway, spent

LEAVES = "id phoneNumber friendlyName status createdAt"
FULL = "id name description status type workspaceId createdAt updatedAt"
DOCUMENTS = {
    "nested": f"{{ agent(id: $id) {{ numbers {{ agent {{ numbers {{ agent {{ {FULL} }} }} }} }} }} }}",
    "aliased": "{ agent(id: $id) { "
    + " ".join(f"a{at}: numbers {{ agent {{ numbers {{ {LEAVES} }} }} }}" for at in range(30))
    + " } }",
    "wide": "{ agent(id: $id) { numbers { "
    + " ".join(f"a{at}: agent {{ numbers {{ {LEAVES} }} }}" for at in range(30))
    + " } } }",
    "roots": "{ "
    + " ".join(f"a{at}: agent(id: $id) {{ numbers {{ agent {{ numbers {{ id }} }} }} }}" for at in range(20))
    + " }",
}
BOUNDLESS = ResponseSize(2**40)
both = pytest.mark.parametrize("compiled", ["true", "false"])


def crowded(numbers: int) -> Workspace:
    """A workspace in which one agent has all numbers."""
    return sample_workspace(agents=1, numbers=numbers)


@asynccontextmanager
async def open_crowded(numbers: int, **settings: str) -> AsyncIterator[Gateway]:
    async with open_gateway(workspaces={"demo": crowded(numbers)}, settings=settings) as gateway:
        yield gateway


async def ask(gateway: Gateway, text: str) -> dict[str, Any]:
    id_ = next(iter(gateway.workspaces["demo"].agents))
    return await gateway.ask(text.replace("$id", f'"{id_}"'))


@both
@pytest.mark.parametrize("document", DOCUMENTS)
async def test_refuses_a_response_that_would_be_too_large(document: str, compiled: str) -> None:
    async with open_crowded(60, compiled=compiled, max_response_bytes="100000") as gateway:
        answer = await ask(gateway, DOCUMENTS[document])

    assert errors_of(answer) == [("OPERATION_TOO_LARGE", None)]
    assert "100000 bytes" in answer["errors"][0]["message"]
    assert "GATEWAY_MAX_RESPONSE_BYTES" in answer["errors"][0]["message"]
    assert answer["data"] is None
    assert spent(answer) > 0


class LateSession:
    """A session whose deadline passes once it was asked for so many times."""

    def __init__(self, session: Any, times: int) -> None:
        self._session = session
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def check_deadline(self) -> None:
        self._times -= 1
        if self._times < 0:
            raise errors.TimedOut("too late")


class Bench:
    """An engine without HTTP."""

    def __init__(self, *, compiled: bool, workspace: Workspace, **settings: str) -> None:
        upstream = Recorder(create_demo({"demo": workspace}, clock=Clock()))
        self.agent_id = next(iter(workspace.agents))
        self._client = Client(load({}, {"upstream_url": UPSTREAM, **settings}), upstream)
        self._engine = Engine(Limits(), introspection=True, compiled=compiled)

    async def execute(self, text: str, size: ResponseSize, late: int = 10**9) -> ExecutionResult:
        """Execute a document; the deadline passes once it was looked at so many times."""
        document = self._engine.prepare(text.replace("$id", f'"{self.agent_id}"'))
        session: Any = LateSession(await self._client.session("demo", "id"), late)
        return await self._engine.execute(document, None, {}, Context(session), size)

    async def run(self, text: str, size: ResponseSize) -> bytes:
        """Return the JSON of a document's data."""
        result = await self.execute(text, size)
        assert not result.errors, result.errors
        return msgspec.json.encode(result.data)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        *DOCUMENTS.values(),
        f"{{ agents {{ nodes {{ {FULL} numbers {{ {LEAVES} agent {{ id }} }} }} totalCount }} }}",
        f"{{ agents {{ edges {{ cursor node {{ {FULL} }} }} pageInfo {{ hasNextPage endCursor }} }} }}",
        '{ x: agent(id: "gone") { id } phoneNumbers { nodes { ...F } } } fragment F on PhoneNumber { agent { id } }',
        f"{{ phoneNumbers {{ nodes {{ agent {{ name numbers(status: ACTIVE) {{ {LEAVES} }} }} }} }} }}",
        "{ agents { nodes { numbers { agent { numbers { agent { description } } } } } } }",
        "{ __typename __schema { directives { name locations args { name } } } }",
    ],
)
async def test_counts_every_byte_of_the_data_once(text: str, *, compiled: bool) -> None:
    workspace = sample_workspace(agents=7, numbers=12)
    for at, agent in enumerate(workspace.agents.values()):
        agent["description"] = ['"\\\n\x07', "Bücher 📞 東京", None][at % 3]
    bench, size = Bench(compiled=compiled, workspace=workspace), ResponseSize(10**9)

    data = await bench.run(text, size)

    assert size.counted + size.bound >= len(data)
    assert size.bytes == len(data)
    assert await bench.run(text, ResponseSize(len(data))) == data
    with pytest.raises(ResponseTooLarge):
        await bench.run(text, ResponseSize(len(data) - 1))


@pytest.mark.parametrize("cache_ttl", ["0", "60"])
@pytest.mark.parametrize("document", DOCUMENTS)
async def test_rows_are_counted_only_if_their_upper_bound_is_too_large(document: str, cache_ttl: str) -> None:
    bench = Bench(compiled=True, workspace=crowded(9), cache_ttl=cache_ttl)

    for _ in range(2):  # the second is answered from the cache, if there is one
        size = ResponseSize(2**40)
        data = await bench.run(DOCUMENTS[document], size)
        uncounted = size.bound

        assert size.counted == 0
        assert uncounted >= size.bytes == len(data)


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_long_value_counts_as_often_as_it_is_reached(*, compiled: bool) -> None:
    workspace = crowded(60)
    for agent in workspace.agents.values():
        agent["description"] = "d" * 20_000
    bench, size = Bench(compiled=compiled, workspace=workspace), ResponseSize(2**24)

    data = await bench.run("{ agent(id: $id) { numbers { agent { description } } } }", size)

    assert size.bytes == len(data) > 50 * 20_000


@both
async def test_a_list_of_which_nothing_can_be_read_is_empty(compiled: str) -> None:
    async with open_gateway(settings={"compiled": compiled}) as gateway:
        gateway.upstream.play("GET /agents/a1/numbers", httpx.Response(200, json={"data": [{"id": "odd"}]}))
        answer = await gateway.ask('{ agent(id: "a1") { numbers { phoneNumber } } }')

    assert answer["data"] == {"agent": {"numbers": []}}
    assert errors_of(answer) == [("UPSTREAM_ERROR", ["agent", "numbers", 0, "phoneNumber"])]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("document", DOCUMENTS)
async def test_memory_follows_the_limit_and_not_the_document(document: str, *, compiled: bool) -> None:
    limit, bench = 2**20, Bench(compiled=compiled, workspace=crowded(400))
    await bench.run("{ agent(id: $id) { id } }", ResponseSize(limit))

    tracemalloc.start()
    with pytest.raises(ResponseTooLarge):
        await bench.run(DOCUMENTS[document], ResponseSize(limit))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    tasks = 0 if compiled else 2**25  # of graphql-core, for a slice of each list, whatever the limit
    assert peak < 4 * limit + tasks


@both
async def test_counts_errors_too(compiled: str) -> None:
    text = "{ phoneNumbers(first: 60) { nodes { agent { name } } } }"
    answers = {}
    for limit in ("1000000", "10000"):
        workspace = sample_workspace(agents=60, numbers=60)
        async with open_gateway(
            workspaces={"demo": workspace}, settings={"compiled": compiled, "max_response_bytes": limit}
        ) as gateway:
            gateway.upstream.play("GET /agents.*", httpx.Response(403, json={"error": "not for this key"}))
            answers[limit] = await gateway.ask(text)

    assert len(answers["1000000"]["errors"]) > 30
    assert errors_of(answers["10000"]) == [("OPERATION_TOO_LARGE", None)]


async def test_no_body_is_larger_than_the_limit_with_what_is_around_the_data() -> None:
    text = "{ agents { nodes { id name status } totalCount } }"
    async with open_gateway() as gateway:
        body = (await gateway.http.post("/graphql", json={"query": text}, headers={"X-API-Key": "demo"})).content
    answers = []
    assert len(body) > 1024
    for limit in (len(body), len(body) - 1):
        async with open_gateway(settings={"max_response_bytes": str(limit)}) as gateway:
            answers.append(await gateway.ask(text))

    assert list(map(errors_of, answers)) == [[], [("OPERATION_TOO_LARGE", None)]]


async def test_operations_of_a_batch_share_the_limit_and_one_leaves_room_for_another() -> None:
    queries = [
        {"query": f"{{ phoneNumbers(first: {first}) {{ nodes {{ {LEAVES} }} }} }}"} for first in (20, 100, 20, 30)
    ]
    async with open_gateway(
        workspaces={"demo": sample_workspace(numbers=100)}, settings={"max_batch": "4", "max_response_bytes": "10000"}
    ) as gateway:
        response = await gateway.http.post("/graphql", json=queries, headers={"X-API-Key": "demo"})

    codes = [[code for code, _ in errors_of(answer)] for answer in response.json()]
    assert codes == [[], ["OPERATION_TOO_LARGE"], [], ["OPERATION_TOO_LARGE"]]
    assert len(response.content) < 10000


async def test_a_batch_that_is_too_large_by_what_is_around_the_data_is_refused_whole() -> None:
    data = {f"a_rather_long_alias_{at}": "Query" for at in range(20)}
    query = {"query": f"{{ {' '.join(f'{alias}: __typename' for alias in data)} }}"}
    limit = str(3 * len(msgspec.json.encode(data)) + 9)
    async with open_gateway(settings={"max_batch": "3", "max_response_bytes": limit}) as gateway:
        one, three = [
            (await gateway.http.post("/graphql", json=[query] * count, headers={"X-API-Key": "demo"})).json()
            for count in (1, 3)
        ]

    assert list(map(errors_of, one)) == [[]]
    assert list(map(errors_of, three)) == [[("OPERATION_TOO_LARGE", None)]] * 3


async def test_a_mutation_whose_payload_is_too_large_says_that_it_was_carried_out() -> None:
    async with open_crowded(60, max_response_bytes="2000") as gateway:
        number = next(iter(gateway.workspaces["demo"].numbers))
        write = f'updatePhoneNumber(id: "{number}", input: {{ friendlyName: "new" }})'
        answer = await ask(
            gateway, f"mutation {{ {write} {{ phoneNumber {{ agent {{ numbers {{ {LEAVES} }} }} }} }} }}"
        )
        kept = gateway.workspaces["demo"].numbers[number]["friendlyName"]

    assert errors_of(answer) == [("OPERATION_TOO_LARGE", None)]
    assert "What a mutation wrote stays written." in answer["errors"][0]["message"]
    assert kept == "new"


@pytest.mark.parametrize("compiled", [True, False])
async def test_others_have_turns_while_a_long_list_is_handled(*, compiled: bool) -> None:
    bench = Bench(compiled=compiled, workspace=crowded(4000))
    agents = " ".join(f"a{at}: agent {{ id }}" for at in range(9))
    operation = asyncio.ensure_future(bench.run(f"{{ agent(id: $id) {{ numbers {{ {agents} }} }} }}", BOUNDLESS))

    turns = 0
    while not operation.done():
        await asyncio.sleep(0)
        turns += 1

    assert len(await operation) > 10**6
    assert turns > 40


@pytest.mark.parametrize("compiled", [True, False])
async def test_the_deadline_ends_execution_as_well(*, compiled: bool) -> None:
    bench = Bench(compiled=compiled, workspace=crowded(4000))
    text = f"{{ agent(id: $id) {{ name a: numbers {{ {LEAVES} }} b: numbers {{ {LEAVES} }} }} }}"

    result = await bench.execute(text, BOUNDLESS, late=3)

    assert {type(error.original_error) for error in result.errors or ()} == {errors.TimedOut}
    assert sorted(error.path or [] for error in result.errors or ()) == [["agent", "a"], ["agent", "b"]]
    assert result.data
    assert list(result.data["agent"]) == ["name", "a", "b"]


async def test_an_operation_leaves_no_cycle_that_holds_its_rows() -> None:
    query = "{ agents { nodes { name numbers { id } } } phoneNumbers { nodes { agent { name } } } }"
    async with open_gateway() as gateway:
        await gateway.data(query)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await gateway.data(query)
            gc.collect()
            left = {type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("gateway.")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    assert left == set()


async def test_a_turn_goes_to_operations_by_turns_and_to_the_last_of_each() -> None:
    order: list[str] = []
    pace, one, other = Pace(), list[asyncio.Future[None]](), list[asyncio.Future[None]]()

    async def work(name: str, waiting: list[asyncio.Future[None]]) -> None:
        await pace.turn(waiting)
        order.append(name)

    tasks = [asyncio.ensure_future(work(name, one if name < "d" else other)) for name in "abcdef"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pace.turn(one)

    assert order == ["c", "f", "e", "a", "d"]

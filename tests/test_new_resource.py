"""What it takes to add to the API: a field in two files, a resource in four, beside the SDL and the demo's REST API.

Each test copies the package, applies insertions as a contributor would, and runs checks on the copy in a process of its
own.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import gateway

PACKAGE = Path(gateway.__file__).parent


class Insertion(NamedTuple):
    """Text that goes before the only match of a pattern."""

    file: str
    before: str
    text: str


FIELD = [
    Insertion("upstream/models.py", r"\n\nclass PhoneNumberRow\(", "    language: str | None = None\n"),
    Insertion(
        "schema/types.py",
        r"\n    numbers = strawberry\.field\(",
        '    language: str | None = strawberry.field(description="The language that it speaks.")\n',
    ),
]
FIELD_IN_DEMO = [Insertion("demo/rest_api.py", r"    prompt = f", '    agent |= {"language": language}\n')]

CHECK_FIELD = """
async def main():
    async with opened() as (ask, calls):
        data = await ask("{ agents(first: 2) { nodes { name language } } }")
        assert [agent["language"] for agent in data["agents"]["nodes"]] == ["de", "en"], data
        assert calls == ["GET /agents?page=1&limit=2"], calls
    async with opened(agent={"language": ["de"]}) as (ask, calls):
        data = await ask("{ agents(first: 2) { nodes { language } } }")
        assert data == {"agents": {"nodes": [{"language": None}] * 2}}, data
"""

RESOURCE = [
    Insertion(
        "upstream/models.py",
        r"class RowRef\(Struct\)",
        '''class CallRow(Struct, rename="camel", gc=False):
    """A phone call that an agent took."""

    id: str
    caller: str
    started_at: Timestamp
    seconds: int | None = None
    owner_id: str | UnsetType | None = field(name="agentId", default=UNSET)
    embedded_owner: Raw | UnsetType = field(name="agent", default=UNSET)


''',
    ),
    Insertion("upstream/resources.py", r"    AgentRow,\n", "    CallRow,\n"),
    Insertion("upstream/resources.py", r'    created=\("phoneNumber"', '    stales=("calls",),\n'),
    Insertion(
        "upstream/resources.py",
        r"RESOURCES: dict",
        'CALLS = Resource(name="calls", row=CallRow, mark="startedAt", owner=AGENTS, owner_key="agentId")\n',
    ),
    Insertion("upstream/resources.py", r"\)\}\nWRITTEN", ", CALLS"),
    Insertion("schema/types.py", r"DateTime = NewType", "from gateway.upstream.resources import CALLS\n\n"),
    Insertion(
        "schema/types.py",
        r'@strawberry\.type\(description="[^"]*"\)\nclass PhoneNumber:',
        '''async def _calls_of(root: Parent[models.AgentRow], info: Info) -> list[models.CallRow] | None:
    """Load the calls of an agent."""
    return await info.context.loaders.owned(CALLS).load(root.id)


async def _calls_of_all(look: Any, agents: Sequence[Any]) -> Sequence[Any]:
    """Do `_calls_of` for many agents."""
    return await look.context.loaders.owned(CALLS).load_batch([agent.id for agent in agents])


async def _agent_of_call(root: Parent[models.CallRow], info: Info) -> models.AgentRow | models.RowRef | None:
    """Load the agent of a call."""
    (id_,) = await info.context.loaders.owner_ids(CALLS, [root])
    return await info.context.loaders.objects(AGENTS).load(id_)


@strawberry.type(description="A phone call.")
class Call:
    """Reads a `models.CallRow`."""

    id: strawberry.ID = strawberry.field(description="The id.")
    caller: str = strawberry.field(description="The number that called.")
    started_at: DateTime = strawberry.field(description="When it started.")
    seconds: int | None = strawberry.field(description="How long it took.")
    agent = strawberry.field(
        resolver=_agent_of_call,
        graphql_type=Annotated["Agent", strawberry.lazy("gateway.schema.types")] | None,
        description="The agent that took it.",
    )


@strawberry.type(description="A page of calls.")
class CallConnection:
    """Reads a `pagination.Window`."""

    nodes: list[Call] = strawberry.field(description="The calls.")
    total_count: int = strawberry.field(description="Calls in the list, on all pages.")


''',
    ),
    Insertion(
        "schema/types.py",
        r"    numbers = strawberry\.field\(",
        """    calls = strawberry.field(
        resolver=_calls_of,
        metadata={"batch": _calls_of_all},
        graphql_type=list[Call] | None,
        description="The calls that this agent took.",
    )

""",
    ),
    Insertion(
        "schema/queries.py",
        r"MAX_SEARCH = ",
        """from gateway.schema.types import Call, CallConnection
from gateway.upstream.resources import CALLS

OWNED["calls"] = CALLS
""",
    ),
    Insertion(
        "schema/queries.py",
        r"    @strawberry\.field\(\s+graphql_type=RateLimit",
        '''    @strawberry.field(graphql_type=Call | None, description="One call.")
    async def call(self, info: Info, id: strawberry.ID) -> models.CallRow | None:
        """Load one call."""
        return await info.context.loaders.objects(CALLS).load(check_id(id))

    @strawberry.field(graphql_type=CallConnection | None, description="The calls of your workspace.")
    async def calls(self, info: Info, first: First = 50, after: After = UNSET) -> Any:
        """Load a page of calls."""
        loaders = info.context.loaders
        size = loaders.size(CALLS)
        return await connect(
            lambda pages, _: loaders.pages(CALLS, pages),
            first,
            after or None,
            filters=("calls",),
            total=size and size.total,
        )

''',
    ),
]
RESOURCE_IN_DEMO = [
    Insertion("demo/rest_api.py", r"    calls_used: int = 0", "    calls: dict[str, Wire] | None = None\n"),
    Insertion(
        "demo/rest_api.py",
        r"def create_demo\(",
        """without_calls = sample_workspace


def sample_workspace(*, agents: int = 12, numbers: int = 60, calls: int = 60, prefix: str = "") -> Workspace:
    workspace = without_calls(agents=agents, numbers=numbers, prefix=prefix)
    workspace.calls, owners = {}, list(workspace.agents)
    for i in range(calls):
        id_ = f"call-{i}"
        owner = owners[i % len(owners)] if owners else None
        workspace.calls[id_] = {"id": id_, "caller": "+1", "startedAt": _rfc3339(i), "agentId": owner}
    return workspace


""",
    ),
    Insertion(
        "demo/rest_api.py",
        r'            case \["agents", agent_id\]:',
        """            case ["calls"]:
                answers = {"GET": lambda: self.page(list(self.workspace.calls.values()))}
            case ["calls", call_id]:
                answers = {"GET": lambda: JSONResponse(self.workspace.calls[call_id])}
            case ["agents", owner_id, "calls"]:
                rows = [call for call in self.workspace.calls.values() if call["agentId"] == owner_id]
                answers = {"GET": lambda: JSONResponse({"data": rows})}
""",
    ),
]

CHECK_RESOURCE = """
NESTED = "{ agents(first: 12) { nodes { name calls { id agent { name } } } } }"
PAGE = "GET /calls?page=1&limit=100"
WRITE = 'mutation { updatePhoneNumber(id: "%s", input: {friendlyName: "x"}) { phoneNumber { id } } }'

async def main():
    async with opened() as (ask, calls):  # planned: a list scan, one call for each owner, one row
        data = await ask(NESTED)
        owned = data["agents"]["nodes"][3]["calls"]
        assert [call["id"] for call in owned] == [f"call-{i}" for i in range(3, 60, 12)], data
        assert taken(calls) == ["GET /agents?page=1&limit=12", PAGE], calls
        agent = (await ask("{ agents(first: 1) { nodes { id } } }"))["agents"]["nodes"][0]["id"]
        taken(calls)
        await ask('{ agent(id: "%s") { id calls { id } } }' % agent)
        await ask('{ call(id: "call-3") { caller agent { id name } } }')
        assert [call.partition("?")[0] for call in taken(calls)][:2] == [
            f"GET /agents/{agent}/calls", "GET /calls/call-3"], calls
        both = await asyncio.gather(*(ask("{ calls(first: 5) { totalCount nodes { id } } }") for _ in range(2)))
        assert both[0] == both[1] and both[0]["calls"]["totalCount"] == 60, both
        assert taken(calls) == ["GET /calls?page=1&limit=5"], calls  # shared
    async with opened(cache_ttl="60") as (ask, calls):
        await ask(NESTED)
        number = (await ask("{ phoneNumbers(first: 1) { nodes { id } } }"))["phoneNumbers"]["nodes"][0]["id"]
        taken(calls)
        await ask(NESTED)
        await ask('{ call(id: "call-3") { caller } }')
        assert taken(calls) == [], calls  # cached
        await ask(WRITE % number)
        await ask('{ call(id: "call-3") { caller } }')
        assert taken(calls) == [f"PUT /numbers/{number}", "GET /calls/call-3"], calls  # invalidated
    sizes = {"agents": 500, "numbers": 10, "calls": 2000}
    report = await check({"f": "query Q " + NESTED.replace("12", "50")}, sizes, load({}, {}))
    found = [(operation.worst, operation.typical, operation.costliest) for operation in report.operations]
    assert found == [(21, 21, "agents.nodes.calls")], report
"""

PRELUDE = """
import asyncio
from contextlib import asynccontextmanager
import httpx
import gateway
from gateway.app import create_app
from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.estimate.check import check
from gateway.settings import load

assert gateway.__file__.startswith(%r), gateway.__file__

def taken(calls):
    found = calls[:]
    calls.clear()
    return found

@asynccontextmanager
async def opened(agent={}, **settings):
    calls, workspace = [], sample_workspace()
    for row in workspace.agents.values():
        row.update(agent)
    demo = create_demo({"demo": workspace}, on_call=lambda call: calls.append(call.rpartition(" ")[0]))
    settings = load({}, {"upstream_url": "http://upstream", **settings})
    app = create_app(settings, transport=httpx.ASGITransport(app=demo))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http:
            async def ask(query):
                response = await http.post("/graphql", json={"query": query}, headers={"X-API-Key": "demo"})
                answer = response.json()
                assert "errors" not in answer, answer
                return answer["data"]
            yield ask, calls
"""


def run(copy: Path, insertions: list[Insertion], check: str) -> None:
    """Apply insertions to a copy of the package, and run a check on it."""
    shutil.copytree(PACKAGE, copy / "gateway", ignore=shutil.ignore_patterns("static", "frontend", "__pycache__"))
    for file, before, text in insertions:
        path = copy / "gateway" / file
        found = list(re.finditer(before, source := path.read_text("utf-8")))
        assert len(found) == 1, (file, before)
        path.write_text(source[: found[0].start()] + text + source[found[0].start() :], "utf-8")
    script = copy / "checks.py"
    script.write_text(PRELUDE % str(copy) + check + "\nasyncio.run(main())\n", "utf-8")

    environ = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    done = subprocess.run([sys.executable, script], cwd=copy, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]


def test_a_nullable_field_takes_two_files(tmp_path: Path) -> None:
    assert len({insertion.file for insertion in FIELD}) == 2

    run(tmp_path, FIELD + FIELD_IN_DEMO, CHECK_FIELD)


def test_a_resource_takes_four_files(tmp_path: Path) -> None:
    assert len({insertion.file for insertion in RESOURCE}) == 4

    run(tmp_path, RESOURCE + RESOURCE_IN_DEMO, CHECK_RESOURCE)

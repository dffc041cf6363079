"""Whatever a workspace holds and whatever is asked of it: the plain answer, for no more than the plain calls and one.

The plain answer is worked out from the workspace's dicts alone. It costs one call for each page of a list, each
agent, each number and each agent's numbers that the query reaches, every one of them once.
"""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.demo.rest_api import Workspace
from tests.harness import open_gateway, spent

ROOMY = {
    "max_rest_calls": "1000000", "max_aliases": "1000", "max_root_fields": "100", "max_tokens": "100000",
    "max_depth": "30",
}  # fmt: skip
STATUSES = ("assigned", "unassigned", "ACTIVE", "INACTIVE")


class Numbers(NamedTuple):
    """What is asked of a number; `agent` is None where it is not asked for."""

    agent: "Agent | None"

    def __str__(self) -> str:
        return f"{{ id phoneNumber {f'agent {self.agent}' if self.agent else ''} }}"


class Agent(NamedTuple):
    """What is asked of an agent; `status` picks among its numbers."""

    name: bool
    numbers: Numbers | None
    status: str | None

    def __str__(self) -> str:
        picked = f"(status: {self.status.upper()})" if self.status else ""
        return f"{{ id {'name' if self.name else ''} {f'numbers{picked} {self.numbers}' if self.numbers else ''} }}"


class Field(NamedTuple):
    """A root field: `at` is an id, or for a list how many are wanted."""

    name: str
    at: str | int
    of: Agent | Numbers

    def __str__(self) -> str:
        if isinstance(self.at, int):
            return f"{self.name}(first: {self.at}) {{ totalCount nodes {self.of} }}"
        return f'{self.name}(id: "{self.at}") {self.of}'


class Plain:
    """The plain answer to a query, and the calls that it costs."""

    def __init__(self, space: Workspace, limit: int) -> None:
        self.calls: set[tuple[str, Any]] = set()
        self._space = space
        self._limit = limit

    def root(self, field: Field, listed: Mapping[str, Any] | None) -> Any:
        """Answer a root field; `listed` is the page a gateway has seen, where rows move."""
        kind: dict[str, Any] = self._space.agents if field.name.startswith("agent") else self._space.numbers
        show: Callable[[Any, Any], Any] = self.agent if field.name.startswith("agent") else self.number
        if isinstance(field.at, str):
            self.calls.add((field.name, field.at))
            return show(kind[field.at], field.of) if field.at in kind else None
        pages = -(-min(field.at, len(kind)) // self._limit) if field.at > self._limit else 1
        self.calls |= {(field.name, (field.at, page)) for page in range(max(1, pages))}
        rows = [kind[row["id"]] for row in listed["nodes"]] if listed else list(kind.values())[: field.at]
        if (
            isinstance(field.of, Numbers) and field.of.agent
        ):  # whose a number is that a list does not say, it says itself
            self.calls |= {("phoneNumber", row["id"]) for row in rows if "agentId" not in row}
        assert len({row["id"] for row in rows}) == min(field.at, len(kind))
        return {"totalCount": len(kind), "nodes": [show(row, field.of) for row in rows]}

    def number(self, wire: dict[str, Any], of: Numbers) -> dict[str, Any]:
        answer = {"id": wire["id"], "phoneNumber": wire["phoneNumber"]}
        if not of.agent:
            return answer
        id_ = wire.get("agentId")
        if id_ is None or not (of.agent.name or of.agent.numbers):
            return answer | {"agent": id_ and {"id": id_}}
        self.calls.add(("agent", id_))
        agent = self._space.agents.get(id_)
        return answer | {"agent": agent and self.agent(agent, of.agent)}

    def agent(self, wire: dict[str, Any], of: Agent) -> dict[str, Any]:
        answer = {"id": wire["id"]} | ({"name": wire["name"]} if of.name else {})
        if not of.numbers:
            return answer
        self.calls.add(("agent_numbers", wire["id"]))
        owned = [number for number in self._space.numbers.values() if number.get("agentId") == wire["id"]]
        picked = [number for number in owned if of.status in (None, number["status"])]
        return answer | {"numbers": [self.number(number, of.numbers) for number in picked]}


def workspace(agents: int, numbers: int, dangling: int, seed: int) -> Workspace:
    """Numbers of agents that are there, of `dangling` that are not, and of none; `agentId` null or left out."""
    chance = random.Random(seed)
    owners = [f"a{i}" for i in range(agents)] + [f"gone{i}" for i in range(dangling)]
    owners *= 30  # numbers of one at the most, or answers grow beyond all bounds
    chance.shuffle(owners)
    space = Workspace("w", {}, {})
    times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
    for i in range(agents):
        space.agents[f"a{i}"] = {"id": f"a{i}", "name": f"Agent {i}", "status": "ACTIVE", "type": "standard", **times}
    for i in range(numbers):
        owner = owners.pop() if owners and chance.random() < 0.9 else None
        space.numbers[f"n{i}"] = {
            "id": f"n{i}", "phoneNumber": f"+49{i:07}", "status": chance.choice(STATUSES),
            "createdAt": times["createdAt"], **({"agentId": owner} if owner or chance.random() < 0.5 else {}),
        }  # fmt: skip
    return space


def shuffled(rows: dict[str, Any], chance: random.Random) -> None:
    """Put rows in another order."""
    items = list(rows.items())
    chance.shuffle(items)
    rows.clear()
    rows.update(items)


def unordered(value: Any) -> Any:
    """Lists of numbers in no order: it is not documented."""
    if isinstance(value, dict):
        return {name: unordered(item) for name, item in value.items()}
    return sorted(map(unordered, value), key=json.dumps) if isinstance(value, list) else value


ids = st.integers(0, 320)
some_status = st.none() | st.sampled_from(STATUSES)
inner_agents = st.builds(Agent, st.booleans(), st.none() | st.just(Numbers(Agent(True, None, None))), some_status)
inner_numbers = st.builds(Numbers, st.none() | inner_agents)
agents_of = st.builds(Agent, st.booleans(), st.none() | inner_numbers, some_status)
numbers_of = st.builds(Numbers, st.none() | agents_of)
fields = st.one_of(
    st.builds(Field, st.just("agents"), st.integers(1, 100), agents_of),
    st.builds(Field, st.just("phoneNumbers"), st.integers(1, 100), numbers_of),
    st.builds(Field, st.just("agent"), ids.map("a{}".format) | st.integers(0, 5).map("gone{}".format), agents_of),
    st.builds(Field, st.just("phoneNumber"), st.integers(0, 1000).map("n{}".format), numbers_of),
)
alike = st.builds(
    lambda at, of, count: [Field("agent", f"a{at + i}", of) for i in range(count)], ids, agents_of, st.integers(1, 20)
) | st.builds(
    lambda at, of, count: [Field("phoneNumber", f"n{at + i}", of) for i in range(count)],
    st.integers(0, 1000),
    numbers_of,
    st.integers(1, 20),
)
queries = st.lists(st.lists(fields, min_size=1, max_size=3) | alike, min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    agents=st.integers(0, 300),
    numbers=st.integers(0, 1000),
    dangling=st.sampled_from([0, 0, 1, 5, 400]),
    limit=st.sampled_from([100, 100, 50, 33, 7]),
    moving=st.booleans(),
    options=st.fixed_dictionaries(
        {"embed_agent": st.sampled_from(["none", "partial", "whole"]), "has_more": st.booleans()}
    ),
    queries=queries,
    ttl=st.sampled_from([0, 0, 30]),
    seed=st.integers(0, 2**32),
)
async def test_the_plain_answer_for_the_plain_calls_and_one(
    *,
    agents: int,
    numbers: int,
    dangling: int,
    limit: int,
    moving: bool,
    options: dict[str, Any],
    queries: list[list[Field]],
    ttl: int,
    seed: int,
) -> None:
    space, chance = workspace(agents, numbers, dangling, seed), random.Random(seed)

    def move(_: str) -> None:
        if moving:
            shuffled(space.numbers, chance)
            shuffled(space.agents, chance)

    async with open_gateway(
        workspaces={"demo": space},
        settings=ROOMY | {"cache_ttl": str(ttl)},
        quota=10**6,
        max_limit=limit,
        clamp=True,
        on_call=move,
        **options,
    ) as gateway:
        for drawn in queries:
            # where rows move, a window of several pages has no one answer
            query = [
                field._replace(at=min(field.at, limit)) if moving and isinstance(field.at, int) else field
                for field in drawn
            ]
            text = "{" + " ".join(f"f{i}: {field}" for i, field in enumerate(query)) + "}"

            answer = await gateway.ask(text)

            calls, plain = gateway.calls, Plain(space, limit)
            assert "errors" not in answer, answer["errors"]
            expected = {
                f"f{i}": plain.root(field, answer["data"][f"f{i}"] if moving and isinstance(field.at, int) else None)
                for i, field in enumerate(query)
            }
            assert unordered(answer["data"]) == unordered(expected)
            assert moving or ttl or answer["data"] == expected
            assert spent(answer) == len(calls)
            pages = sum(call.startswith(("GET /agents?", "GET /numbers?")) for call in calls)
            assert len(calls) <= len(plain.calls) + (pages if moving else 1), (text, calls)

"""Replays a day of a frontend team against the demo upstream and its quota, through three gateways.

    python -m benchmarks.simulation

Twenty people share one key of 1,000 REST calls an hour. From 9 to 18 o'clock each one turns to the frontend about
three times an hour for one to three minutes: list views, detail views, edits, and a dashboard that polls every 30 s
while the tab is in front. All of it runs in process on a clock of its own, from one seed, so that the three
gateways see the same day. The plain gateway is counted, not run: one call for each object that an operation wants, each
asked for once, as with DataLoader and nothing more. Not part of the test run; takes less than a minute.
"""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import click
import httpx
import structlog

from gateway.app import create_app
from gateway.demo.rest_api import Workspace, create_demo, sample_workspace
from gateway.settings import load
from tests.harness import Clock

PEOPLE = 20
HOURS = (9, 18)
POLL = 30  # seconds
DAY = 1_800_000_000 // 86_400 * 86_400

DASHBOARD = "query Dashboard { agents(first: 10) { totalCount nodes { id name status } } }"
AGENTS = """query Agents { agents(first: 50) { totalCount nodes {
  id name status numbers { id phoneNumber } } pageInfo { hasNextPage endCursor } } }"""
NUMBERS = """query Numbers { phoneNumbers(first: 50) { totalCount nodes {
  id phoneNumber friendlyName status agent { id name } } } }"""
AGENT = """query Agent($id: ID!) { agent(id: $id) {
  id name description status numbers { id phoneNumber friendlyName status } } }"""
NUMBER = "query Number($id: ID!) { phoneNumber(id: $id) { id phoneNumber friendlyName status agent { id name } } }"
RENAME = """mutation Rename($id: ID!, $name: String!) {
  updatePhoneNumber(id: $id, input: {friendlyName: $name}) { phoneNumber { id friendlyName agent { id name } } } }"""


class Event(NamedTuple):
    """One operation of the day: when (unix seconds), which, with which variables."""

    at: float
    document: str
    variables: dict[str, str]


@dataclass
class Tally:
    """What a day came to."""

    asked: int = 0
    full: int = 0
    refused: int = 0
    by_hour: Counter[int] = field(default_factory=Counter)

    def count(self, event: Event, calls: int, *, full: bool, refused: bool) -> None:
        """Take in one operation."""
        self.asked += 1
        self.full += full
        self.refused += refused
        self.by_hour[int((event.at - DAY) // 3600)] += calls

    @property
    def row(self) -> str:
        """The figures as cells of a Markdown table."""
        hour, most = max(self.by_hour.items(), key=lambda item: item[1])
        return (
            f"{sum(self.by_hour.values()):,} | {most:,} ({hour}-{hour + 1} h) | {self.refused:,} |"
            f" {self.full / self.asked:.1%}"
        )


def day(seed: int, workspace: Workspace) -> list[Event]:
    """Return the day's operations in order of time."""
    agents, numbers = [*workspace.agents], [*workspace.numbers]
    return sorted(event for i in range(PEOPLE) for event in person(random.Random(f"{seed}/{i}"), agents, numbers))


def person(draw: random.Random, agents: list[str], numbers: list[str]) -> Iterator[Event]:
    """Yield one person's operations: a session of some minutes now and then, polling while the tab is in front."""
    begin, end = (DAY + hour * 3600 + draw.uniform(-900, 900) for hour in HOURS)
    lunch = DAY + draw.uniform(12, 13) * 3600
    at = begin + draw.expovariate(1 / 600)
    while at < end:
        leaves = at + draw.uniform(60, 180)
        if not lunch <= at < lunch + 3600:
            polls = int((leaves - at) / POLL) + 1
            yield from (Event(at + poll * POLL, DASHBOARD, {}) for poll in range(polls))
            while at < leaves:
                yield Event(at, *task(draw, agents, numbers))
                at += draw.expovariate(1 / 30)
        at = leaves + draw.expovariate(1 / 1080)


def task(draw: random.Random, agents: list[str], numbers: list[str]) -> tuple[str, dict[str, str]]:
    """Draw one thing that somebody does."""
    kind = draw.choices((AGENTS, NUMBERS, AGENT, NUMBER, RENAME), (20, 15, 35, 20, 10))[0]
    if kind in (AGENTS, NUMBERS):
        return kind, {}
    if kind == AGENT:
        return kind, {"id": draw.choice(agents)}
    name = {"name": f"Line {draw.randint(1, 999)}"} if kind == RENAME else {}
    return kind, {"id": draw.choice(numbers), **name}


def plain(events: list[Event], workspace: Workspace, quota: int) -> Tally:
    """Count the day of a gateway that sends one call for each object; what is over the quota is refused."""
    tally, used, window_ends = Tally(), 0, 0
    for event in events:
        calls = plain_calls(event, workspace)
        if event.at >= window_ends:
            used, window_ends = 0, math.ceil(event.at) + 3600
        sent = min(calls, quota - used)
        used += sent
        tally.count(event, sent, full=sent == calls, refused=sent < calls)
    return tally


def plain_calls(event: Event, workspace: Workspace) -> int:
    """Return the calls of one operation: its list, or the object itself, and each distinct object below."""
    owners = [number["agentId"] for number in workspace.numbers.values()]
    if event.document == AGENTS:
        return 1 + min(50, len(workspace.agents))
    if event.document == NUMBERS:
        return 1 + len({*owners[:50]} - {None})
    if event.document == AGENT:
        return 2
    if event.document in (NUMBER, RENAME):
        return 1 + (workspace.numbers[event.variables["id"]]["agentId"] is not None)
    return 1


async def here(events: list[Event], workspace: Workspace, quota: int, **settings: str) -> Tally:
    """Run the day through this gateway."""
    tally, clock, calls = Tally(), Clock(DAY), list[str]()
    demo = create_demo({"team": workspace}, clock=clock, quota=quota, on_call=calls.append)
    app = create_app(
        load({}, {"upstream_url": "http://upstream", **settings}), transport=httpx.ASGITransport(demo), clock=clock
    )
    async with app.router.lifespan_context(app):
        door = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=door, base_url="http://gateway", headers={"X-API-Key": "team"}) as http:
            for event in events:
                clock.now = event.at
                calls.clear()
                body = {"query": event.document, "variables": event.variables}
                answer: dict[str, Any] = (await http.post("/graphql", json=body)).json()
                codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
                sent = sum(not call.endswith(" 429") for call in calls)
                tally.count(event, sent, full=not codes, refused="RATE_LIMITED" in codes)
    return tally


@click.command()
@click.option("--agents", default=40, show_default=True)
@click.option("--numbers", default=90, show_default=True)
@click.option("--quota", default=1000, show_default=True, help="REST calls per hour.")
@click.option("--seed", default=1, show_default=True)
def main(agents: int, numbers: int, quota: int, seed: int) -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def workspace() -> Workspace:
        return sample_workspace(agents=agents, numbers=numbers)

    events = day(seed, workspace())
    click.echo(f"{len(events):,} operations of {PEOPLE} people, {agents} agents, {numbers} numbers, seed {seed}\n")
    click.echo("| gateway | REST calls of the day | busiest hour | operations refused for quota | answered in full |")
    click.echo("| --- | --- | --- | --- | --- |")
    click.echo(f"| plain: one call for each object | {plain(events, workspace(), quota).row} |")
    for name, ttl in (("this one", "0"), ("this one, `GATEWAY_CACHE_TTL=30`", "30")):
        click.echo(f"| {name} | {asyncio.run(here(events, workspace(), quota, cache_ttl=ttl)).row} |")


if __name__ == "__main__":
    main()

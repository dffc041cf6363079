"""Measures how the gateway scales: with objects, with latency, with workers, over time; and how long it takes to start.

    python -m benchmarks.scale linear     CPU of a request by nested objects, and how straight the line is
    python -m benchmarks.scale latency    wall time and round trips of one big query, beside the peers
    python -m benchmarks.scale start      from the command to the first answer
    python -m benchmarks.scale workers    throughput of two workers against one
    python -m benchmarks.scale soak       memory under full load, minute by minute

Not part of the test run. Needs Linux; `wrk` but for `latency` and `start`; Node.js and npm for the peers of `latency`.
Where cores are named, those are the ones that the gateway kept busy; whatever else runs on the machine takes its part.
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

from benchmarks import mock
from benchmarks.gateways import NAMES, Gateway, documents, started
from benchmarks.load import CONNECTIONS, answered, measure, running
from benchmarks.mock import Mock
from benchmarks.processes import end_on_sigterm, unpinned

NUMBERS = "numbers { id phoneNumber friendlyName status createdAt }"
AGENTS = 500, 2000
"""Agents and numbers where their count does not matter: the larger workspace of `compare`."""
SAMPLE = 5
"""Seconds between two looks at memory."""
WARM_UP = 60
RUNS = 3
"""Loads of which the median counts."""

OBJECTS = 10, 30, 100, 300, 1000
SERIES = {
    "One agent of ever more numbers, always two REST calls": [(1, numbers) for numbers in OBJECTS],
    "A workspace that grows, all of it, ten numbers an agent": [(numbers // 10, numbers) for numbers in OBJECTS],
}

seconds_option = click.option("--seconds", type=click.IntRange(1), default=3, show_default=True, help="Of each load.")


class Point(NamedTuple):
    """A request's nested objects, its REST calls, and its CPU in microseconds."""

    objects: int
    rest_calls: float
    cpu_us: float


class Line(NamedTuple):
    """A straight line through points, and how much of their variance it explains (R²)."""

    start: float
    slope: float
    r2: float

    def at(self, objects: float) -> float:
        """Return the line's CPU for so many objects."""
        return self.start + self.slope * objects


def least_squares(measured: Sequence[Point]) -> Line:
    """Fit a line to CPU by objects."""
    objects, cpu = [point.objects for point in measured], [point.cpu_us for point in measured]
    slope, start = statistics.linear_regression(objects, cpu)
    return Line(start, slope, statistics.correlation(objects, cpu) ** 2)


def points(workspaces: list[tuple[int, int]], seconds: int) -> Iterator[Point]:
    """Yield what it costs to ask for everything in workspaces of so many agents and numbers."""
    for agents, numbers in workspaces:
        document = f"{{ agents(first: {agents}) {{ nodes {{ id name {NUMBERS} }} }} }}"
        with mock.started(agents, numbers) as rest, started("gateway", rest) as gateway:
            nodes = gateway.ask(document)["data"]["agents"]["nodes"]
            figures = measure(gateway, rest, document, seconds=seconds, runs=RUNS)
        yield Point(sum(len(node["numbers"]) for node in nodes), figures.rest_calls, figures.cpu_ms * 1000)


def show_line(title: str, measured: list[Point]) -> None:
    """Print points beside the line through them."""
    line = least_squares(measured)
    click.echo(f"\n{title}\n\n| nested objects | REST calls | CPU µs | on the line | off by |\n{'| ---: ' * 5}|")
    for objects, rest_calls, cpu_us in measured:
        fitted = line.at(objects)
        off = f"{cpu_us / fitted - 1:+.0%}"
        click.echo(f"| {objects} | {rest_calls:.1f} | {cpu_us:.0f} | {fitted:.0f} | {off} |")
    click.echo(f"\nCPU = {line.start:.0f} µs + {line.slope:.2f} µs for each nested object; R² = {line.r2:.4f}")


@click.group()
def main() -> None:
    """Measure how the gateway scales."""
    end_on_sigterm()
    if why := unpinned():
        click.echo(f"Not pinned: {why}.", err=True)


@main.command()
@seconds_option
def linear(seconds: int) -> None:
    """Print CPU by nested objects, 10 to 1000, and the line through it."""
    for title, workspaces in SERIES.items():
        show_line(title, list(points(workspaces, seconds)))


@main.command()
@click.argument("peers", nargs=-1, type=click.Choice(NAMES))
@click.option("--latency-ms", type=click.IntRange(1), default=50, show_default=True, help="Of the REST API.")
@click.option("--times", type=click.IntRange(1), default=7, show_default=True, help="The median counts.")
def latency(peers: tuple[str, ...], latency_ms: int, times: int) -> None:
    """Print the wall time of 100 agents with their numbers, one request at a time, and its round trips."""
    click.echo("| | wall ms | round trips | REST calls |\n| --- | ---: | ---: | ---: |")
    with mock.started(*AGENTS, latency_ms) as rest:
        agent_id = rest.get("/agents?limit=1")["data"][0]["id"]
        for name in peers or NAMES:
            document = documents(name, agent_id)["Q3"]
            with started(name, rest) as gateway:
                gateway.ask(document, "warm-up")
                fresh = (f"new-{turn}" for turn in itertools.count())
                ways = {"sizes of the lists not known": fresh, "known": itertools.repeat("warm-up")}
                for way, keys in ways.items() if name == "gateway" else [("", fresh)]:
                    wall, calls = alone(gateway, rest, document, itertools.islice(keys, times))
                    label = f"{name}, {way}" if way else name
                    click.echo(f"| {label} | {wall:.0f} | {wall / latency_ms:.1f} | {calls} |")


def alone(gateway: Gateway, rest: Mock, document: str, keys: Iterator[str]) -> tuple[float, int]:
    """Ask once for each key, and return the median wall time in milliseconds and the last one's REST calls."""
    walls, calls = [], 0
    for key in keys:
        before, begin = rest.calls(), time.perf_counter()
        answer = gateway.ask(document, key)
        walls.append((time.perf_counter() - begin) * 1000)
        calls = rest.calls() - before
        if answer.get("errors"):
            raise click.ClickException(f"{gateway.name} answered: {answer['errors']}")
    return statistics.median(walls), calls


@main.command()
@click.option("--times", type=click.IntRange(1), default=5, show_default=True, help="The median counts.")
def start(times: int) -> None:
    """Print the seconds from the command to the answer to one agent with its numbers."""
    walls = []
    with mock.started(*AGENTS, pinned=False) as rest:
        document = documents("gateway", rest.get("/agents?limit=1")["data"][0]["id"])["Q1"]
        for _ in range(times):
            begin = time.perf_counter()
            with started("gateway", rest, pinned=False) as gateway:
                gateway.ask(document)
                walls.append(time.perf_counter() - begin)
    shown = ", ".join(f"{wall:.2f}" for wall in walls)
    click.echo(f"first answer after {statistics.median(walls):.2f} s (median of {shown})")


@main.command()
@seconds_option
def workers(seconds: int) -> None:
    """Print the throughput of 50 agents with numbers and their agents, with one worker and with two.

    Nothing is pinned: the REST API and the load take their part of the same cores. Each worker's part of the CPU shows
    whether the connections were shared out evenly.
    """
    rates = []
    with mock.started(*AGENTS, pinned=False) as rest:
        document = documents("gateway", "")["Q2"]
        for count in (1, 2):
            with started("gateway", rest, pinned=False, workers=str(count)) as gateway:
                figures = measure(gateway, rest, document, seconds=seconds, runs=RUNS)
                cpu = sorted(gateway.process.cpu_by_process())[-count:]
            rates.append(figures.per_second)
            cost = f"{figures.cpu_ms:.2f} ms CPU, {figures.cores:.2f} cores, {figures.peak_mib:.0f} MiB"
            shares = " + ".join(f"{each / sum(cpu):.0%}" for each in cpu)
            click.echo(
                f"{count} worker(s): {figures.per_second:.0f} requests/s, {cost}, {shares}, {figures.errors} errors"
            )
    click.echo(f"two workers answer {rates[1] / rates[0]:.2f} times as much as one")


@main.command()
@click.option("--minutes", type=click.IntRange(1), default=5, show_default=True, help="After a warm-up of one.")
def soak(minutes: int) -> None:
    """Print memory by the minute under full load: the four questions in turn, and each 21st request a write."""
    seconds = WARM_UP + minutes * 60
    with mock.started(*AGENTS) as rest, started("gateway", rest) as gateway:
        mix = [*documents("gateway", rest.get("/agents?limit=1")["data"][0]["id"]).values()] * 5
        mix.append(rename(rest.get("/numbers?limit=1")["data"][0]["id"]))
        for document in mix[-5:]:
            if problems := gateway.ask(document).get("errors"):
                raise click.ClickException(f"the gateway answered: {problems}")
        with running(gateway, mix, seconds) as wrk:
            time.sleep(WARM_UP)
            medians = [show_minute(minute, list(samples(gateway))) for minute in range(1, minutes + 1)]
            seen = answered(wrk, seconds)
    drift = medians[-1] / medians[0] - 1
    click.echo(f"{seen.requests} requests, {CONNECTIONS} at a time, {seen.errors} errors")
    click.echo(f"median of the last minute against the first: {drift:+.1%}")


def rename(number_id: str) -> str:
    """Return the write."""
    change = f'updatePhoneNumber(id: "{number_id}", input: {{ friendlyName: "soak" }})'
    return f"mutation {{ {change} {{ phoneNumber {{ id }} }} }}"


def samples(gateway: Gateway) -> Iterator[float]:
    """Yield a minute's resident memory in MiB."""
    for _ in range(60 // SAMPLE):
        time.sleep(SAMPLE)
        yield gateway.process.rss()


def show_minute(minute: int, rss: list[float]) -> float:
    """Print a minute's memory, and return its median."""
    median = statistics.median(rss)
    click.echo(f"minute {minute}: min {min(rss):.1f}, median {median:.1f}, max {max(rss):.1f} MiB")
    return median


if __name__ == "__main__":
    main()

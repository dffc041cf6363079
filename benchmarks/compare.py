"""Compares this gateway with others on the same work: CPU, REST calls, latency and memory of four questions.

    python -m benchmarks.compare [--agents 500 --numbers 2000] [--latency-ms 0] [--seconds 8] [--runs 3]
        [--queries Q1,Q4] [--json FILE] [--check] [peer...]

Not part of the test run. Peers: Mercurius with its JIT, Apollo Server 5, Tailcall (Rust); without names, all and
`gateway`. Each gateway is started as one process on the first core, with a mock of the REST API and `wrk` on the
second, and every answer is compared with the REST API's own data before the load. Needs Linux, `wrk`, Node.js 20 and
npm; everything stays on this machine and takes about two minutes a gateway. Variables such as GATEWAY_COMPILED reach
the gateway. Quote CPU per request: throughput wavers with the machine, and differences under 15 % mean nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks import gateways, mock
from benchmarks.gateways import LABELS, NAMES, Gateway, documents, plain, started, truth
from benchmarks.load import Figures, drain, measure
from benchmarks.mock import Mock
from benchmarks.processes import end_on_sigterm, unpinned

HEAD = """
| query | gateway | CPU ms/request | spread | REST calls (loaded) | requests/s | p50 ms | p99 ms | peak MiB | errors |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


@dataclass(frozen=True)
class Outcome:
    """How a gateway answered a question: rightly or not, with how many REST calls, and at what cost under load."""

    query: str
    gateway: str
    equal: bool
    rest_calls: int
    figures: Figures | None = None

    @property
    def row(self) -> str:
        """The figures as a row of the Markdown table."""
        f = self.figures
        assert f
        calls = f"{self.rest_calls} ({f.rest_calls:.1f})"
        errors = f"{f.errors}{', short answers' if f.short else ''}{'' if self.equal else ', WRONG ANSWER'}"
        return (
            f"| {self.query} | {self.gateway} | {f.cpu_ms:.3f} | {f.spread:.0f} % | {calls}"
            f" | {f.per_second:.0f} | {f.p50_ms:.1f} | {f.p99_ms:.1f} | {f.peak_mib:.0f} | {errors} |"
        )


def judged(gateway: Gateway, rest: Mock, query: str, document: str, wanted: Any) -> Outcome:
    """Ask once alone, when the first time is over, and compare the answer with the truth."""
    try:
        gateway.ask(document)
        drain(gateway, rest)
        calls = rest.calls()
        answer = gateway.ask(document)
        calls = rest.calls() - calls
    except httpx.HTTPStatusError as error:
        answer, calls = {"errors": f"{error.response.status_code} {error.response.text}"}, 0
    equal = plain(answer.get("data")) == wanted and not answer.get("errors")
    shown = "equal" if equal else f"DIFFERENT: {json.dumps(answer)[:600]}"
    click.echo(f"{gateway.name} {query}: {calls} REST calls, {shown}", err=True)
    return Outcome(query, gateway.name, equal, calls)


def outcomes(
    name: str, rest: Mock, wanted: dict[str, Any], chosen: list[str], load: dict[str, int]
) -> Iterator[Outcome]:
    """Yield what one gateway does with each of the chosen questions; with an empty `load` they are asked only alone."""
    asked = documents(name, wanted["Q1"]["agent"]["id"])
    with started(name, rest) as gateway:
        for query in chosen:
            outcome = judged(gateway, rest, query, asked[query], wanted[query])
            if load:
                figures = measure(gateway, rest, asked[query], **load)
                click.echo(f"  {figures}", err=True)
                outcome = Outcome(query, name, outcome.equal, outcome.rest_calls, figures)
            yield outcome


def table(rows: list[Outcome]) -> str:
    """Return the Markdown table, each question's cheapest gateway first."""
    measured = sorted((row.query, row.figures.cpu_ms, row.row) for row in rows if row.figures)
    return "\n".join([HEAD, *(row for _, _, row in measured)])


def queries(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Read the names of questions."""
    chosen = text.split(",")
    if unknown := set(chosen) - LABELS.keys():
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(LABELS)}.")
    return chosen


@click.command()
@click.argument("peers", nargs=-1, type=click.Choice(NAMES))
@click.option("--agents", type=click.IntRange(1), default=500, show_default=True)
@click.option("--numbers", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--latency-ms", type=click.IntRange(0), default=0, show_default=True, help="Of the REST API.")
@click.option("--seconds", type=click.IntRange(1), default=8, show_default=True, help="Of one run.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="The median counts.")
@click.option("--queries", "chosen", default=",".join(LABELS), show_default=True, callback=queries)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there too.")
@click.option("--check", is_flag=True, help="Compare the answers and count REST calls, without load.")
def main(peers: tuple[str, ...], chosen: list[str], file: Path | None, *, check: bool, **sizes: int) -> None:
    """Run the comparison; fails where an answer is not what it should be."""
    end_on_sigterm()
    run = {} if check else {name: sizes[name] for name in ("seconds", "runs")}
    rows: list[Outcome] = []
    with mock.started(sizes["agents"], sizes["numbers"], sizes["latency_ms"]) as rest:
        wanted = truth(rest)
        for name in peers or gateways.NAMES:
            rows += outcomes(name, rest, wanted, chosen, run)
    if file:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
    if not check:
        said = f"\nNot pinned: {why}." if (why := unpinned()) else ""
        click.echo(f"{table(rows)}{said}")
    if not all(row.equal for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

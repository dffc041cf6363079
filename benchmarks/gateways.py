"""The gateways that are compared: how each is started, and how each is asked the same four questions.

`compare` and `scale` start them, one at a time. This one has connections, the others plain lists with `page` and
`limit`: `plain` makes their answers alike, and `truth` makes the same from the REST API's own lists. The Node.js
peers and Tailcall lie in `peers/`; `npm ci` installs them there when one is first wanted.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.mock import Mock
from benchmarks.processes import CORES, Started, free_port

PEERS = Path(__file__).parent / "peers"
TAILCALL = PEERS / "node_modules/@tailcallhq/core-linux-x64-gnu/bin/tailcall"
NAMES = ("gateway", "mercurius", "apollo", "tailcall")

AGENT = "id name description status type workspaceId createdAt updatedAt"
NUMBER = "id phoneNumber friendlyName status createdAt"
LABELS = {
    "Q1": "one agent, its numbers",
    "Q2": "50 agents, numbers, their agents",
    "Q3": "100 agents, numbers, all fields",
    "Q4": "100 numbers with agent",
}

Row = Mapping[str, Any]


class Gateway(NamedTuple):
    """A gateway that runs."""

    name: str
    url: str
    process: Started
    http: httpx.Client
    pinned: bool

    def ask(self, document: str, key: str = "alone") -> Any:
        """Return what it answers, the whole of it."""
        headers = {"X-API-Key": key}
        return self.http.post(self.url, json={"query": document}, headers=headers).raise_for_status().json()


@contextlib.contextmanager
def started(name: str, rest: Mock, *, pinned: bool = True, **settings: str) -> Iterator[Gateway]:
    """Start a gateway on a REST API; `settings` are `GATEWAY_*` of this one by field name."""
    port = free_port()
    env = {"PORT": str(port), "UPSTREAM_URL": rest.url, "NODE_ENV": "production"}
    env |= {"GATEWAY_PORT": str(port), "GATEWAY_UPSTREAM_URL": rest.url, "TAILCALL_TRACKER": "false"}
    env |= {f"GATEWAY_{field.upper()}": value for field, value in settings.items()}
    if name != "gateway":
        _install()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Started(
            _command(name, env, Path(scratch)), core=CORES[0] if pinned else None, cwd=_folder(name, scratch), env=env
        ) as process,
        httpx.Client(trust_env=False, timeout=60) as http,
    ):
        path = "/" if name == "apollo" else "/graphql"
        gateway = Gateway(name, f"http://127.0.0.1:{port}{path}", process, http, pinned)
        process.first(lambda: gateway.ask("{ __typename }"), every=0.01)
        yield gateway


def _folder(name: str, scratch: str) -> Path:
    return PEERS if name in {"mercurius", "apollo"} else Path(scratch)


def _command(name: str, env: Mapping[str, str], scratch: Path) -> list[str]:
    if name == "gateway":
        return [sys.executable, "-m", "gateway", "serve"]
    if name != "tailcall":
        return ["node", f"{name}.mjs"]
    if not TAILCALL.exists():
        raise click.ClickException("Tailcall's program is for Linux on x86-64; leave it out.")
    TAILCALL.chmod(0o755)
    config = scratch / "tailcall.graphql"
    text = (PEERS / "tailcall.graphql").read_text("utf-8")
    config.write_text(text.replace("$PORT", env["PORT"]).replace("$UPSTREAM_URL", env["UPSTREAM_URL"]), "utf-8")
    return [str(TAILCALL), "start", str(config)]


def _install() -> None:
    """Install the peers where that was not done before."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        raise click.ClickException("The peers need Node.js 20 and npm; install those, or name only: gateway")
    if not (PEERS / "node_modules").is_dir():
        subprocess.run([npm, "ci", "--ignore-scripts", "--loglevel=error"], cwd=PEERS, check=True, stdout=sys.stderr)


def documents(name: str, agent_id: str) -> dict[str, str]:
    """Return the four questions as a gateway's schema wants them."""

    def page(field: str, count: int, selection: str) -> str:
        if name == "gateway":
            return f"{field}(first: {count}) {{ nodes {{ {selection} }} }}"
        return f"{field}(limit: {count}) {{ {selection} }}"

    numbers = "id phoneNumber friendlyName status agent { id name }"
    return {
        "Q1": f'{{ agent(id: "{agent_id}") {{ id name numbers {{ id phoneNumber status }} }} }}',
        "Q2": f"{{ {page('agents', 50, f'id name numbers {{ {numbers} }}')} }}",
        "Q3": f"{{ {page('agents', 100, f'{AGENT} numbers {{ {NUMBER} }}')} }}",
        "Q4": f"{{ {page('phoneNumbers', 100, f'{NUMBER} agent {{ id name status }}')} }}",
    }


def plain(answer: Any) -> Any:
    """Return data without connections around lists, and enum values in upper case."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    if answer.keys() == {"nodes"}:
        return plain(answer["nodes"])
    return {name: _upper(name, value) if isinstance(value, str) else plain(value) for name, value in answer.items()}


def truth(rest: Mock) -> dict[str, Any]:
    """Return the data that each question must be answered with."""
    agents, numbers = rest.every("agents"), rest.every("numbers")
    by_id = {agent["id"]: agent for agent in agents}

    def with_numbers(agent: Row, fields: str, number_fields: str, more: Row | None = None) -> Row:
        owned = [_take(number, number_fields) for number in numbers if number["agentId"] == agent["id"]]
        return _take(agent, fields) | {"numbers": [number | dict(more or {}) for number in owned]}

    def with_agent(number: Row) -> Row:
        agent = by_id.get(number["agentId"])
        return _take(number, NUMBER) | {"agent": agent and _take(agent, "id name status")}

    return {
        "Q1": {"agent": with_numbers(agents[0], "id name", "id phoneNumber status")},
        "Q2": {
            "agents": [
                with_numbers(agent, "id name", "id phoneNumber friendlyName status", {"agent": _take(agent, "id name")})
                for agent in agents[:50]
            ]
        },
        "Q3": {"agents": [with_numbers(agent, AGENT, NUMBER) for agent in agents[:100]]},
        "Q4": {"phoneNumbers": [with_agent(number) for number in numbers[:100]]},
    }


def _take(row: Row, fields: str) -> dict[str, Any]:
    return {field: _upper(field, row.get(field)) for field in fields.split()}


def _upper(field: str, value: Any) -> Any:
    return value.upper() if field in {"status", "type"} else value

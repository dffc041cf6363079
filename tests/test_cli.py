"""The `gateway` command, run in this process: what it prints, how it exits, and what a server does until a signal."""

import contextlib
import gc
import http.client
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from gateway.cli import DEMO_FIXED, from_environment, main
from gateway.observability.logging import embed
from gateway.schema import sdl
from gateway.settings import describe

HANDLED = (signal.SIGINT, signal.SIGTERM)
NESTED = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give back what a command sets for its whole process: logging, signals, memory and what its workers read."""
    rounds = gc.get_threshold()
    handlers, level, environ = logging.root.handlers[:], logging.root.level, dict(os.environ)
    signals = {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}}
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    embed()
    gc.unfreeze()
    gc.set_threshold(*rounds)
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    for number, handler in signals.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def run(*arguments: str, **environ: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env=environ)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        port: int = free.getsockname()[1]
        return port


def run_until(
    number: signal.Signals | None, visit: Callable[[str], Any], *arguments: str, host: str = "127.0.0.1"
) -> tuple[Result, Any]:
    """Run a server in this process, visit it from a thread, and then stop it, where `visit` has not, with a signal."""
    port = free_port(host)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    seen: list[Any] = []

    def call() -> None:
        wait_for(address)
        try:
            seen.append(visit(address))
        finally:
            if number:
                os.kill(os.getpid(), number)

    caller = threading.Thread(target=call)
    caller.start()
    result = run(*arguments, "--port", str(port), "--host", host)
    caller.join()
    return result, seen[0]


def wait_for(address: str) -> None:
    for _ in range(200):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{address}/healthz")
            return
        time.sleep(0.05)
    pytest.fail("nothing answers")


@contextlib.contextmanager
def begun(address: str, query: str) -> Iterator[http.client.HTTPConnection]:
    """Send an operation; the server has surely read it, since it answers what was sent later."""
    with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)) as sent:
        headers = {"X-API-Key": "demo", "Content-Type": "application/json"}
        sent.request("POST", "/graphql", json.dumps({"query": query}), headers)
        httpx.get(f"{address}/healthz")
        yield sent


def ask(address: str, query: str, key: str | None = "demo") -> Any:
    headers = {"X-API-Key": key} if key else {}
    return httpx.post(f"{address}/graphql", json={"query": query}, headers=headers, timeout=20).json()


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_shows_the_variable_and_the_default_of_each_setting(command: str) -> None:
    told = "".join(run(command, "--help").output.split())

    for setting in describe():
        option, described = setting.name.replace("_", "-"), "".join(setting.description.split())
        shown = f"--{option}VALUE{described}[{setting.variable};default:{setting.default}]" in told
        assert shown is (command == "serve" or setting.name not in DEMO_FIXED), setting.name


def test_prints_the_schema() -> None:
    result = run("schema")

    assert (result.exit_code, result.output) == (0, sdl())


def test_finds_the_schema_of_this_repository_up_to_date() -> None:
    path = Path(__file__).parents[1] / "schema.graphql"

    result = run("schema", "--check", str(path))

    assert (result.exit_code, result.output) == (0, f"{path} is this version's schema.\n")


def test_shows_how_a_schema_differs(tmp_path: Path) -> None:
    path = tmp_path / "old.graphql"
    path.write_text(sdl().replace("  totalCount: Int!\n", "", 1), "utf-8")

    result = run("schema", "--check", str(path))

    lines = result.output.splitlines()
    assert result.exit_code == 1
    assert lines[:2] == [f"--- {path}", "+++ gateway schema"]
    assert [line for line in lines[2:] if line[0] in "+-"] == ["+  totalCount: Int!"]
    assert lines[-1] == f"Error: {path} is not this version's schema; update it with: gateway schema > {path}"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_reports_all_invalid_settings_in_one_error(command: str) -> None:
    result = run(command, "--port", "none", GATEWAY_PROT="1", GATEWAY_DEADLINE="soon")

    assert result.exit_code == 1
    assert result.output == (
        "Error: The settings cannot be used:\n"
        "  GATEWAY_PROT: no such setting; did you mean GATEWAY_PORT?\n"
        "  GATEWAY_DEADLINE: must be a number from 0.001 to 3600, not 'soon'.\n"
        "  GATEWAY_PORT: must be a whole number from 0 to 65535, not 'none'.\n"
    )


@pytest.mark.parametrize("command", [("serve",), ("serve", "--workers", "2"), ("demo",)])
def test_reports_a_port_in_use_without_a_traceback(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        result = run(*command, "--port", str(port))

    assert result.exit_code == 1
    assert result.output == (
        f"Error: Cannot listen on 127.0.0.1:{port}: Address already in use."
        " Choose another with --host and --port, or GATEWAY_HOST and GATEWAY_PORT.\n"
    )


@pytest.mark.parametrize("number", HANDLED)
def test_serves_until_a_signal_and_exits_with_zero(number: signal.Signals) -> None:
    before = [signal.getsignal(handled) for handled in HANDLED]

    result, answer = run_until(number, lambda address: ask(address, "{ __typename }"), "serve")

    assert answer == {"data": {"__typename": "Query"}}
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("GraphQL at http://127.0.0.1:")
    assert [signal.getsignal(handled) for handled in HANDLED] == before


def test_listens_on_ipv6() -> None:
    result, answer = run_until(
        signal.SIGTERM, lambda address: ask(address, "{ agents { totalCount } }"), "demo", host="::1"
    )

    assert answer["data"] == {"agents": {"totalCount": 12}}
    assert "  GraphiQL   http://[::1]:" in result.stdout
    assert "    curl 'http://[::1]:" in result.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_prints_a_usable_address_if_it_listens_on_all(host: str) -> None:
    visited = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}[host]

    result, answer = run_until(
        signal.SIGTERM, lambda address: ask(address, "{ agents { totalCount } }"), "demo", host=host
    )

    assert answer["data"] == {"agents": {"totalCount": 12}}
    assert f"  GraphiQL   http://{visited}:" in result.stdout


def test_warns_if_clients_may_use_the_gateways_key_and_does_not_show_it() -> None:
    result, _ = run_until(
        signal.SIGTERM, lambda address: ask(address, "{ rateLimit { limit } }"), "serve", "--upstream-api-key", "s3cret"
    )

    assert "Warning: clients without a key use GATEWAY_UPSTREAM_API_KEY" in result.stderr
    assert "s3cret" not in result.output


def test_warns_if_any_host_may_use_the_gateways_key() -> None:
    result, _ = run_until(signal.SIGTERM, lambda _: None, "serve", "--upstream-api-key", "s", "--allowed-hosts", "*")

    assert "GATEWAY_ALLOWED_HOSTS=* lets any web page use that key by DNS rebinding" in result.stderr


def test_warns_if_keys_are_sent_unencrypted() -> None:
    far, _ = run_until(signal.SIGTERM, lambda _: None, "serve", "--upstream-url", "http://far.example")
    near, _ = run_until(signal.SIGTERM, lambda _: None, "serve", "--upstream-url", "http://[::1]:9")

    assert "Warning: API keys are sent unencrypted because GATEWAY_UPSTREAM_URL is http://" in far.stderr
    assert "Warning" not in near.stderr


@pytest.mark.parametrize("command", [("serve",), ("serve", "--workers", "2"), ("demo",)])
def test_reports_an_unreadable_manifest_without_a_traceback(command: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*command, "--trusted-documents", str(tmp_path / "none.json"))

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "none.json" in result.output


def test_serves_with_several_processes() -> None:
    def visit(address: str) -> tuple[Any, int]:
        return ask(address, "{ __typename }"), len(multiprocessing.active_children())

    result, (answer, processes) = run_until(signal.SIGTERM, visit, "serve", "--workers", "2")

    assert answer == {"data": {"__typename": "Query"}}
    assert processes == 2
    assert result.exit_code == 0
    assert not multiprocessing.active_children()


async def test_builds_the_gateway_of_a_worker_process_from_its_environment() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(from_environment()), base_url="http://gateway") as http:
        answer = await http.get("/healthz")

    assert (answer.status_code, answer.text) == (200, "ok")


def test_a_worker_freezes_the_objects_of_its_start() -> None:
    class Left:
        """Something in a cycle."""

    from_environment()
    left = Left()
    left.itself = left  # type: ignore[attr-defined]
    seen = weakref.ref(left)
    del left

    made: list[list[int]] = [[] for _ in range(10_000)]

    assert seen() is None
    assert gc.get_freeze_count() > len(made)


def test_demo_lists_each_rest_call_and_then_the_operation() -> None:
    result, answer = run_until(signal.SIGINT, lambda address: ask(address, NESTED), "demo", "--log-format", "console")

    assert "errors" not in answer
    assert result.exit_code == 0
    start = result.output.index("  REST  ")
    calls = ["  REST  GET /agents?page=1&limit=50 200", "  REST  GET /numbers?page=1&limit=100 200"]
    *listed, operation = result.output[start:].splitlines()
    assert sorted(listed) == calls  # they went out together
    assert " operation method=POST type=query status=200 spent=2 ms=" in operation


def test_demo_prints_its_address_a_query_and_a_command() -> None:
    result, _ = run_until(signal.SIGINT, lambda _: None, "demo")

    assert "(opens with sample queries, the key 'demo' is filled in)" in result.stdout
    assert f"    {NESTED}\n" in result.stdout
    assert f"-H 'X-API-Key: demo' -H 'Content-Type: application/json' -d '{{\"query\": \"{NESTED}\"}}'" in result.stdout


def test_demo_without_graphiql_does_not_mention_it() -> None:
    result, page = run_until(
        signal.SIGINT, lambda address: httpx.get(f"{address}/graphql").status_code, "demo", "--graphiql", "false"
    )

    assert page == 400
    assert "  GraphQL    http://" in result.stdout
    assert "GraphiQL" not in result.stdout


def test_demo_calls_its_rest_api_whatever_hosts_are_allowed() -> None:
    def visit(address: str) -> Any:
        headers = {"X-API-Key": "demo", "Host": "demo.example.com"}
        body = {"query": "{ agents { totalCount } }"}
        return httpx.post(f"{address}/graphql", json=body, headers=headers, timeout=20).json()["data"]

    _, data = run_until(signal.SIGINT, visit, "demo", "--allowed-hosts", "demo.example.com")

    assert data == {"agents": {"totalCount": 12}}


def test_demo_uses_its_own_rest_api_in_any_environment() -> None:
    own = {"GATEWAY_UPSTREAM_URL": "bad", "GATEWAY_WORKERS": "many", "GATEWAY_UPSTREAM_API_KEY": "a b"}

    result = run("demo", "--port", "none", **own)

    assert result.output.splitlines()[1:] == ["  GATEWAY_PORT: must be a whole number from 0 to 65535, not 'none'."]


def test_demo_finishes_an_operation_that_makes_a_rest_call_after_sigterm() -> None:
    def visit(address: str) -> Any:
        with begun(address, NESTED) as operation:
            os.kill(os.getpid(), signal.SIGTERM)
            return json.load(operation.getresponse())

    result, answer = run_until(None, visit, "demo", "--latency-ms", "100")

    assert "errors" not in answer
    assert result.exit_code == 0
    assert result.stdout.count("  REST  ") == 2

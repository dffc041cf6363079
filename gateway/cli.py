"""The `gateway` command: serve, demo, schema, check.

Each setting is an option of `serve`, and of `demo` if it applies there. The first SIGTERM or Ctrl+C stops a server
gracefully: it accepts no new connections, finishes the current operations and exits with 0.
"""

import asyncio
import contextlib
import difflib
import gc
import math
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec
import uvicorn
from prometheus_client import disable_created_metrics
from starlette.applications import Starlette
from starlette.routing import Mount
from uvicorn.supervisors import Multiprocess

from gateway import graphiql
from gateway.app import create_app
from gateway.demo.rest_api import create_demo
from gateway.estimate.check import check as check_files
from gateway.estimate.sources import NoFilesError, read_sources
from gateway.http.server import Protocol
from gateway.observability.logging import configure
from gateway.schema import sdl
from gateway.settings import LOOPBACK, PREFIX, Settings, SettingsError, describe, is_loopback, load
from gateway.upstream.resources import RESOURCES

DEMO_KEY = graphiql.DEMO.api_key
DEMO_PATH = "/demo/api/v1"
DEMO_FIXED = {"upstream_url": "http://127.0.0.1", "upstream_api_key": "", "workers": "1"}
"""Settings that the demo fixes: it is one process with its own REST API."""

_GC_THRESHOLDS = (10_000, 10, 10)
"""Thresholds of the garbage collector (`gc.set_threshold`).

Python's (700, 10, 10) takes a quarter of a small query's CPU and a fifth of a large one's. Successful operations leave
no reference cycle to collect; errors do. Objects of the start are frozen. With 32 clients that ask for nested lists the
peak is 93 MiB, as with (1000, 3, 1) at 7% more CPU; with (50_000, 20, 100) it is 103 MiB at the same CPU.
"""

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address to show, not to listen on

F = TypeVar("F", bound=Callable[..., Any])


def _settings_options(*without: str) -> Callable[[F], F]:
    """Return a decorator that adds one option for each setting, except these."""

    def decorate(command: F) -> F:
        for setting in reversed(list(describe())):
            if setting.name not in without:
                text = f"{setting.description}  [{setting.variable}; default: {setting.default}]"
                name = "--" + setting.name.replace("_", "-")
                command = click.option(name, setting.name, metavar="VALUE", help=text)(command)
        return command

    return decorate


def _size_options(command: F) -> F:
    """Add an option for the size of each resource's list."""
    for name, resource in reversed(RESOURCES.items()):
        rows = 200 if resource.owner else 100
        help_ = f"{name.capitalize()} in the workspace."
        option = click.option(f"--{name}", type=click.IntRange(0, 100_000), default=rows, show_default=True, help=help_)
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="omnia-graphql-gateway", prog_name="gateway")
def main() -> None:
    """GraphQL over the Omnia Voice REST API: one request, the fewest possible REST calls."""


@main.command()
@_settings_options()
def serve(**options: str | None) -> None:
    """Serve the gateway."""
    settings = _load(options)
    app = _app(settings)
    for warning in _warnings(settings):
        click.echo(f"Warning: {warning}", err=True)
    with _listen(settings) as listener, _exit_0_on_signals():
        click.echo(f"GraphQL at {_address(settings, listener)}/graphql", err=True)
        if settings.workers == 1:
            uvicorn.Server(_config(settings, app)).run([listener])
        else:
            # each worker process reads its settings from the environment
            os.environ.update({PREFIX + name.upper(): value for name, value in options.items() if value is not None})
            config = _config(settings, "gateway.cli:from_environment", factory=True, workers=settings.workers)
            with _shared_metrics():
                Multiprocess(config, [listener]).run()


@main.command()
@click.option(
    "--latency-ms", type=click.IntRange(0, 60_000), default=0, help="Added to every response of the REST API."
)
@_settings_options(*DEMO_FIXED)
def demo(latency_ms: int, **options: str | None) -> None:
    """Serve the gateway with its own REST API in memory; needs no API key and no internet.

    GATEWAY_UPSTREAM_URL, GATEWAY_UPSTREAM_API_KEY and GATEWAY_WORKERS do not apply.
    """
    options |= DEMO_FIXED
    settings = _load(options)
    with _listen(settings) as listener, _exit_0_on_signals():
        address = _address(settings, listener)
        settings = _load(options | {"upstream_url": address + DEMO_PATH})
        if settings.allowed_hosts:  # the gateway calls its own REST API at this address
            settings = _allow(settings, urlsplit(address).netloc.rpartition(":")[0])
        app = _app(
            settings,
            graphiql_preset=graphiql.DEMO,
            routes=[Mount(DEMO_PATH, create_demo(latency=latency_ms / 1000, on_call=_show_call))],
        )
        click.echo(_welcome(address, graphiql=settings.graphiql))
        _DemoServer(_config(settings, app)).run([listener])


@main.command()
@click.option(
    "--check", "checked", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Compare with FILE."
)
def schema(checked: Path | None) -> None:
    """Print the schema as SDL; with --check, fail if it differs from FILE."""
    text = sdl()
    if checked is None:
        click.echo(text, nl=False)
        return
    before = checked.read_text("utf-8", errors="replace")
    if before != text:
        lines = difflib.unified_diff(
            before.splitlines(keepends=True), text.splitlines(keepends=True), str(checked), "gateway schema"
        )
        click.echo("".join(lines), nl=False)
        raise click.ClickException(
            f"{checked} is not this version's schema; update it with: gateway schema > {checked}"
        )
    click.echo(f"{checked} is this version's schema.")


@main.command()
@click.argument("files", nargs=-1, required=True)
@_size_options
@click.option("--max-rest-calls", metavar="VALUE", help="Budget of one operation.  [default: GATEWAY_MAX_REST_CALLS]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(files: tuple[str, ...], max_rest_calls: str | None, *, as_json: bool, **sizes: int) -> None:
    """Print the REST calls of the operations in FILES; fail if one is invalid or may exceed the budget.

    FILES are paths, globs, directories (searched for *.graphql and *.gql) or - for the standard input. A fragment may
    be in any of them. The worst case assumes an empty cache and unknown list sizes. The typical case is counted by
    running the operation on a REST API in memory, with known list sizes.
    """
    settings = _load({"max_rest_calls": max_rest_calls})
    try:
        texts = read_sources(files, sys.stdin)
    except NoFilesError as error:
        raise click.ClickException(str(error)) from error
    report = asyncio.run(check_files(texts, sizes, settings))
    click.echo(report.json if as_json else report.text)
    if not report.ok:
        raise SystemExit(1)


def from_environment() -> Starlette:
    """Build the gateway from the `GATEWAY_*` environment variables, in a worker process or for another server."""
    return _app(load(os.environ))


class _DemoServer(uvicorn.Server):
    """A server that finishes its operations before it stops listening, because they call the server itself."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for all requests, then shut down."""
        end = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        while self.server_state.tasks and not self.force_exit and time.monotonic() < end:
            await asyncio.wait(self.server_state.tasks, timeout=0.1)
        await super().shutdown(sockets)


def _app(settings: Settings, **options: Any) -> Starlette:
    configure(settings.log_threshold, settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the time when a label was first seen is of no use
    if not settings.allowed_hosts and is_loopback(settings.host):
        settings = _allow(settings, *LOOPBACK, _host(settings.host))
    with _settings_errors():
        app = create_app(settings, **options)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    return app


def _load(options: dict[str, str | None]) -> Settings:
    with _settings_errors():
        return load(os.environ, {name: value for name, value in options.items() if value is not None})


def _allow(settings: Settings, *hosts: str) -> Settings:
    return msgspec.structs.replace(settings, allowed_hosts=",".join((settings.allowed_hosts, *hosts)))


@contextlib.contextmanager
def _settings_errors() -> Iterator[None]:
    """Show invalid settings as an error message, without a traceback."""
    try:
        yield
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _warnings(settings: Settings) -> Iterator[str]:
    if settings.upstream_api_key:
        yield "clients without a key use GATEWAY_UPSTREAM_API_KEY; serve this only behind your own authentication."
        if "*" in settings.hosts:
            yield "GATEWAY_ALLOWED_HOSTS=* lets any web page use that key by DNS rebinding."
    upstream = urlsplit(settings.upstream_url)
    if upstream.scheme == "http" and not is_loopback(upstream.hostname or ""):
        yield "API keys are sent unencrypted because GATEWAY_UPSTREAM_URL is http://; use https:// if you can."


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    """Open the listening socket; unlike uvicorn, show a port in use as an error message without a traceback."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).split(" (")[0]  # the rest repeats the address
        raise click.ClickException(
            f"Cannot listen on {_host(settings.host)}:{settings.port}: {reason}."
            " Choose another with --host and --port, or GATEWAY_HOST and GATEWAY_PORT."
        ) from error
    with listener:
        yield listener


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Let the worker processes count in files that all of them read; each imports prometheus-client after this."""
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        yield


@contextlib.contextmanager
def _exit_0_on_signals() -> Iterator[None]:
    """Exit with 0 on SIGINT and SIGTERM; uvicorn raises the signal again after it has shut down."""
    before = {number: signal.signal(number, _exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(*_: object) -> None:
    sys.exit(0)


def _config(settings: Settings, app: Starlette | str, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # the client's address and scheme are not used
        http=Protocol,
        ws="none",
        lifespan="on",
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=math.ceil(settings.deadline) + 1,
        **options,
    )


def _address(settings: Settings, listener: socket.socket) -> str:
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://{_host(host)}:{listener.getsockname()[1]}"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _show_call(call: str) -> None:
    click.echo(click.style(f"  REST  {call}", dim=True))


def _welcome(address: str, *, graphiql: bool) -> str:
    query = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
    body = '{"query": "' + query + '"}'
    headers = f"-H 'X-API-Key: {DEMO_KEY}' -H 'Content-Type: application/json'"
    curl = f"curl {shlex.quote(address + '/graphql')} {headers} -d {shlex.quote(body)}"
    hint = f"   (opens with sample queries, the key {DEMO_KEY!r} is filled in)" if graphiql else ""
    return f"""
  {"GraphiQL" if graphiql else "GraphQL "}   {address}/graphql{hint}
  REST API   {address}{DEMO_PATH}/agents   (in memory, key {DEMO_KEY!r})

  Paste this query:
    {query}

  or run it:
    {curl}

  Ctrl+C stops the server. Each operation is logged below, after its REST calls.
"""

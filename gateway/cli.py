"""The `gateway` command: serve, demo, schema.

Every setting is an option of `serve` and `demo` too; its help names the variable and the default. Chosen
for it: click, which strawberry and uvicorn users have already, and whose help shows variables.
"""

import difflib
import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway import observability
from gateway.app import create_app
from gateway.demo import create_demo
from gateway.schema import sdl
from gateway.settings import Settings, SettingsError, describe, load

DEMO_KEY = "demo"
DEMO_PATH = "/demo/api/v1"

F = TypeVar("F", bound=Callable[..., Any])


def _settings_options(command: F) -> F:
    """Give a command one option for each setting."""
    for setting in reversed(list(describe())):
        name = "--" + setting.name.replace("_", "-")
        text = f"{setting.description}  [{setting.variable}; default: {setting.default}]"
        command = click.option(name, setting.name, metavar="VALUE", help=text)(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="omnia-graphql-gateway", prog_name="gateway")
def main() -> None:
    """GraphQL over the Omnia Voice REST API: one request, the fewest possible REST calls."""


@main.command()
@_settings_options
def serve(**options: str | None) -> None:
    """Serve the gateway in front of the REST API."""
    settings = _load(options)
    for name, value in options.items():
        if value is not None:
            os.environ[f"GATEWAY_{name.upper()}"] = value  # worker processes read the environment anew
    if settings.upstream_api_key:
        click.echo(
            "Warning: callers without a key use GATEWAY_UPSTREAM_API_KEY; serve this only behind authentication.",
            err=True,
        )
    click.echo(f"GraphQL at http://{_host(settings)}:{settings.port}/graphql", err=True)
    uvicorn.run(
        "gateway.cli:from_environment",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        **_server_options(settings),
    )


@main.command()
@click.option("--latency-ms", type=click.IntRange(0, 60_000), default=0, help="Added to every REST answer.")
@_settings_options
def demo(latency_ms: int, **options: str | None) -> None:
    """Serve the gateway with a REST API of its own, in memory: no key, no internet."""
    settings = _load(options, defaults={"upstream_url": "http://127.0.0.1"})
    with socket.create_server((settings.host, settings.port), reuse_port=False) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        address = f"http://{_host(settings)}:{port}"
        settings = _load(options | {"upstream_url": address + DEMO_PATH, "port": str(port)})
        server = uvicorn.Server(uvicorn.Config(_demo_app(settings, latency_ms / 1000), **_server_options(settings)))
        click.echo(_welcome(address))
        server.run(sockets=[listener])


@main.command()
@click.option(
    "--check", "checked", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Compare with FILE."
)
def schema(checked: Path | None) -> None:
    """Print the schema as SDL, or fail with the difference to a file."""
    text = sdl()
    if checked is None:
        click.echo(text, nl=False)
        return
    before = checked.read_text("utf-8")
    if before != text:
        lines = difflib.unified_diff(
            before.splitlines(keepends=True), text.splitlines(keepends=True), str(checked), "gateway schema"
        )
        sys.stdout.writelines(lines)
        raise click.ClickException(f"{checked} is not this version's schema; write it with: gateway schema > {checked}")
    click.echo(f"{checked} is this version's schema.")


def from_environment() -> Starlette:
    """Build the gateway from `GATEWAY_*`; each worker process calls it."""
    settings = load(os.environ)
    observability.configure(settings.log_threshold, settings.log_format)
    return create_app(settings)


def _demo_app(settings: Settings, latency: float) -> Starlette:
    observability.configure(settings.log_threshold, settings.log_format)
    rest = create_demo(latency=latency, on_call=lambda line: click.echo(f"  REST  {line}"))
    return create_app(settings, graphiql_key=DEMO_KEY, routes=[Mount(DEMO_PATH, rest)])


def _load(options: dict[str, str | None], defaults: dict[str, str] | None = None) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return load(os.environ, {**(defaults or {}), **given})
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _server_options(settings: Settings) -> dict[str, Any]:
    return {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "date_header": True,
        "ws": "none",
        "lifespan": "on",
        "timeout_graceful_shutdown": round(settings.deadline) + 1,
    }


def _host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host


def _welcome(address: str) -> str:
    query = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
    body = '{"query": "' + query + '"}'
    curl = (
        f"curl {address}/graphql -H 'X-API-Key: {DEMO_KEY}' -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
    return f"""
  GraphiQL   {address}/graphql   (opens with sample queries, the key {DEMO_KEY!r} is filled in)
  REST API   {address}{DEMO_PATH}/agents   (in memory; each call is listed below)

  Paste this query:
    {query}

  or run it:
    {curl}

  Ctrl+C stops.
"""

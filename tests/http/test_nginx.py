"""The gateway behind nginx that keeps its connections open."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.app import create_app
from gateway.http.server import Protocol
from gateway.settings import load
from tests.harness import UPSTREAM
from tests.process import started
from tests.server import serve_app

CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    upstream gateway {{ server 127.0.0.1:{behind}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1; proxy_set_header Connection "";
        location / {{ proxy_pass http://gateway; }}
        location /graphql {{ proxy_pass http://gateway; proxy_request_buffering off; }}
    }}
}}
"""
BODY = {"query": "{ __typename }"}


@contextmanager
def nginx(folder: Path, behind: int) -> Iterator[str]:
    """Start nginx before a gateway, and yield its address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if not program:
        pytest.skip("nginx is not installed here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, behind=behind, port=port))
    with subprocess.Popen([program, "-c", config, "-e", folder / "error.log"]) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as http:
                http.get(f"{address}/healthz")
            yield address
        finally:
            process.terminate()


def test_takes_hundreds_of_requests_over_a_few_connections(tmp_path: Path) -> None:
    app = create_app(load({}, {"upstream_url": UPSTREAM}))
    ports = set()

    async def recorder(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            ports.add(scope["client"][1])
        await app(scope, receive, send)

    with (
        serve_app(recorder, http=Protocol) as behind,
        nginx(tmp_path, behind) as address,
        httpx.Client() as http,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda _: http.post(f"{address}/graphql", json=BODY).status_code, range(400)))

    assert answers == [200] * 400
    assert len(ports) <= 5  # the probe's, and one for each of the four


def test_passes_a_refusal_on_while_the_body_is_still_sent(tmp_path: Path) -> None:
    app = create_app(load({}, {"upstream_url": UPSTREAM}))
    with serve_app(app, http=Protocol) as behind, nginx(tmp_path, behind) as address:
        # nginx closes its own connection after such a response, so each request takes a new one
        answers = [httpx.post(f"{address}/graphql", json={"query": "x" * 5_000_000}) for _ in range(10)]
        after = httpx.post(f"{address}/graphql", json=BODY)

    assert [answer.status_code for answer in answers] == [413] * 10
    assert after.status_code == 200


def test_keeps_an_idle_connection_as_long_as_it_is_told() -> None:
    with started("serve", "--keep-alive", "1") as gateway:
        port = int(gateway.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            assert connection.recv(65536) == b""


def test_keeps_an_idle_connection_longer_than_proxies_do_by_default() -> None:
    assert load({}).keep_alive > 60

"""The gateway on a real socket of this machine, served by uvicorn in a thread as `gateway serve` does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.app import create_app
from gateway.http.server import Protocol
from gateway.settings import load
from tests.harness import UPSTREAM


@contextmanager
def serve(protocol: type[Protocol] = Protocol, **settings: str) -> Iterator[int]:
    """Serve a gateway, its settings given by field name, and yield its port."""
    app = create_app(load({}, {"upstream_url": UPSTREAM, **settings}))
    with serve_app(app, http=protocol, server_header=False) as port:
        yield port


@contextmanager
def serve_app(app: ASGIApp, **options: Any) -> Iterator[int]:
    """Serve any application, with these options of uvicorn, and yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, access_log=False, **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def talk(port: int, *pieces: bytes) -> bytes:
    """Send these bytes on a connection of its own, and return all that comes back until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break  # the gateway has heard enough
        answer = bytearray()
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return bytes(answer)

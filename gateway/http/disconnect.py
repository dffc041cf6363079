"""Cancels an operation whose client has disconnected.

Facts: the ASGI HTTP specification. Only `http.disconnect` tells of a disconnect: before it, `receive` returns the
`http.request` messages of a body that nobody has read, an empty one for each GET.
"""

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive


class Disconnected(Exception):
    """The client disconnected before its request was complete, or before the response was."""


class CancelOnDisconnect:
    """Context manager that cancels its body when the client disconnects; writes already sent continue.

    The connection is watched only if the body waits for something: most small operations do not.

    Raises:
        Disconnected: on exit, if the client has disconnected.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Future[bool] | None = None
        self._disconnected = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] = asyncio.current_task(loop)  # type: ignore[assignment]  # ASGI runs in one
        self._start = loop.call_soon(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = loop.create_task(_disconnect(self._receive))
        self._watch.add_done_callback(self._cancel)

    def _cancel(self, watch: asyncio.Future[bool]) -> None:
        if not watch.cancelled() and watch.result():
            self._disconnected = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._start.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._cancel)
            self._watch.cancel()
        if self._disconnected:
            self._task.uncancel()
            raise Disconnected from error


async def _disconnect(receive: Receive) -> bool:
    """Wait for the disconnect and discard what the client sends before it. Return whether the client disconnected."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # noqa: BLE001 - a failing `receive`, such as BaseHTTPMiddleware's, does not mean a disconnect
        return False
    return True

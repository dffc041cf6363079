"""Cancels an operation whose client has disconnected.

Facts: the ASGI HTTP specification. Only `http.disconnect` tells of a disconnect: before it, `receive` returns the
`http.request` messages of a body that nobody has read, an empty one for each GET.
"""

import asyncio
from types import TracebackType
from typing import Any, Final

from starlette.types import Receive, Scope

DISCONNECTED: Final = "gateway.disconnected"
"""Key of the scope: a future of the server that is done once the client has disconnected."""


class Disconnected(Exception):
    """The client disconnected before its request was complete, or before the response was."""


class CancelOnDisconnect:
    """Context manager that cancels its body when the client disconnects; writes already sent continue.

    `gateway serve` puts a future into the scope (`DISCONNECTED`). With other servers a task waits for `receive`; it
    starts only if the body waits for something, which most small operations do not.

    Raises:
        Disconnected: on exit, if the client has disconnected.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Future[bool] | None = scope.get(DISCONNECTED)
        self._start: asyncio.Handle | None = None
        self._disconnected = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] = asyncio.current_task(loop)  # type: ignore[assignment]  # ASGI runs in one
        if self._watch is None:
            self._start = loop.call_soon(self._begin, loop)
        else:
            self._watch.add_done_callback(self._cancel)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = loop.create_task(_disconnect(self._receive))
        self._watch.add_done_callback(self._cancel)

    def _cancel(self, watch: asyncio.Future[bool]) -> None:
        if not watch.cancelled() and watch.result():
            self._disconnected = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._start is not None:
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

"""Cancels an operation whose client has disconnected.

Facts: the ASGI HTTP specification. `http.disconnect` alone says so: before it, `receive` yields the `http.request`
messages of a body that nobody has read, an empty one for each GET.
"""

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive


class Disconnected(Exception):
    """The client disconnected before its request was complete, or before the response was."""


class Caller:
    """Cancels what runs inside when the client disconnects; writes already sent go on to their end.

    The connection is watched only once the operation has to wait, since most small operations never do.

    Raises:
        Disconnected: on leaving, the client had disconnected.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Future[bool] | None = None
        self._gone = False

    def __enter__(self) -> None:
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # ASGI runs in one
        self._start = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._watch = asyncio.ensure_future(_disconnect(self._receive))
        self._watch.add_done_callback(self._leave)

    def _leave(self, watch: asyncio.Future[bool]) -> None:
        if not watch.cancelled() and watch.result():
            self._gone = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._start.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._leave)
            self._watch.cancel()
        if self._gone:
            self._task.uncancel()
            raise Disconnected from error


async def _disconnect(receive: Receive) -> bool:
    """Wait for the client's disconnect; discard what it sends until then. Tell whether it has disconnected."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # noqa: BLE001 - a `receive` that fails, as BaseHTTPMiddleware's may, says nothing of the client
        return False
    return True

"""A socket to a host, over whichever of its addresses answers first.

`pool` calls it for each new connection. An address that swallows packets, such as IPv6 behind a broken router, costs a
quarter of a second and not the call: the next one is tried meanwhile (RFC 8305). Of asyncio's own loop one could ask
for that, uvloop tries one address after the other, each until the system gives it up.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

STAGGER = 0.25
"""Seconds after which the next address is tried too (RFC 8305, section 5)."""

Address = tuple[int, int, int, str, Any]
"""Family, type, protocol, name and address of a socket, as `socket.getaddrinfo` has them."""


async def dial(host: str, port: int) -> socket.socket:
    """Connect to a host.

    Raises:
        OSError: it has no address, or none that answers.
        UnicodeError: its name cannot be one.
    """
    loop = asyncio.get_running_loop()
    return await race(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def race(addresses: Sequence[Address], stagger: float = STAGGER) -> socket.socket:
    """Connect to the first address that answers, each being tried as the ones before fail or `stagger` seconds pass."""
    waiting = _alternating(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    problem: BaseException = OSError("The host has no address.")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_open(waiting.pop())))
            done, _ = await asyncio.wait(
                running, timeout=stagger if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.discard(task)
                failure = task.exception()
                if failure is None:
                    return task.result()
                problem = failure
    finally:
        for task in running:
            task.add_done_callback(_close)
            task.cancel()
    raise problem


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """Return them last first, the families in turn, so that none waits for all of another's."""
    seen: Counter[int] = Counter()
    ranks = []
    for address in addresses:
        ranks.append(seen[address[0]])
        seen[address[0]] += 1
    order = sorted(range(len(addresses)), key=ranks.__getitem__)
    return [addresses[at] for at in reversed(order)]


async def _open(address: Address) -> socket.socket:
    opened = socket.socket(*address[:3])
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, address[4])
    except BaseException:
        opened.close()
        raise
    return opened


def _close(task: "asyncio.Task[socket.socket]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()

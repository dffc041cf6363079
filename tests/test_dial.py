"""Hosts of several addresses, some of which do not answer."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.upstream.dial import Address, _alternating, dial, race
from tests.raw_upstream import BOTH_LOOPS

LOOPS = BOTH_LOOPS


def address(listener: socket.socket) -> Address:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())


@pytest.fixture
def good() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address(listener)


@pytest.fixture
def refusing() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return address(listener)


@pytest.fixture
def silent() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield address(listener)
        for each in waiting:
            each.close()


async def test_an_address_that_refuses_or_is_silent_leaves_the_next_one(
    good: Address, refusing: Address, silent: Address
) -> None:
    with await race([refusing, silent, good], stagger=0.01) as opened:
        assert opened.getpeername() == good[4]


async def test_a_silent_address_is_waited_for_no_longer_than_the_others_take(good: Address, silent: Address) -> None:
    with await race([silent, good], stagger=0.01) as opened:
        assert opened.getpeername() == good[4]


async def test_the_second_of_two_that_answer_at_once_is_closed(good: Address) -> None:
    with await race([good, good], stagger=0) as opened:
        assert opened.getpeername() == good[4]
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)


async def test_a_host_none_of_whose_addresses_answers_is_an_error(refusing: Address) -> None:
    with pytest.raises(ConnectionRefusedError):
        await race([refusing, refusing])


async def test_a_host_without_an_address_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        await race([])


async def test_given_up_it_leaves_no_socket_open(silent: Address, refusing: Address) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await race([silent, refusing, silent, refusing], stagger=0)


async def test_a_host_is_looked_up(good: Address) -> None:
    with await dial("localhost", good[4][1]) as opened:
        assert opened.getpeername() == good[4]


def test_the_families_are_tried_in_turn() -> None:
    found = [(family, 1, 6, "", number) for number, family in enumerate([10, 10, 10, 2, 2])]

    assert [each[4] for each in reversed(_alternating(found))] == [0, 3, 1, 4, 2]

"""A connection that ends does not touch what others watch, though the kernel gives its descriptor's number to them."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.surfaces.dbus.bed import DEADLINE_S, PrivateBus, needs_bus

from ispd.surfaces.dbus.names import BUS_NAME
from ispd.surfaces.dbus.wiring import Bus, Connection

pytestmark = [pytest.mark.anyio, needs_bus]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def watched(end: socket.socket, number: int) -> AsyncIterator[anyio.Event]:
    """Watch a socket under a number that was another's; the event tells that something came."""
    heard, loop = anyio.Event(), asyncio.get_running_loop()
    os.dup2(end.fileno(), number)
    loop.add_reader(number, heard.set)
    try:
        yield heard
    finally:
        loop.remove_reader(number)
        os.close(number)


async def until_heard(heard: anyio.Event) -> None:
    with anyio.fail_after(DEADLINE_S):
        await heard.wait()


async def until_lost(connection: Connection) -> None:
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                connection.check()
            except OSError:
                return
            await anyio.sleep(0.01)


async def test_a_connection_that_is_closed_and_freed_later(bus: PrivateBus, pair: tuple[socket.socket, socket.socket]):
    connection = Connection(Bus.SYSTEM)
    await connection.own(BUS_NAME)
    number = connection.bus.get_fd()
    connection.close()
    async with watched(pair[0], number) as heard:
        del connection
        gc.collect()
        pair[1].send(b"!")
        await until_heard(heard)


async def test_a_connection_that_is_lost_and_closed_later(bus: PrivateBus, pair: tuple[socket.socket, socket.socket]):
    connection = Connection(Bus.SYSTEM)
    await connection.own(BUS_NAME)
    number = connection.bus.get_fd()
    bus.kill()
    await until_lost(connection)
    async with watched(pair[0], number) as heard:
        connection.close()
        pair[1].send(b"!")
        await until_heard(heard)

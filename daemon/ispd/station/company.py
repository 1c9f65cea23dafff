"""Units that wait for their boards on USB at the same time: cables may be exchanged among them, so that each proves its port in turn."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

__all__ = ["Companies", "Member"]


class Member:
    """See :class:`ispd.flashing.chain_bench.Company`."""

    def __init__(self, turns: anyio.Lock) -> None:
        self.has_others = False
        self._turns = turns

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until nobody else restarts a board."""
        async with self._turns:
            yield


class Companies:
    """Which units of the station are on their way."""

    def __init__(self) -> None:
        self._members: set[Member] = set()
        self._turns = anyio.Lock()

    @contextmanager
    def joined(self) -> Iterator[Member]:
        """Give a unit its membership for as long as it is on its way."""
        member = Member(self._turns)
        self._members.add(member)
        if len(self._members) > 1:
            for one in self._members:
                one.has_others = True
        try:
            yield member
        finally:
            self._members.remove(member)

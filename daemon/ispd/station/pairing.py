"""Which USB port belongs to a slot: hold its board in reset through the programmer, and see which port goes quiet."""

from collections.abc import Collection, Mapping

import anyio

from ispd.errors import ErrorCode, JobError
from ispd.programmers.contract import IspProgrammer
from ispd.station.board_port import UsbTree
from ispd.transport.clock import Clock
from ispd.transport.contract import UsbIdentity

__all__ = ["learn_port"]

QUIET_DEADLINE_S = 3.0
"""A board in reset is off the bus at once; a hub tells of it within a fraction of a second."""
RETURN_DEADLINE_S = 10.0
SETTLE_S = 0.5
"""After the first port went quiet: another one that did so for its own reasons shows itself, too."""
_ROUNDS = 2


async def learn_port(programmer: IspProgrammer, tree: UsbTree, clock: Clock, ignored: Collection[str]) -> str:
    """Return the topology path of the port that goes quiet while the board is held in reset, and comes back after it, twice.

    :param ignored: places that cannot be it: programmers, and boards that other slots are working on.
    Raises ``JobError`` (not-paired) telling what was seen. Reset is released whatever happens.
    """
    before = dict(tree.present)
    found: set[str] = set(before) - set(ignored)
    for _ in range(_ROUNDS):
        found &= await _one_round(programmer, tree, clock, found)
    match sorted(found):
        case [path]:
            return path
        case []:
            raise _nothing(before)
        case several:
            raise JobError(
                ErrorCode.NOT_PAIRED,
                f"{len(several)} USB ports went quiet with this board: {', '.join(several)}",
                hint="let nothing else on this machine be plugged or flashed meanwhile, and learn again",
            )


async def _one_round(programmer: IspProgrammer, tree: UsbTree, clock: Clock, candidates: set[str]) -> set[str]:
    there = candidates & set(tree.present)
    try:
        await programmer.enter(None, None)
        with anyio.move_on_after(QUIET_DEADLINE_S):
            while there <= set(tree.present):
                await tree.changed.wait()  # nothing was awaited since they were looked up
            await clock.sleep(SETTLE_S)
        gone = there - set(tree.present)
    finally:
        with anyio.CancelScope(shield=True):
            await programmer.leave()
    with anyio.move_on_after(RETURN_DEADLINE_S):
        while not gone <= set(tree.present):
            await tree.changed.wait()  # as above
    return gone & set(tree.present)


def _nothing(before: Mapping[str, UsbIdentity]) -> JobError:
    seen = ", ".join(f"{usb} on {path}" for path, usb in sorted(before.items())) or "nothing"
    return JobError(
        ErrorCode.NOT_PAIRED,
        f"no USB port went quiet while the board was held in reset, and came back after it; on USB there was {seen}",
        hint="put a board with a working bootloader or firmware on the slot, its own USB cable plugged in, and learn again",
    )

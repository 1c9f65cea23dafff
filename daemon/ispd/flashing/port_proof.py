"""Is the board on a slot's USB port the one on the slot's programmer? Boards in one bootloader look alike, and cables get exchanged.

The programmer resets its board: who is on the port has to leave it. A chip with USB of its own does so at once; where the pull-up
resistor is fixed (a Bluepill, boards with V-USB) the next program drops off the bus for a moment when it starts.
"""

from collections.abc import Awaitable, Callable

from ispd.flashing import chain_faults as faults
from ispd.flashing.desk import LISTED_FOR_S, BoardPort, has_left, is_same
from ispd.flashing.interface import TargetInterface
from ispd.flashing.reset_gate import ResetGate
from ispd.transport.contract import UsbDeviceAt

__all__ = ["prove_port"]

HELD_S = 0.5
"""Who leaves the bus when it is held has done so by then; where a hub tells later, that is not too late."""
_TRIES = 5


async def prove_port(
    target: TargetInterface, port: BoardPort, gate: ResetGate, until_there: Callable[[], Awaitable[UsbDeviceAt]]
) -> UsbDeviceAt:
    """Restart the slot's board and return it as it is on the port afterwards.

    :param until_there: waits for the board, before and after, and raises where it does not come.

    Raises ``TargetError`` (board-unexpected) where another board is on the port, and what concerns the programmer.
    """
    for _ in range(_TRIES):
        await until_there()  # while others may prove theirs
        async with gate.proving():
            met = await port.look()
            if met is None:
                continue
            async with target.held():
                is_gone = await has_left(port, met, HELD_S)
            if not is_gone and not await has_left(port, met, LISTED_FOR_S):
                raise faults.never_in_reset(met)
        there = await until_there()
        if not is_same(there, met):
            return there
    raise faults.restless(port.path)

"""Turns of the tools that take whatever board they find first: one unit at a time, and only while its board is the only one."""

from collections import defaultdict

import anyio

from ispd.chain.contract import ChainTool
from ispd.errors import ErrorCode, TargetError
from ispd.model.bootloader import Bootloader
from ispd.station.board_port import UsbTree

__all__ = ["StationTurns"]

ALONE_DEADLINE_S = 60.0


class StationTurns:
    """See :class:`ispd.flashing.chained.ToolTurns`."""

    def __init__(self, tree: UsbTree) -> None:
        self._tree = tree
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def take(self, tool: ChainTool) -> None:
        """Wait for the turn of this task; turns come in the order of asking."""
        await self._locks[tool.name].acquire()

    def give(self, tool: ChainTool) -> None:
        """End the turn of this task."""
        self._locks[tool.name].release()

    async def wait_until_alone(self, bootloader: Bootloader, path: str) -> None:
        """Wait until no other board is in this bootloader; raises ``TargetError`` (tool-failed) after a minute."""
        with anyio.move_on_after(ALONE_DEADLINE_S):
            while self._others(bootloader, path):
                await self._tree.changed.wait()  # nothing was awaited since the others were counted
        others = self._others(bootloader, path)
        if others:
            raise TargetError(
                ErrorCode.TOOL_FAILED,
                f"another board in {bootloader.title} is on USB port {', '.join(others)}; its tool would take either",
                hint="unplug that board, or let it be flashed first",
            )

    def _others(self, bootloader: Bootloader, path: str) -> list[str]:
        return sorted(
            place for place, usb in self._tree.present.items() if place != path and str(usb) in bootloader.usb
        )

"""What all slots of a station share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.chain.contract import ChainTool
from ispd.flashing.chain_bench import ToolTurns
from ispd.flashing.reset_gate import ResetGate
from ispd.station.board_port import UsbTree
from ispd.station.events import EventHub
from ispd.station.journal import Journal
from ispd.station.queue import JobQueue
from ispd.transport.clock import Clock, timestamp
from ispd.transport.contract import Hardware

__all__ = ["LISTING_S", "Floor"]

LISTING_S = 2.0
"""After a start: jobs taken up again wait so long for the ports to be listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What all slots of a station share: what it knows, its records, and the machine with all that is on its USB."""

    parts: Parts
    bootloaders: Bootloaders
    tools: Sequence[ChainTool]
    hardware: Hardware
    tree: UsbTree
    turns: ToolTurns
    gate: ResetGate
    queue: JobQueue
    journal: Journal
    events: EventHub
    clock: Clock
    is_stopping: Callable[[], bool]

    def now(self) -> str:
        """Return the wall time as records hold it."""
        return timestamp(self.clock)

    async def wait_for_change(self) -> None:
        """Wait until the queue, a slot or the daemon's life changed; call right after looking at them."""
        if not self.is_stopping():
            await self.queue.changed.wait()

"""What the journal keeps about slots beside their units: where their boards appear, and how fast each way is there."""

from collections.abc import Callable
from typing import TypeVar

from ispd.flashing.pace import IspPace, SlotPace, UsbPace
from ispd.station.journal_file import JournalFile
from ispd.station.worker import Worker

__all__ = ["SlotMemory"]

T = TypeVar("T")

_ISP, _USB = "isp", "usb"


class SlotMemory:
    """Every method raises ``IspdError`` with ``journal-failed`` where the disk fails."""

    def __init__(self, file: JournalFile, worker: Worker) -> None:
        self._file = file
        self._worker = worker

    async def pairings(self) -> dict[str, str]:
        """Return the topology path that was learnt for each slot, by its name."""
        found = await self._worker.run(lambda: self._file.query("SELECT slot, path FROM pairing"))
        return {row["slot"]: row["path"] for row in found}

    async def pair(self, slot: str, path: str) -> None:
        """Keep where a slot's boards appear; another slot that had this port loses it."""
        await self._commit(lambda: self._file.replace("pairing", {"slot": slot, "path": path}))

    async def pace(self, slot: str, part: str) -> SlotPace:
        """Return what was measured on a slot with a part."""
        sql = "SELECT * FROM pace WHERE slot = :slot AND part = :part"
        found = await self._worker.run(lambda: self._file.query(sql, {"slot": slot, "part": part}))
        by_way = {row["way"]: row for row in found}
        isp, usb = by_way.get(_ISP), by_way.get(_USB)
        return SlotPace(
            isp=None if isp is None else IspPace(isp["byte_s"]),
            usb=None if usb is None else UsbPace(usb["fixed_s"], usb["byte_s"]),
        )

    async def remember_pace(self, slot: str, part: str, measured: IspPace | UsbPace) -> None:
        """Keep what a board that passed showed, in the place of what was known."""
        match measured:
            case IspPace(byte_s):
                row = {"way": _ISP, "fixed_s": 0.0, "byte_s": byte_s}
            case UsbPace(fixed_s, byte_s):
                row = {"way": _USB, "fixed_s": fixed_s, "byte_s": byte_s}
        await self._commit(lambda: self._file.replace("pace", {"slot": slot, "part": part, **row}))

    async def _commit(self, change: Callable[[], T]) -> T:
        def run() -> T:
            with self._file.transaction():
                return change()

        return await self._worker.run(run)

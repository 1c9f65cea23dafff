"""The USB ports where boards appear, and everything else on the machine's USB, as the system has told of it.

A device counts from the moment it was told of: by then its node has its owner and mode. What it is, and its address, is
looked up at the moment of use.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ispd.station.pulse import Pulse
from ispd.transport.contract import Hardware, PortChange, PortEvent, UsbDeviceAt, UsbIdentity

__all__ = ["SlotPort", "UsbTree"]


@dataclass(slots=True)
class _Seat:
    """Who is at a place: a USB device, with its ttys once those were told of too."""

    usb: UsbIdentity
    nodes: set[str] = field(default_factory=set)


class UsbTree:
    """Who is on which USB port of the machine. ``changed`` fires with each change."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._seats: dict[str, _Seat] = {}
        self._changes: Counter[str] = Counter()
        self._departures: Counter[str] = Counter()
        self.changed = Pulse()

    def note(self, event: PortEvent) -> None:
        """Take note of a device that came or went."""
        seat = self._seats.get(event.place)
        if event.change is PortChange.ADDED:
            if seat is None or _ids(seat.usb) != _ids(event.usb):
                seat = self._seats[event.place] = _Seat(event.usb)
            seat.nodes.add(event.port)
        elif seat is not None:
            seat.nodes.discard(event.port)
            if not seat.nodes:
                del self._seats[event.place]
                self._departures[event.place] += 1
        self._changes[event.place] += 1
        self.changed.fire()

    @property
    def present(self) -> Mapping[str, UsbIdentity]:
        """Every device by its topology path."""
        return {path: seat.usb for path, seat in self._seats.items()}

    def at(self, path: str) -> UsbIdentity | None:
        """Return who is at a place, None where nobody is."""
        seat = self._seats.get(path)
        return None if seat is None else seat.usb

    def paths_of(self, node: str) -> Iterator[str]:
        """Yield the place of a device node: at most one."""
        return (path for path, seat in self._seats.items() if node in seat.nodes)

    def changes(self, path: str) -> int:
        """Return how many changes were told of a place."""
        return self._changes[path]

    @property
    def departures(self) -> Mapping[str, int]:
        """How often each place was left by who was there, at this moment."""
        return dict(self._departures)

    async def wait_for_change(self, path: str, since: int) -> None:
        """Return once more than ``since`` changes were told of a place."""
        while self._changes[path] <= since:
            await self.changed.wait()  # nothing was awaited since the count was read

    async def look(self, path: str) -> UsbDeviceAt | None:
        """Return who is at a place at this moment and was told of; its tty, too, only where that was."""
        device = await self._hardware.device_at(path)
        seat = self._seats.get(path)  # after looking: what was told meanwhile counts
        if device is None or seat is None or _ids(seat.usb) != _ids(device.usb):
            return None
        return device if device.tty in seat.nodes else replace(device, tty=None)


def _ids(usb: UsbIdentity) -> tuple[int, int]:
    return usb.vendor_id, usb.product_id


class SlotPort:
    """The port of one slot's board; see :class:`ispd.flashing.desk.BoardPort`."""

    def __init__(self, tree: UsbTree, path: str) -> None:
        self._tree = tree
        self._path = path

    @property
    def path(self) -> str:
        """Its topology path."""
        return self._path

    @property
    def changes(self) -> int:
        """How many changes were told of it."""
        return self._tree.changes(self._path)

    async def wait_for_change(self, since: int) -> None:
        """Return once more than ``since`` changes were told."""
        await self._tree.wait_for_change(self._path, since)

    async def look(self) -> UsbDeviceAt | None:
        """Return who is there now and may be used."""
        return await self._tree.look(self._path)

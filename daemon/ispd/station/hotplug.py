"""Slots by USB topology path: which port event belongs to which slot, and when a slot comes into being."""

from collections.abc import Iterable, Mapping

from ispd.programmers.contract import Driver
from ispd.programmers.registry import claimant
from ispd.station.spec import SlotSpec
from ispd.transport.contract import PortEvent

__all__ = ["spec_for"]


def spec_for(event: PortEvent, known: Iterable[SlotSpec], drivers: Mapping[str, Driver]) -> SlotSpec | None:
    """Return the slot a port event concerns, a new one where a driver claims the device, None where nobody wants it.

    A slot that names the device node itself keeps it: no second slot is made for the same port.
    """
    claiming = claimant(drivers, event.kind, event.usb)
    for spec in known:
        if spec.path == event.path:
            wanted = claiming if spec.programmer is None else drivers.get(spec.programmer)
            return spec if wanted is not None and wanted.port_kind is event.kind else None
        if spec.port is not None and spec.port == event.port:
            return None
    return None if claiming is None else SlotSpec(name=event.path, path=event.path)

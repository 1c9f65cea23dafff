"""Slots by USB topology path: which port event belongs to which slot, and when a slot comes into being."""

from collections.abc import Iterable, Mapping

from ispd.programmers.contract import Driver
from ispd.station.spec import SlotSpec
from ispd.transport.contract import PortEvent

__all__ = ["spec_for"]


def spec_for(event: PortEvent, known: Iterable[SlotSpec], drivers: Mapping[str, Driver]) -> SlotSpec | None:
    """Return the slot a port event concerns, a new one where a driver claims the device, None where nobody wants it.

    A slot that names the device node itself keeps it: no second slot is made for the same port.
    """
    for spec in known:
        if spec.path == event.path:
            return spec
        if spec.port is not None and spec.port == event.port:
            return None
    if any(driver.claims(event.usb) for driver in drivers.values()):
        return SlotSpec(name=event.path, path=event.path)
    return None

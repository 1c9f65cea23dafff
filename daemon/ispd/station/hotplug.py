"""What a port event means for which slot. Pure rules; a slot is a place in the USB tree, never a serial number or a node.

In this order:

1. A device at a slot's ``target_usb`` path is that slot's *board*, whatever it claims to be: a keyboard that runs
   USBaspLoader shows the ids and texts of a USBasp.
2. A device that a driver claims is a *programmer*, on a slot of its path or on a new one. Whether a claimed device is a
   loader after all (USBaspLoader, Optiboot) cannot be seen from here: the driver's ``open`` finds out.
3. A device with a bootloader's ids, on a slot's path, is that slot's programmer fallen into its *bootloader*: a Pro Micro in
   Caterina looks exactly like a board that waits for its firmware. Nothing is ever sent to it. This goes before what the
   configuration says, which can only mean the programmer's usual self.
4. A slot whose configuration names its programmer takes any other device of that kind of port at its path: clones and bare
   converters are only ever used where somebody asked for it.
5. Everything else is a *stranger*.

A slot that names a device node keeps it: only rule 3 concerns it, and no second slot is made for the same node.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ispd.catalog.bootloaders import Bootloaders
from ispd.programmers.registry import Driver, claimant
from ispd.station.spec import SlotSpec
from ispd.transport.contract import PortEvent

__all__ = ["Meaning", "Role", "meaning_of", "own_bootloaders"]

_PROGRAMMER_FAMILIES = frozenset({"caterina", "flip", "halfkay", "lufa-hid"})
"""Bootloaders of boards that serve as programmers: ATmega32U4 boards, an Uno's 16U2, Teensy 2.0. USBaspLoader and
BootloadHID are left out: their ids are shared with programmers and with all kinds of HID devices."""


class Role(StrEnum):
    """What a device is to the station."""

    PROGRAMMER = "programmer"
    BOOTLOADER = "bootloader"
    """A slot's programmer, which runs its own bootloader."""
    BOARD = "board"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What came, and the slot it concerns: one of the known ones or, for a programmer, a new one. None for a stranger."""

    role: Role
    spec: SlotSpec | None = None


_STRANGER = Meaning(Role.STRANGER)


def own_bootloaders(bootloaders: Bootloaders) -> Mapping[str, str]:
    """Return what a programmer that fell into its own bootloader shows: USB ids (``1B4F:9205``) and the bootloader's title.

    Of several with one id the first counts, for an Uno the factory's.
    """
    found: dict[str, str] = {}
    for one in bootloaders:
        for usb in one.usb if one.family in _PROGRAMMER_FAMILIES else ():
            found.setdefault(usb, one.title)
    return MappingProxyType(found)


def meaning_of(
    event: PortEvent, known: Iterable[SlotSpec], drivers: Mapping[str, Driver], loaders: Mapping[str, str]
) -> Meaning:
    """Return what a device that came means.

    :param known: all slots there are.
    :param loaders: see :func:`own_bootloaders`.
    """
    specs = tuple(known)
    for spec in specs:
        if spec.target_usb == event.place:
            return Meaning(Role.BOARD, spec)
    claiming = claimant(drivers, event.kind, event.usb)
    is_loader = claiming is None and str(event.usb) in loaders
    for spec in specs:
        if spec.path == event.path:
            return _on_path(spec, event, drivers, claiming, is_loader=is_loader)
        if spec.port is not None and spec.port == event.port:
            return Meaning(Role.BOOTLOADER, spec) if is_loader else _STRANGER
    return _STRANGER if claiming is None else Meaning(Role.PROGRAMMER, SlotSpec(name=event.path, path=event.path))


def _on_path(
    spec: SlotSpec, event: PortEvent, drivers: Mapping[str, Driver], claiming: Driver | None, *, is_loader: bool
) -> Meaning:
    if is_loader:
        return Meaning(Role.BOOTLOADER, spec)
    wanted = claiming if spec.programmer is None else drivers.get(spec.programmer)
    is_ours = wanted is not None and wanted.port_kind is event.kind
    return Meaning(Role.PROGRAMMER, spec) if is_ours else _STRANGER

"""A USBasp on the virtual bench, and what its tests count."""

import anyio
from tests.unit.programmers.usb_rig import Rig

from ispd.catalog.parts import load_parts
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.usbasp import DRIVER
from ispd.wire import avr_isp
from vbench.faults import Fault
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware

__all__ = [
    "ASK",
    "CONNECT",
    "DISCONNECT",
    "ENABLE",
    "FACTORY",
    "FAST_CLOCK",
    "ONE_MHZ",
    "PARTS",
    "READ_FLASH",
    "SET_ADDRESS",
    "SET_SCK",
    "TRANSMIT",
    "WRITE_FLASH",
    "Firmware",
    "counts",
    "erase",
    "pages_of",
    "rig",
]

CONNECT, DISCONNECT, TRANSMIT, READ_FLASH, ENABLE, WRITE_FLASH, SET_ADDRESS, SET_SCK, ASK = 1, 2, 3, 4, 5, 6, 9, 10, 127
FAST_CLOCK = {MemoryKind.LFUSE: 0xFF}
FACTORY: dict[MemoryKind, int] = {}
ONE_MHZ = {MemoryKind.LFUSE: 0x52}
"""8 MHz oscillator divided by 8, on ATmega32U4."""
Firmware = UsbAspFirmware
PARTS = load_parts()


def rig(
    name: str = "atmega32u4",
    *faults: Fault,
    firmware: UsbAspFirmware = Firmware.STOCK_2011,
    fuses: dict[MemoryKind, int] = FAST_CLOCK,
    slow_jumper: bool = False,
) -> Rig:
    target = AvrTarget(PARTS.avr(name), fuses=fuses, faults=faults)
    return Rig(DRIVER, UsbAsp(firmware, target=target, slow_jumper=slow_jumper), target)


async def erase(programmer: IspProgrammer, part: AvrPart) -> None:
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(part.times.erase_s)


def pages_of(part: AvrPart, data: bytes, start: int = 0) -> list[Segment]:
    size = part.flash.page_bytes
    return [Segment(start + at, data[at : at + size]) for at in range(0, len(data), size)]


def counts(place: Rig, *requests: int) -> list[int]:
    """Return how often each request was begun."""
    return [sum(transfer.request == one for transfer in place.log) for one in requests]

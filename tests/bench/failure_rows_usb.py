"""Rows of ``test_failure_hints`` about USBasp, USBtinyISP and Bus Pirate: what only they can do wrong, or must not."""

from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.failure_rows import PARTS, Row, board, flash

from ispd.errors import ErrorCode
from ispd.model.part import MemoryKind
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.faults import (
    EchoOnly,
    MosiMisoShort,
    ReadFlips,
    SckCeiling,
    ShortReply,
    Silent,
    StalledTransfer,
    SwappedWires,
)
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny
from vbench.violation import ViolationKind

__all__ = ["USB_ROWS"]

LFUSE = MemoryKind.LFUSE
FACTORY_FRESH = "atmega328p"
"""Runs at 1 MHz as it comes from the factory."""


def in_menu(target: AvrTarget | None) -> BusPirate:
    """A Bus Pirate that somebody left in the middle of its menus."""
    pirate = BusPirate(target=target)
    pirate.opened(0.0, baud=115200)
    pirate.feed(b"m\n5\n", 0.0)
    return pirate


IMPATIENT: dict[str, frozenset[ViolationKind]] = {
    "usbasp": frozenset({ViolationKind.ENTRY_TOO_EARLY}),
    "usbtiny": frozenset(),
    "buspirate": frozenset(),
}
"""What the programmer's own firmware does: USBasp pulses reset before each of its 32 tries and does not wait."""

MakeProgrammer = Callable[[AvrTarget | None], EmulatedSerial | EmulatedUsb]
KINDS: dict[str, MakeProgrammer] = {
    "usbasp": lambda target: UsbAsp(target=target),
    "usbtiny": lambda target: UsbTiny(target=target),
    "buspirate": lambda target: BusPirate(target=target),
}


def common_rows(kind: str, make: MakeProgrammer) -> Iterator[Row]:
    """The same wires give the same answers, whatever the programmer."""
    for name, fault, code, says in (
        (
            "echo missing, line low",
            Silent(level=0x00),
            ErrorCode.TARGET_NOT_RESPONDING,
            ("check the RESET wire first", "slower SCK"),
        ),
        (
            "echo missing, line high",
            SwappedWires(0xFF),
            ErrorCode.TARGET_NOT_RESPONDING,
            ("check VCC, GND and MISO", "MOSI and MISO are not swapped"),
        ),
        ("MOSI and MISO touch", MosiMisoShort(), ErrorCode.TARGET_NOT_RESPONDING, ("check MOSI and MISO",)),
        ("only an echo", EchoOnly(), ErrorCode.TARGET_LOCKED, ("a chip erase unlocks",)),
        (
            "reads at the limit",
            ReadFlips(rate=0.1),
            ErrorCode.VERIFY_MISMATCH,
            ("scattered bytes differ: use a slower",),
        ),
        ("wires too long for fast SCK", SckCeiling(100e3), None, ()),
    ):
        yield Row(
            name=f"{kind}: {name}",
            kind=kind,
            programmer=make,
            target=partial(board, "atmega32u4", fault),
            code=code,
            says=says,
            may_break=IMPATIENT[kind],
        )
    yield Row(name=f"{kind}: a part at 1 MHz", kind=kind, programmer=make, target=partial(board, FACTORY_FRESH))
    yield Row(
        name=f"{kind}: a part at 128 kHz",
        kind=kind,
        programmer=make,
        target=partial(board, FACTORY_FRESH, fuses={LFUSE: 0xE3}),
        recipe=flash(bytes(range(16))),
        may_break=IMPATIENT[kind],
    )
    yield Row(
        name=f"{kind}: a new clock is used after a new entry",
        kind=kind,
        programmer=make,
        target=partial(board, FACTORY_FRESH),
        recipe=flash(fuses={LFUSE: 0xE2}),
        steps=("write lfuse", "enter with new clock"),
        faster_than_hz=200_000,
    )


USB_ROWS = [
    *(row for kind, make in KINDS.items() for row in common_rows(kind, make)),
    # USBasp
    Row(
        name="usbasp: cannot set SCK, fast enough a part",
        kind="usbasp",
        programmer=lambda target: UsbAsp(UsbAspFirmware.STOCK_2007, target=target),
    ),
    Row(
        name="usbasp: cannot set SCK, a part at 1 MHz",
        kind="usbasp",
        programmer=lambda target: UsbAsp(UsbAspFirmware.STOCK_2007, target=target),
        target=lambda: board(FACTORY_FRESH),
        code=ErrorCode.SIGNATURE_UNKNOWN,
        says=(
            "SCK is fixed at 375 kHz here: a part that runs at 1.5 MHz or less needs the slow-SCK jumper (USBasp: J3)",
        ),
    ),
    Row(
        name="usbasp: cannot set SCK, jumper closed",
        kind="usbasp",
        programmer=lambda target: UsbAsp(UsbAspFirmware.STOCK_2007, target=target, slow_jumper=True),
        target=lambda: board(FACTORY_FRESH),
    ),
    Row(
        name="usbasp: texts differ, and the slot is configured",
        kind="usbasp",
        programmer=lambda target: UsbAsp(target=target, manufacturer="", product="USBasp clone"),
    ),
    Row(
        name="usbasp: something else with its ids",
        kind="usbasp",
        programmer=lambda target: UsbAsp(
            target=target, product="LED Ring", faults=[StalledTransfer(index) for index in range(100)]
        ),
        code=ErrorCode.PROGRAMMER_SILENT,
        says=("does not answer as a USBasp", "16C0:05DC is shared by many devices"),
    ),
    Row(
        name="usbasp: a keyboard in USBaspLoader",
        kind="usbasp",
        programmer=lambda _target: UsbAspLoader(PARTS.avr("atmega32a")),
        target=lambda: None,
        code=ErrorCode.PROGRAMMER_IS_BOOTLOADER,
        says=("a board in its USBaspLoader bootloader", "nothing was written", "unplug it, or reset it"),
    ),
    # USBtinyISP
    Row(
        name="usbtiny: short reads",
        kind="usbtiny",
        programmer=lambda target: UsbTiny(target=target, faults=[ShortReply(index) for index in range(60, 70)]),
        code=ErrorCode.PROTOCOL_REMOTE,
        says=("the programmer forgot where it was: flash the board again",),
    ),
    # Bus Pirate
    Row(name="buspirate: answers text, left in a menu", kind="buspirate", programmer=in_menu),
    Row(
        name="buspirate: inverted clock edge",
        kind="buspirate",
        programmer=lambda target: BusPirate(BusPirateHardware.V3, "7.1-2018", target=target),
    ),
    Row(
        name="buspirate: another kind of programmer",
        kind="buspirate",
        programmer=lambda target: SerialProgrammer(Flavour.LEONARDO, target=target),
        code=ErrorCode.PROGRAMMER_SILENT,
        says=("Bus Pirate",),
    ),
    Row(
        name="stk500v1: a Bus Pirate",
        programmer=lambda target: BusPirate(target=target),
        code=ErrorCode.PROGRAMMER_SILENT,
        says=("nothing on /bench/A1 answers as an ISP programmer", "ArduinoISP sketch"),
    ),
]

"""What the contract of ISP programmers is tried on: one row for each driver on each kind of programmer it is for.

Adding a programmer is adding a row: its driver, a function that builds its emulation around a target, and what the driver
must say about it. Every test of this package then runs on it, on each bed that a programmer of its kind can stand on.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ispd.programmers import buspirate, stk500v1, usbasp, usbtiny
from ispd.programmers.contract import IspDriver
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.usbtiny import UsbTiny

__all__ = ["ROWS", "Board", "Row"]

Board = EmulatedSerial | EmulatedUsb
FAST_BAUD = 1_000_000
"""A rate at which the line is no limit, to keep real time short."""

_SHORT_LATENCY_S = 1e-3
"""What the transport asks an FTDI chip for."""


def _no_complaint(_board: Board) -> None:
    """Find nothing wrong: emulations without a memory of what was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A driver and a programmer for it.

    :param build: makes the programmer, with a target on its header.
    :param firmware: a part of what the opened programmer must say about itself.
    :param default_hz: SCK the driver must choose without a wish.
    :param wish_hz: SCK to ask for, as fast as a target at 16 MHz allows; ``sck_hz`` is what must be in use then.
    :param baud: rate of the port, None for USB devices.
    :param check: fails on what was lost inside the programmer.
    :param is_bridged: behind a USB to UART converter, whose identity tells nothing about it.
    :param is_quick: false for what would take too long in real time; it only runs on virtual time then.
    """

    driver: IspDriver
    build: Callable[[AvrTarget], Board]
    firmware: str
    default_hz: int
    wish_hz: int
    sck_hz: int
    baud: int | None = None
    check: Callable[[Board], None] = _no_complaint
    is_quick: bool = True
    is_bridged: bool = False


def _check_sketch(board: Board) -> None:
    assert isinstance(board, SerialProgrammer)
    assert board.mcu.lost == 0
    assert board.optiboot.writes == 0


def _sketch(flavour: Flavour, baud: int, *, is_quick: bool = True) -> Row:
    def build(target: AvrTarget) -> Board:
        return SerialProgrammer(flavour, baud=baud, target=target)

    return Row(
        driver=stk500v1.DRIVER,
        build=build,
        firmware="1.18",
        default_hz=125_000,
        wish_hz=125_000,
        sck_hz=125_000,
        baud=baud,
        check=_check_sketch,
        is_bridged=flavour.is_uart,
        is_quick=is_quick,
    )


def _usbasp(firmware: UsbAspFirmware, says: str, *, default_hz: int = 187_500, sck_hz: int = 1_500_000) -> Row:
    def build(target: AvrTarget) -> Board:
        return UsbAsp(firmware, target=target)

    return Row(
        driver=usbasp.DRIVER, build=build, firmware=says, default_hz=default_hz, wish_hz=2_666_666, sck_hz=sck_hz
    )


def _check_pirate(board: Board) -> None:
    assert isinstance(board, BusPirate)
    assert board.lost == 0


def _pirate(
    hardware: BusPirateHardware, firmware: str, says: str, *, sck_hz: int = 2_000_000, is_quick: bool = True
) -> Row:
    def build(target: AvrTarget) -> Board:
        return BusPirate(hardware, firmware, target=target, latency_s=_SHORT_LATENCY_S)

    return Row(
        driver=buspirate.DRIVER,
        build=build,
        firmware=says,
        default_hz=125_000,
        wish_hz=2_666_666,
        sck_hz=sck_hz,
        baud=115_200,
        check=_check_pirate,
        is_bridged=hardware is BusPirateHardware.V3,
        is_quick=is_quick,
    )


ROWS: dict[str, Row] = {
    "stk500v1 19200": _sketch(Flavour.UART, 19200, is_quick=False),
    "stk500v1 uart": _sketch(Flavour.UART, FAST_BAUD),
    "stk500v1 native": _sketch(Flavour.LEONARDO, FAST_BAUD),
    "usbtiny": Row(
        driver=usbtiny.DRIVER,
        build=lambda target: UsbTiny(target=target),
        firmware="USBtinyISP",
        default_hz=169_491,
        wish_hz=2_666_666,
        sck_hz=344_827,
    ),
    "usbasp 2005": _usbasp(UsbAspFirmware.STOCK_2005, "cannot set SCK", default_hz=375_000, sck_hz=375_000),
    "usbasp 2009": _usbasp(UsbAspFirmware.STOCK_2009, "2009"),
    "usbasp 2011": _usbasp(UsbAspFirmware.STOCK_2011, "2011"),
    "usbasp fork": _usbasp(UsbAspFirmware.DIOANNIDIS, "2011"),
    "buspirate v3 5.10": _pirate(BusPirateHardware.V3, "5.10", "v5.10 (r559) on hardware v3.5", is_quick=False),
    "buspirate v3 6.1": _pirate(BusPirateHardware.V3, "6.1", "v6.1 r1676 on hardware v3.5"),
    "buspirate v3 7.1": _pirate(
        BusPirateHardware.V3, "7.1-2018", "v7.1 on hardware v3.5", sck_hz=1_000_000, is_quick=False
    ),
    "buspirate v3 8.0": _pirate(BusPirateHardware.V3, "8.0", "v8.0 on hardware v3.5"),
    "buspirate v4": _pirate(BusPirateHardware.V4, "6.3-r2151", "v6.3-beta1 r2151 on hardware v4"),
}

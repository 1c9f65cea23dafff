"""A Bus Pirate v3 or v4 on its port: hardware, firmware, and the header for a board.

A v3 has a PIC24FJ64GA002 behind an FTDI chip: 115200 baud after power-up, four received bytes of room, no handshake. A
v4 is a USB device of its own that holds the host back. CS is the board's /RESET, AUX may be wired to its XTAL1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ispd.transport.contract import UsbIdentity
from vbench.bus_pirate_binary import BinaryMode
from vbench.bus_pirate_firmware import FIRMWARES
from vbench.bus_pirate_pins import Pins
from vbench.bus_pirate_spi import SpiMode
from vbench.bus_pirate_terminal import Terminal
from vbench.faults import ProgrammerFault
from vbench.isp_socket import IspSocket
from vbench.line import Line, PacketUplink, UartUplink, Uplink
from vbench.mcu import Mcu, Program
from vbench.serial_board import SerialBoard
from vbench.target import AvrTarget

__all__ = ["BusPirate", "BusPirateHardware", "BusPirateWiring"]

_BAUD = 115200
_BOOT_S = 50e-3
"""ESTIMATE: a counting loop of 65,536 turns before the UART is set up."""
_FIFO_BYTES = 4
"""Receive and transmit FIFO of the PIC24F UART."""
_FTDI_PACKET_BYTES = 62
"""A full-speed packet less two status bytes."""
_FTDI_LATENCY_S = 16e-3
"""What the chip's timer is set to unless the host asks for less."""
_CDC_FLUSH_S = 4e-3
"""``CDC_FLUSH_MS``: frames without a further byte after which a short packet leaves."""


class BusPirateHardware(StrEnum):
    """Which board it is."""

    V3 = "v3"
    V4 = "v4"


_USB = {
    BusPirateHardware.V3: UsbIdentity(
        vendor_id=0x0403, product_id=0x6001, manufacturer="FTDI", product="FT232R USB UART", serial="A6008isP"
    ),
    BusPirateHardware.V4: UsbIdentity(
        vendor_id=0x04D8, product_id=0xFB00, manufacturer="Dangerous Prototypes", product="Bus Pirate v4"
    ),
}

_USUAL = {BusPirateHardware.V3: "6.1", BusPirateHardware.V4: "6.3-r2151"}


@dataclass(frozen=True, slots=True)
class _FtdiLine:
    """A :class:`Line` over an FTDI chip to the PIC's UART."""

    latency_s: float
    is_uart: bool = True
    is_bridged: bool = True
    receive_bytes: float = _FIFO_BYTES
    latches_overrun: bool = True

    def uplink(self, baud: int) -> Uplink:
        return UartUplink(
            baud,
            buffer_bytes=_FIFO_BYTES,
            tick_s=self.latency_s,
            batch_bytes=_FTDI_PACKET_BYTES,
            flushable=True,
        )


@dataclass(frozen=True, slots=True)
class _CdcLine:
    """A :class:`Line` of the PIC's own USB unit."""

    is_uart: bool = False
    is_bridged: bool = False
    receive_bytes: float = math.inf
    latches_overrun: bool = False

    def uplink(self, baud: int) -> Uplink:  # noqa: ARG002 (a rate without a meaning here)
        return PacketUplink(_CDC_FLUSH_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusPirateWiring:
    """How the board on the header is connected.

    :param own_supply: it has a supply of its own; else it gets one when the host switches it on.
    :param aux_on_xtal1: AUX is wired to its clock input.
    """

    own_supply: bool = False
    aux_on_xtal1: bool = True


_CABLE = BusPirateWiring()


class BusPirate(SerialBoard):
    """A Bus Pirate, seen from the host's port. All times are bench seconds.

    :param firmware: a name of :data:`vbench.bus_pirate_firmware.FIRMWARES`, ``ValueError`` for any other; None for what
        most boards of that hardware have.
    :param target: board on the header, or None.
    :param wiring: how it is connected.
    :param latency_s: the FTDI chip's latency timer; the operating system can set it down to 1 ms.
    :param booted: it was on long before the bench starts; otherwise it boots at time 0.
    """

    def __init__(
        self,
        hardware: BusPirateHardware = BusPirateHardware.V3,
        firmware: str | None = None,
        *,
        target: AvrTarget | None = None,
        wiring: BusPirateWiring = _CABLE,
        latency_s: float = _FTDI_LATENCY_S,
        booted: bool = True,
        faults: Sequence[ProgrammerFault] = (),
    ) -> None:
        if firmware is None:
            firmware = _USUAL[hardware]
        if firmware not in FIRMWARES:
            raise ValueError(f"unknown Bus Pirate firmware {firmware}; known are {', '.join(FIRMWARES)}")
        self.hardware = hardware
        self.firmware = FIRMWARES[firmware]
        line: Line = _FtdiLine(latency_s) if hardware is BusPirateHardware.V3 else _CdcLine()
        super().__init__(
            line,
            usb=_USB[hardware],
            baud=_BAUD,
            socket=IspSocket(target, own_supply=wiring.own_supply),
            faults=faults,
        )
        self._wiring = wiring
        self._booted = booted
        self.pins = self._new_pins()
        self.power_on(0.0)
        self._booted = False

    def _supply(self, at: float) -> None:
        """A plugged Bus Pirate gives the board nothing yet."""

    def power_off(self, at: float) -> None:
        """Unplug it; the clock on AUX goes too."""
        super().power_off(at)
        self.socket.feed_clock(None)

    def _new_pins(self) -> Pins:
        return Pins(self.mcu, self.socket, aux_on_xtal1=self._wiring.aux_on_xtal1)

    def _firmware(self, mcu: Mcu) -> Program:
        return self._run_firmware(mcu, booted=self._booted)

    def _run_firmware(self, mcu: Mcu, *, booted: bool) -> Program:
        is_v4 = self.hardware is BusPirateHardware.V4
        while True:
            self.pins = pins = self._new_pins()
            pins.stop_clock()
            pins.release()
            spi = SpiMode(mcu, pins, self.firmware, is_v4=is_v4)
            stays = is_v4 and not self.firmware.v4_leaves_binary
            terminal = Terminal(mcu, BinaryMode(mcu, pins, spi, never_leaves=stays), self.firmware, is_v4=is_v4)
            if not booted and not is_v4:  # a v4 is no port before its firmware runs, and begins without a banner
                yield from mcu.delay(_BOOT_S)
            mcu.begin(_BAUD)
            if not booted and not is_v4:
                mcu.write(*b"\r\n")
                yield from terminal.banner()
            booted = False
            yield from terminal.main()

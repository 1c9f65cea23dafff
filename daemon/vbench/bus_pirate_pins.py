"""The Bus Pirate's pins as its firmware switches them: supplies, pull-ups, CS on the board's /RESET, a clock on AUX, SPI."""

from vbench.bus_pirate_firmware import Firmware
from vbench.isp_socket import IspSocket
from vbench.mcu import Mcu

__all__ = ["Pins"]

_FCY_HZ = 16e6
"""Instruction clock of the PIC24: what its timers and its SPI unit count."""
_PWM_PRESCALERS = (1, 8, 64, 256)
_OPEN_MISO = 0xFF
_SPI_BYTE_OVERHEAD_S = 2.5e-6
"""CPU time around each SPI byte; a flash byte read by 06 takes 32 SCK periods and some 10 us."""


class Pins:
    """State of the pins; one instance lives from a reset to the next.

    The SPI unit knows two ways of clocking: data valid at the rising edge, which the target wants, and one bit too late.
    """

    def __init__(self, mcu: Mcu, socket: IspSocket, *, aux_on_xtal1: bool) -> None:
        self._mcu = mcu
        self._socket = socket
        self._aux_on_xtal1 = aux_on_xtal1
        self.power = False
        self.pull_ups = False
        self.aux = False
        self.open_drain = True
        self.sck_hz = 0.0
        self.clock_idle = 0
        self.clock_edge = 1
        self._carry = 0
        self._cs_is_input = True

    # -- supply, reset, clock --------------------------------------------------------------------------------------

    def release(self) -> None:
        """All pins inputs, supplies off: as after power-up, and between the modes of the binary interface."""
        self.set_cs(True)
        self._cs_is_input = True
        self.set_power(False)
        self.pull_ups = self.aux = False

    def set_power(self, on: bool) -> None:
        """Switch the 3.3 V and 5 V supplies."""
        self.power = on
        self._socket.supply(on, self._mcu.now)

    @property
    def cs_is_high(self) -> bool:
        """Whether the board's /RESET is released."""
        return not self._socket.reset_active

    def switch_cs(self, high: bool) -> None:
        """Carry out 02 and 03, which set a level and not the direction: 4x may have made CS an input."""
        if not self._cs_is_input:
            self.set_cs(high)

    def set_cs(self, high: bool) -> None:
        """Drive CS, or let the pull-up on the board's /RESET lift it, which is the same for the board."""
        if self._socket.reset_active == high:
            self._socket.set_reset(not high, self._mcu.now)

    def configure(self, bits: int) -> None:
        """Carry out 4x: w power, x pull-ups, y AUX, z CS."""
        self.set_power(bool(bits & 0x8))
        self.pull_ups = bool(bits & 0x4)
        self.aux = bool(bits & 0x2)
        self.set_cs(bool(bits & 0x1))
        self._cs_is_input = self.open_drain and bool(bits & 0x1)

    def start_clock(self, prescaler: int, duty: int, period: int) -> None:
        """Put a square wave on AUX; a duty of nothing or everything is no clock."""
        hz = _FCY_HZ / _PWM_PRESCALERS[prescaler] / (period + 1) if 0 < duty <= period else None
        self._feed(hz)

    def stop_clock(self) -> None:
        """Take the square wave off AUX."""
        self._feed(None)

    def _feed(self, hz: float | None) -> None:
        if self._aux_on_xtal1:
            self._socket.feed_clock(hz)

    # -- SPI -------------------------------------------------------------------------------------------------------

    def set_up_spi(self, sck_hz: float) -> None:
        """(Re)start the SPI unit, which drives CS high."""
        self.sck_hz = sck_hz
        self._carry = 0
        self.set_cs(True)
        self._cs_is_input = False

    def set_up_format(self, bits: int, firmware: Firmware) -> None:
        """Carry out 8x: w push-pull, x clock idle, y clock edge, z sample; the last one makes no difference here."""
        self.open_drain = not bits & 0x8
        self.clock_idle = bits >> 2 & 1
        self.clock_edge = bits >> 1 & 1 ^ firmware.inverts_edge

    @property
    def is_driven(self) -> bool:
        """Whether clock and data reach the target: open drain outputs need the pull-ups."""
        return not self.open_drain or self.pull_ups

    @property
    def _is_late(self) -> bool:
        """Whether data change on the edge at which the target samples (SPI modes 1 and 2)."""
        return self.clock_idle == self.clock_edge

    @property
    def byte_s(self) -> float:
        """How long a byte is on the wire."""
        return 8 / self.sck_hz

    @property
    def instruction_s(self) -> float:
        """How long four bytes take."""
        return 4 * (self.byte_s + _SPI_BYTE_OVERHEAD_S)

    def spi(self, byte: int) -> int:
        """Clock one byte, in CPU time."""
        mcu = self._mcu
        at, mcu.now = mcu.now, mcu.now + self.byte_s + _SPI_BYTE_OVERHEAD_S
        return self.clock(byte, at)

    def clock(self, byte: int, at: float) -> int:
        """Clock one byte beginning at ``at``, while the CPU does something else."""
        if not self.is_driven:
            return _OPEN_MISO
        if self._is_late:
            byte, self._carry = self._carry << 7 | byte >> 1, byte & 1
        return self._socket.clock(byte, at, self.sck_hz)

    def instruction(self, b1: int, b2: int, b3: int, b4: int) -> int:
        """Clock four bytes, in CPU time, and return the last reply."""
        if not self.is_driven or self._is_late:
            for byte in (b1, b2, b3):
                self.spi(byte)
            return self.spi(b4)
        mcu = self._mcu
        at, mcu.now = mcu.now, mcu.now + self.instruction_s
        return self._socket.instruction(b1, b2, b3, b4, at, self.sck_hz)

"""The Bus Pirate's binary interface (``BBIO1``), from which the SPI mode is entered.

Source: DangerousPrototypes/Bus_Pirate 2188001, binIO.c. The modes that cannot program an AVR (I2C, UART, 1-Wire, raw wire,
OpenOCD, PIC) behave as in a build without them: they return at once. The self tests are refused.
Pins can be switched one by one; a clock made that way (avrdude's ``buspirate_bb``) is not passed on to the target.
"""

from vbench.bus_pirate_pins import Pins
from vbench.bus_pirate_spi import SpiMode
from vbench.mcu import Mcu, Program

__all__ = ["BinaryMode"]

_OK, _REFUSED = 0x01, 0x00
_PINS = 0b11111
"""AUX, MOSI, CLK, MISO, CS."""
_CS = 0b00001
_ENTER_SPI = 0x01
_OTHER_MODES = (0x02, 0x03, 0x04, 0x05, 0x06, 0x07)
_TO_TERMINAL = 0x0F
_START_CLOCK, _STOP_CLOCK = 0x12, 0x13
_MEASURE_VOLTAGE, _MEASURE_FREQUENCY = 0x14, 0x16


class BinaryMode:
    """The loop that answers ``BBIO1``; :meth:`main` runs until the host asks for the terminal."""

    def __init__(self, mcu: Mcu, pins: Pins, spi: SpiMode, *, never_leaves: bool) -> None:
        self._mcu = mcu
        self._pins = pins
        self._spi = spi
        self._never_leaves = never_leaves
        self._inputs = _PINS
        self._levels = 0

    def main(self) -> Program:
        """Answer commands until 0F."""
        mcu = self._mcu
        self._reset()
        mcu.write(*b"BBIO1")
        while True:
            command = yield from mcu.getch()
            if command & 0x80:
                self._pins.set_power(bool(command & 0x40))
                self._pins.pull_ups = bool(command & 0x20)
                self._levels = command & _PINS
                mcu.write(self._read_pins(command))
            elif command == _TO_TERMINAL:
                mcu.write(_OK)
                mcu.drain()
                self._reset()
                if not self._never_leaves:
                    return
            else:
                yield from self._command(command)

    def _command(self, command: int) -> Program:
        mcu = self._mcu
        if command == 0x00:
            mcu.write(*b"BBIO1")
        elif command == _ENTER_SPI or command in _OTHER_MODES:
            self._reset()
            if command == _ENTER_SPI:
                yield from self._spi.main()
            self._reset()
            mcu.write(*b"BBIO1")
        elif command == _START_CLOCK:
            yield from self._start_clock()
        elif command == _STOP_CLOCK:
            self._pins.stop_clock()
            mcu.write(_OK)
        elif command == _MEASURE_VOLTAGE:
            mcu.write(0x00, 0x00)  # nothing is connected to the probe
        elif command == _MEASURE_FREQUENCY:
            yield from mcu.delay(1.0)
            mcu.write(0x00, 0x00, 0x00, 0x00)
        elif command & 0x40:
            self._inputs = command & _PINS
            mcu.write(self._read_pins(command))
        else:
            mcu.write(_REFUSED)

    def _start_clock(self) -> Program:
        getch = self._mcu.getch
        prescaler = (yield from getch()) & 0b11
        duty = (yield from getch()) << 8 | (yield from getch())
        period = (yield from getch()) << 8 | (yield from getch())
        self._pins.start_clock(prescaler, duty, period)
        self._mcu.write(_OK)

    def _reset(self) -> None:
        """All pins inputs and low, supplies off; a clock on AUX goes on."""
        self._inputs, self._levels = _PINS, 0
        self._pins.release()

    def _read_pins(self, command: int) -> int:
        """Apply levels and directions to CS, and return the command with its lower five bits as they read.

        An unconnected input reads 0; the board's pull-up on /RESET lifts CS.
        """
        self._pins.set_cs(bool((self._inputs | self._levels) & _CS))
        pulled_up = _CS if self._pins.power else 0
        return command & ~_PINS | self._levels & ~self._inputs & _PINS | self._inputs & pulled_up

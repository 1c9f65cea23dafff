"""ArduinoISP 1.18, the sketch that turns an Arduino into a programmer (arduino/arduino-examples, ArduinoISP.ino).

Also what QMK's "ISP flasher" images for Pro Micro and Teensy 2.0 run. Every trap of the sketch is kept: it never polls,
never checks the echo of Program Enable, doubles the EEPROM address, and loses framing where the original does.
"""

from collections.abc import Generator

from vbench.isp_socket import IspSocket
from vbench.mcu import Mcu, Program

__all__ = ["ArduinoIsp"]

_OK, _FAILED, _UNKNOWN, _INSYNC, _NOSYNC = 0x10, 0x11, 0x12, 0x14, 0x15
_EOP = 0x20
_BUFFER_BYTES = 256
_EEPROM_CHUNK_BYTES = 32
_COMMIT_DELAY_S = 30e-3
"""``PTIME``: LED flicker after each page commit."""
_EEPROM_DELAY_S = 45e-3
_BLINK_S = 30e-3
_BLINKS = 9
"""Three LEDs blink three times each in ``setup``."""
_SPI_DIVIDER = 128
"""1/6 MHz is asked for; the hardware takes the next slower divider."""
_SPI_BYTE_OVERHEAD_S = 3e-6
_PARAMETERS = {0x80: 2, 0x81: 1, 0x82: 18, 0x93: ord("S")}
"""Hardware version, major and minor version, programmer type "serial"; all others are 0."""
_ACTIVE_HIGH_FROM = 0xE0
"""Device codes from here on are AT89S parts, whose reset is active high."""


class ArduinoIsp:
    """The sketch's variables and functions; one instance lives from a reset to the next.

    ``error`` and ``pmode`` are what the error and programming LEDs show.
    """

    def __init__(self, mcu: Mcu, socket: IspSocket, *, baud: int, board_hz: float = 16e6) -> None:
        self.mcu = mcu
        self.socket = socket
        self.baud = baud
        self.sck_hz = board_hz / _SPI_DIVIDER
        self.error = 0
        self.pmode = False
        self.crashed = False
        """Whether the sketch is stuck for good: RAM overrun, or waiting for an SPI unit that is switched off."""
        self._spi_on = False
        self._spi_byte_s = 8 / self.sck_hz + _SPI_BYTE_OVERHEAD_S
        self._here = 0
        self._buffer = bytearray(_BUFFER_BYTES)
        self._page_bytes = 0
        self._eeprom_bytes = 0
        self._reset_active_high = False

    # -- setup and loop --------------------------------------------------------------------------------------------

    def main(self, *, booted: bool = False) -> Program:
        """Run ``setup`` and ``loop``; ``booted`` skips the blinking of a board that was on long ago."""
        mcu = self.mcu
        mcu.begin(self.baud)
        if not booted:
            yield from mcu.delay(_BLINKS * 2 * _BLINK_S)
        while not self.crashed:
            yield from self._avrisp()

    def _avrisp(self) -> Program:
        getch = self.mcu.getch
        command = yield from getch()
        match command:
            case 0x30:  # '0' get sync
                self.error = 0
                yield from self._empty_reply()
            case 0x31:  # '1' sign on
                yield from self._reply(*b"AVR ISP")
            case 0x41:  # 'A' get parameter
                parameter = yield from getch()
                yield from self._reply(_PARAMETERS.get(parameter, 0))
            case 0x42:  # 'B' set device
                yield from self._fill(20)
                self._set_parameters()
                yield from self._empty_reply()
            case 0x45:  # 'E' set device ext: ignored
                yield from self._fill(5)
                yield from self._empty_reply()
            case 0x50:  # 'P' enter progmode: acts before the EOP is looked at
                if not self.pmode:
                    yield from self._start_pmode()
                yield from self._empty_reply()
            case 0x51:  # 'Q' leave progmode
                self.error = 0
                self._end_pmode()
                yield from self._empty_reply()
            case 0x55:  # 'U' load address
                low = yield from getch()
                self._here = low | (yield from getch()) << 8
                yield from self._empty_reply()
            case _:
                yield from self._data_command(command)

    def _data_command(self, command: int) -> Program:
        getch = self.mcu.getch
        match command:
            case 0x60 | 0x61:  # prog flash word, prog data byte: swallowed
                for _ in range(2 if command == 0x60 else 1):
                    yield from getch()
                yield from self._empty_reply()
            case 0x64:  # 'd' program page
                yield from self._program_page()
            case 0x74:  # 't' read page
                yield from self._read_page()
            case 0x75:  # 'u' read signature
                yield from self._read_signature()
            case 0x56:  # 'V' universal
                yield from self._fill(4)
                b1, b2, b3, b4 = self._buffer[:4]
                value = yield from self._spi(b1, b2, b3, b4)
                yield from self._reply(value)
            case 0x20:  # an EOP where a command is expected
                self._no_sync()
            case _:
                self.error += 1
                self.mcu.write(_UNKNOWN if (yield from getch()) == _EOP else _NOSYNC)

    # -- replies ---------------------------------------------------------------------------------------------------

    def _no_sync(self) -> None:
        self.error += 1
        self.mcu.write(_NOSYNC)

    def _empty_reply(self) -> Program:
        if (yield from self.mcu.getch()) == _EOP:
            self.mcu.write(_INSYNC, _OK)
        else:
            self._no_sync()

    def _reply(self, *values: int) -> Program:
        if (yield from self.mcu.getch()) == _EOP:
            self.mcu.write(_INSYNC, *values, _OK)
        else:
            self._no_sync()

    def _fill(self, count: int) -> Program:
        """Read into the buffer. More than it holds overruns RAM: the sketch is lost until the next reset."""
        for index in range(count):
            byte = yield from self.mcu.getch()
            if index >= _BUFFER_BYTES:
                self.crashed = True
            else:
                self._buffer[index] = byte
        while self.crashed:
            yield from self.mcu.getch()

    def _set_parameters(self) -> None:
        block = self._buffer
        self._reset_active_high = block[0] >= _ACTIVE_HIGH_FROM
        self._page_bytes = block[12] << 8 | block[13]
        self._eeprom_bytes = block[14] << 8 | block[15]

    # -- target ----------------------------------------------------------------------------------------------------

    def _spi(self, b1: int, b2: int, b3: int, b4: int) -> Generator[None, None, int]:
        """``spi_transaction``: four bytes, of which the last reply byte is returned.

        Outside programming mode SPI is disabled, SPIF never rises, and ``SPI.transfer`` waits for it for ever.
        """
        mcu = self.mcu
        while not self._spi_on:
            self.crashed = True
            yield from mcu.getch()
        value = self.socket.instruction(b1, b2, b3, b4, mcu.now, self.sck_hz)
        mcu.now += 4 * self._spi_byte_s
        while mcu.is_ahead:
            yield
        return value

    def _reset_target(self, reset: bool) -> None:
        line_low = reset != self._reset_active_high
        self.socket.set_reset(line_low, self.mcu.now)

    def _start_pmode(self) -> Program:
        delay = self.mcu.delay
        self._reset_target(True)
        self._spi_on = True
        yield from delay(20e-3)
        self._reset_target(False)
        yield from delay(100e-6)
        self._reset_target(True)
        yield from delay(50e-3)
        yield from self._spi(0xAC, 0x53, 0x00, 0x00)
        self.pmode = True

    def _end_pmode(self) -> None:
        self._spi_on = False
        self.socket.set_reset(False, self.mcu.now)  # the pin becomes an input; the target's pull-up lifts reset
        self.pmode = False

    def _read_signature(self) -> Program:
        if (yield from self.mcu.getch()) != _EOP:
            self._no_sync()
            return
        self.mcu.write(_INSYNC)
        for index in range(3):
            self.mcu.write((yield from self._spi(0x30, 0x00, index, 0x00)))
        self.mcu.write(_OK)

    # -- program page ----------------------------------------------------------------------------------------------

    def _program_page(self) -> Program:
        getch = self.mcu.getch
        length = (yield from getch()) << 8
        length |= yield from getch()
        match (yield from getch()):
            case 0x46:  # 'F'
                yield from self._write_flash(length)
            case 0x45:  # 'E'
                result = yield from self._write_eeprom(length)
                if (yield from getch()) == _EOP:
                    self.mcu.write(_INSYNC, result)
                else:
                    self._no_sync()
            case _:
                self.mcu.write(_FAILED)

    def _write_flash(self, length: int) -> Program:
        yield from self._fill(length)
        if (yield from self.mcu.getch()) != _EOP:
            self._no_sync()
            return
        self.mcu.write(_INSYNC)
        page = self._current_page()
        for index in range(0, length, 2):
            if page != self._current_page():
                yield from self._commit(page)
                page = self._current_page()
            here = self._here
            high, low = here >> 8, here & 0xFF
            yield from self._spi(0x40, high, low, self._buffer[index])
            yield from self._spi(0x48, high, low, self._buffer[(index + 1) % _BUFFER_BYTES])
            self._here = here + 1 & 0xFFFF
        yield from self._commit(page)
        self.mcu.write(_OK)

    def _current_page(self) -> int:
        """Word address under the page mask; page sizes the sketch does not know leave every word its own page."""
        if self._page_bytes in (32, 64, 128, 256):
            return self._here & ~(self._page_bytes // 2 - 1)
        return self._here

    def _commit(self, address: int) -> Program:
        yield from self._spi(0x4C, address >> 8, address & 0xFF, 0x00)
        yield from self.mcu.delay(_COMMIT_DELAY_S)

    def _write_eeprom(self, length: int) -> Generator[None, None, int]:
        if length > self._eeprom_bytes:
            self.error += 1
            return _FAILED
        start = self._here * 2
        while length > 0:
            chunk = min(length, _EEPROM_CHUNK_BYTES)
            yield from self._fill(chunk)
            for index in range(chunk):
                address = start + index & 0xFFFF
                yield from self._spi(0xC0, address >> 8, address & 0xFF, self._buffer[index])
                yield from self.mcu.delay(_EEPROM_DELAY_S)
            start += chunk
            length -= chunk
        return _OK

    # -- read page -------------------------------------------------------------------------------------------------

    def _read_page(self) -> Program:
        getch, write = self.mcu.getch, self.mcu.write
        length = (yield from getch()) << 8
        length |= yield from getch()
        memory = yield from getch()
        if (yield from getch()) != _EOP:
            self._no_sync()
            return
        write(_INSYNC)
        match memory:
            case 0x46:  # 'F'
                yield from self._read_flash(length)
                write(_OK)
            case 0x45:  # 'E'
                start = self._here * 2
                for index in range(length):
                    address = start + index & 0xFFFF
                    write((yield from self._spi(0xA0, address >> 8, address & 0xFF, 0xFF)))
                write(_OK)
            case _:
                write(_FAILED)

    def _read_flash(self, length: int) -> Program:
        write = self.mcu.write
        for _ in range(0, length, 2):
            high, low = self._here >> 8, self._here & 0xFF
            write((yield from self._spi(0x20, high, low, 0x00)))
            write((yield from self._spi(0x28, high, low, 0x00)))
            self._here = self._here + 1 & 0xFFFF

"""Optiboot, the bootloader of an Uno: itself a valid STK500v1 target that would flash the programmer's own chip.

Source: Optiboot/optiboot, optiboot.c. It answers at 115200 baud for about a second after a reset.
"""

import math
from collections.abc import Generator

from vbench.mcu import TIMED_OUT, Mcu, Program

__all__ = ["Optiboot"]

BAUD = 115200
_WINDOW_S = 1.0
_QUICK_EXIT_S = 16e-3
"""After 'Q', or a missing EOP, it lets the watchdog start the application in 16 ms."""
_OK, _INSYNC, _EOP = 0x10, 0x14, 0x20
_MAJOR, _MINOR = 4, 4
_OTHER_PARAMETER = 0x03
_SIGNATURE = (0x1E, 0x95, 0x0F)
_FLASH_BYTES = 32768
_PAGE_BYTES = 128


class Optiboot:
    """The bootloader on the programmer's ATmega328P; ``flash`` is the programmer's own, ``writes`` must stay 0.

    :param stuck: it never leaves (no application, or kept alive by a chatty host).
    """

    def __init__(self, *, stuck: bool = False) -> None:
        self.flash = bytearray([0xFF]) * _FLASH_BYTES
        self.writes = 0
        self._stuck = stuck
        self._address = 0
        self._deadline = 0.0
        self._leaving = False

    def main(self, mcu: Mcu) -> Program:
        """Run until the watchdog starts the application."""
        mcu.begin(BAUD)
        self._address = 0
        self._leaving = False
        self._deadline = math.inf if self._stuck else mcu.now + _WINDOW_S
        while True:
            command = yield from self._getch(mcu)
            if command == TIMED_OUT:
                return
            yield from self._command(mcu, command)
            if self._leaving:
                if not self._stuck:
                    yield from mcu.delay(_QUICK_EXIT_S)
                    return
                self._leaving = False

    def _getch(self, mcu: Mcu) -> Generator[None, None, int]:
        """Each correctly framed byte restarts the watchdog; others are noise."""
        while True:
            byte = yield from mcu.getch_until(self._deadline)
            if byte == TIMED_OUT:
                self._leaving = True
                return TIMED_OUT
            if not mcu.framing_error:
                if not self._stuck:
                    self._deadline = mcu.now + _WINDOW_S
                return byte

    def _take(self, mcu: Mcu, count: int) -> Generator[None, None, list[int]]:
        taken = [0] * count
        for index in range(count):
            taken[index] = yield from self._getch(mcu)
        return taken

    def _is_space(self, mcu: Mcu) -> Generator[None, None, bool]:
        if (yield from self._getch(mcu)) != _EOP:
            self._leaving = True
            return False
        mcu.write(_INSYNC)
        return True

    def _command(self, mcu: Mcu, command: int) -> Program:
        arguments = {0x41: 1, 0x42: 20, 0x45: 5, 0x55: 2, 0x56: 4, 0x74: 3}.get(command, 0)
        taken = yield from self._take(mcu, arguments)
        if command == 0x64:
            taken = yield from self._take(mcu, 3)
            data = yield from self._take(mcu, taken[1] or 256)
            if TIMED_OUT not in data:
                self._program(taken[2], bytes(data))
        if not self._leaving and (yield from self._is_space(mcu)):
            self._answer(mcu, command, taken)

    def _answer(self, mcu: Mcu, command: int, taken: list[int]) -> None:
        match command:
            case 0x41:
                mcu.write({0x82: _MINOR, 0x81: _MAJOR}.get(taken[0], _OTHER_PARAMETER))
            case 0x55:
                self._address = (taken[0] | taken[1] << 8) * 2 % _FLASH_BYTES
            case 0x56:
                mcu.write(0x00)
            case 0x74:
                for _ in range(taken[1] or 256):
                    mcu.write(self.flash[self._address])
                    self._address = (self._address + 1) % _FLASH_BYTES
            case 0x75:
                mcu.write(*_SIGNATURE)
            case 0x51:
                self._leaving = True
        mcu.write(_OK)

    def _program(self, memory: int, data: bytes) -> None:
        """Write one page of the programmer's own flash; EEPROM is not supported and ignored."""
        if memory == 0x46:
            start = self._address // _PAGE_BYTES * _PAGE_BYTES
            self.flash[start : start + len(data)] = data[: _FLASH_BYTES - start]
            self.writes += 1

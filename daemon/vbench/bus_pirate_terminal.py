"""The Bus Pirate's text interface: prompt, banner, the menus a host needs, and the way into the binary interface.

Source: DangerousPrototypes/Bus_Pirate 2188001, procMenu.c (serviceuser, getnumber, changemode, setBaudRate, versionInfo).
The bus modes of the menu are not there: choosing one other than HiZ changes nothing.
"""

from collections.abc import Generator

from vbench.bus_pirate_binary import BinaryMode
from vbench.bus_pirate_firmware import Firmware
from vbench.mcu import Mcu, Program

__all__ = ["Terminal"]

_BELL = 0x07
_BACKSPACE = 0x08
_ESCAPE = 0x1B
_ENTER = (0x0A, 0x0D)
_ERASED = b"\x08 \x08"
_ZEROS = 20
"""This many 00 since power-up, whatever came between them, start the binary interface."""
_LINE_BYTES = 255
_DIGITS = 4
_MODES = ("HiZ", "1-WIRE", "UART", "I2C", "SPI", "2WIRE", "3WIRE", "KEYB", "LCD", "PIC", "DIO")
_BAUDS = (300, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
_RAW_BAUD = 10
_BRG_HZ = 4_000_000
"""16 MHz over 4: the PIC's UART in its fast mode makes ``_BRG_HZ / (n + 1)`` baud."""
_BRG_DEFAULT, _BRG_MAX = 34, 32767
_DEVICE_V3 = "DEVID:0x0447 REVID:0x3046 (24FJ64GA002 B8)"
_DEVICE_V4 = "DEVID:0x1019 REVID:0x0004 (24FJ256GB106 A3)"


class Terminal:
    """The text interface; :meth:`main` runs from the first prompt to the next reset of the chip, which a v4 never has."""

    def __init__(self, mcu: Mcu, binary: BinaryMode, firmware: Firmware, *, is_v4: bool) -> None:
        self._mcu = mcu
        self._binary = binary
        self._firmware = firmware
        self._is_v4 = is_v4
        self._zeros = 0

    def main(self) -> Program:
        """Prompt for commands; returns where the firmware resets the chip."""
        while True:
            self._say("HiZ>")
            line = yield from self._read_line()
            if line is None or (yield from self._carry_out(line)):
                return

    def banner(self) -> Program:
        """Say who we are."""
        firmware = self._firmware
        self._say("Bus Pirate v4\r\n" if self._is_v4 else "Bus Pirate v3.5\r\n")
        self._say(f"{firmware.title}{firmware.modes}{'' if self._is_v4 else ' Bootloader v4.4'}\r\n")
        self._say(f"{_DEVICE_V4 if self._is_v4 else _DEVICE_V3}\r\n{firmware.url}\r\n")
        while self._mcu.is_ahead:
            yield

    def _say(self, text: str) -> None:
        self._mcu.write(*text.encode("ascii"))

    # -- the command line ------------------------------------------------------------------------------------------

    def _read_line(self) -> Generator[None, None, str | None]:
        """Return a line; None where the binary interface was left by a reset."""
        mcu = self._mcu
        line = bytearray()
        while True:
            byte = yield from mcu.getch()
            if mcu.overrun:  # the one place where the firmware looks for it
                mcu.clear_overrun()
            elif byte == 0x00:
                self._zeros += 1
                if self._zeros == _ZEROS:
                    yield from self._binary.main()
                    if not self._is_v4:
                        return None
                    self._zeros = 0
                    yield from self.banner()
                    return ""
            elif byte in _ENTER:
                self._say("\r\n")
                return line.decode("ascii")
            else:
                yield from self._edit(line, byte)

    def _edit(self, line: bytearray, byte: int) -> Program:
        """Take one key. The cursor stays at the end: keys that would move it beep."""
        mcu = self._mcu
        if 0x20 <= byte < 0x7F and len(line) < _LINE_BYTES:
            line.append(byte)
            mcu.write(byte)
        elif byte == _BACKSPACE and line:
            line.pop()
            mcu.write(*_ERASED)
        elif byte == _ESCAPE:
            yield from mcu.getch()
        else:
            mcu.write(_BELL)

    def _carry_out(self, line: str) -> Generator[None, None, bool]:
        """Carry out a line; return whether the chip resets."""
        for index, command in enumerate(line):
            rest = line[index + 1 :]
            match command:
                case " " | ",":
                    continue
                case "i":
                    yield from self.banner()
                case "#":
                    self._say("RESET\r\n")
                    self._mcu.drain()
                    if not self._is_v4:
                        return True
                    yield from self.banner()
                case "m":
                    yield from self._change_mode(rest)
                    return False
                case "b":
                    yield from self._change_baud(rest)
                    return False
                case "W" | "w" | "P" | "p" | "g" | "S":
                    self._say("Command not used in this mode\r\n")
                case _:
                    self._say(f"Syntax error at char {index + 1}\r\n")
                    return False
        return False

    def _number(
        self, default: int, low: int, high: int, *, may_exit: bool = False
    ) -> Generator[None, None, int | None]:
        """Ask for a number; None where the user got out with x."""
        mcu = self._mcu
        while True:
            self._say(f"\r\n({default})>")
            digits = bytearray()
            while (byte := (yield from mcu.getch())) not in _ENTER:
                if byte == ord("x") and may_exit:
                    return None
                if byte == _BACKSPACE and digits:
                    digits.pop()
                    mcu.write(*_ERASED)
                elif 0x30 <= byte <= 0x39 and len(digits) < _DIGITS:
                    digits.append(byte)
                    mcu.write(byte)
                else:
                    mcu.write(_BELL)
            self._say("\r\n")
            number = int(digits) if digits else default
            if low <= number <= high:
                return number
            self._say("\r\nInvalid choice, try again\r\n")

    # -- menus -----------------------------------------------------------------------------------------------------

    def _change_mode(self, rest: str) -> Program:
        given = _leading_numbers(rest)
        chosen: int | None = given[0] if given else 0
        if chosen == 0:
            for number, mode in enumerate(_MODES, 1):
                self._say(f"{number}. {mode}\r\n")
            self._say("x. exit(without change)\r\n")
            chosen = yield from self._number(1, 1, len(_MODES), may_exit=True)
        self._say("Ready\r\n" if chosen == 1 else "no mode change\r\n")

    def _change_baud(self, rest: str) -> Program:
        """Change the rate of the terminal; forgotten at the next reset. A v4 asks too, but has no UART to change."""
        mcu = self._mcu
        given = _leading_numbers(rest)
        speed: int | None = given[0] if given else 0
        if speed is None or not 0 < speed <= _RAW_BAUD:
            self._say("Set serial port speed: (bps)\r\n")
            for number, baud in enumerate(_BAUDS, 1):
                self._say(f"{number:2d}. {baud}\r\n")
            self._say("10. BRG raw value\r\n")
            speed = yield from self._number(9, 1, _RAW_BAUD)
        if speed is None or speed < _RAW_BAUD:
            baud = _BAUDS[(speed or 9) - 1]
        else:
            divisor: int | None = given[1] if len(given) > 1 else 0
            if divisor == 0:
                self._say("Enter raw value for BRG\r\n")
                divisor = yield from self._number(_BRG_DEFAULT, 0, _BRG_MAX)
            baud = round(_BRG_HZ / ((divisor or 0) + 1))
        self._say("Adjust your terminal\r\nSpace to continue\r\n")
        mcu.drain()
        if not self._is_v4:
            mcu.begin(baud)
        while (yield from mcu.getch()) != ord(" "):
            pass


def _leading_numbers(text: str) -> list[int]:
    """Return the decimal numbers a command's arguments begin with."""
    numbers: list[int] = []
    for word in text.split():
        if not word.isdecimal():
            break
        numbers.append(int(word))
    return numbers

"""Caterina, the bootloader of Pro Micro and Leonardo: AVR109 over a USB serial port, on the cells of the board's own chip.

Sources: Caterina.c of arduino/ArduinoCore-avr and of sparkfun/Arduino_Boards; both answer the same commands and differ in what
a reset does. Not imitated: what follows a command within the same USB packet is thrown away by the real one.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from enum import StrEnum

from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit, Loader, LoaderStart, ResetFlag
from vbench.bypass import to_application
from vbench.emulated import EmulatedFace
from vbench.faults import ProgrammerFault
from vbench.isp_socket import IspSocket
from vbench.line import PacketUplink
from vbench.mcu import TIMED_OUT, Mcu, Program
from vbench.serial_board import SerialBoard

__all__ = ["BOOT_KEY", "BOOT_KEY_AT", "Caterina", "CaterinaBuild", "build_of", "start_loader"]

VERSION = 0x0001
"""bcdDevice of all builds (Descriptors.c)."""
BOOT_KEY, BOOT_KEY_AT = 0x77, 0x0800
"""What a sketch leaves in RAM, twice in a row, to have the loader stay after its watchdog reset."""
_TAP_UNTIL_MS = -1
"""Place of no RAM: bench time until which the key of the first of two resets lies in RAM; at its end the loader clears it."""
_BOOT_LOCK_BITS = 0x3C
"""Those that SPM reaches."""
_STAY_S = 8.0
"""TIMEOUT_PERIOD: how long it waits for commands while there is an application."""
_TAP_S = 0.75
"""EXT_RESET_TIMEOUT_PERIOD: how soon a second reset has to follow the first."""
_COMMAND_S = 20e-6
"""CPU time of one pass through ``CDC_Task``, roughly."""
_OK = 0x0D
_UNKNOWN = 0x3F
_TOLD = {
    0x1B: b"",
    ord("S"): b"CATERIN",
    ord("V"): b"10",
    ord("p"): b"S",
    ord("a"): b"Y",
    ord("t"): b"\x44\x00",  # one type, ATmega128, which pleases AVRProg
}
"""Answers that are always the same."""
_FUSES = {
    ord("r"): MemoryKind.LOCK,
    ord("F"): MemoryKind.LFUSE,
    ord("N"): MemoryKind.HFUSE,
    ord("Q"): MemoryKind.EFUSE,
}
_TEXTS = {
    (0x1B4F, 0x9203): ("SparkFun Electronics", "Pro Micro 3.3V"),
    (0x1B4F, 0x9205): ("SparkFun Electronics", "Pro Micro 5V  "),
    (0x1B4F, 0x9207): ("SparkFun Electronics", "LilyPadUSB    "),
    (0x2341, 0x0036): ("Arduino LLC", "Arduino Leonardo"),
    (0x2341, 0x0037): ("Arduino LLC", "Arduino Micro   "),
}


class CaterinaBuild(StrEnum):
    """Which Caterina it is."""

    ARDUINO = "arduino"
    SPARKFUN = "sparkfun"
    """Two resets within 750 ms; Pololu's, too."""
    SPARKFUN_8_MHZ = "sparkfun-8mhz"
    """Its timer ticks every 2 ms: the 500 ticks that are left after 'E' last a whole second."""

    @property
    def wants_two_resets(self) -> bool:
        """Whether a single external reset starts the application."""
        return self is not CaterinaBuild.ARDUINO

    @property
    def exit_s(self) -> float:
        """How long it stays after 'E'."""
        return 1.0 if self is CaterinaBuild.SPARKFUN_8_MHZ else 0.5


def build_of(usb: UsbIdentity) -> CaterinaBuild:
    """Return the build that shows a USB id."""
    match usb.vendor_id, usb.product_id:
        case 0x1B4F, 0x9203 | 0x9207:
            return CaterinaBuild.SPARKFUN_8_MHZ
        case ((0x1B4F | 0x1FFB), _):
            return CaterinaBuild.SPARKFUN
        case _:
            return CaterinaBuild.ARDUINO


class _LufaLine:
    """A full-speed CDC port that sends what a command answered as soon as it is complete, whatever DTR says."""

    is_uart = False
    is_bridged = False
    receive_bytes = math.inf
    latches_overrun = False

    def uplink(self, baud: int) -> PacketUplink:  # noqa: ARG002 - the rate means nothing on USB
        """Return the way to the host."""
        return PacketUplink(math.inf)


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run as ``main`` does: the reset and the key in RAM decide between the loader and the application."""
    build = build_of(start.usb)
    armed_until_s = chip.ram.pop(_TAP_UNTIL_MS, -1) / 1e3
    is_key_set = chip.ram.pop(BOOT_KEY_AT, 0) == BOOT_KEY or start.at <= armed_until_s
    chip.ram.pop(BOOT_KEY_AT + 1, None)
    if ResetFlag.EXTERNAL in start.flags:
        if build.wants_two_resets and not is_key_set:
            chip.ram[_TAP_UNTIL_MS] = round((start.at + _TAP_S) * 1e3)
            return to_application(start.at + _TAP_S)
    elif chip.has_application():
        by_watchdog = ResetFlag.WATCHDOG in start.flags
        if ResetFlag.POWER_ON in start.flags or (by_watchdog and not is_key_set):
            return to_application(start.at)
    manufacturer, product = _TEXTS.get((start.usb.vendor_id, start.usb.product_id), ("", ""))
    return Caterina(chip, replace(start.usb, manufacturer=manufacturer, product=product), build=build, at=start.at)


class Caterina(SerialBoard):
    """A board in its Caterina, from the moment it is on the bus; a blank one stays there. All times are bench seconds."""

    version = VERSION

    def __init__(
        self,
        chip: Chip,
        usb: UsbIdentity,
        *,
        build: CaterinaBuild = CaterinaBuild.ARDUINO,
        at: float = 0.0,
        faults: Sequence[ProgrammerFault] = (),
    ) -> None:
        super().__init__(_LufaLine(), usb=usb, baud=57600, socket=IspSocket(None), faults=faults)
        self.chip = chip
        self.build = build
        self._left: Departure | None = None
        self._page = bytearray(b"\xff") * chip.part.flash.page_bytes
        self._address = 0
        self._counted_s = 0.0
        self._counting_since = at
        self._is_listening = False
        self.power_on(at)
        self.run(at)  # its time is running before anybody speaks to it

    @property
    def face(self) -> EmulatedFace | None:
        """Itself."""
        return self

    @property
    def departure(self) -> Departure | None:
        """When its time is over, as things stand."""
        if self._left is not None or not self._is_listening:
            return self._left
        deadline = self._deadline()
        return None if deadline == math.inf else Departure(at=deadline, exit=Exit.APPLICATION)

    # -- firmware --------------------------------------------------------------------------------------------------

    def _firmware(self, mcu: Mcu) -> Program:
        mcu.begin(self.baud)
        self._counted_s, self._counting_since = 0.0, mcu.now
        while self._left is None:
            self._is_listening = True
            command = yield from mcu.getch_until(self._deadline())
            self._is_listening = False
            if command == TIMED_OUT:
                self._left = Departure(at=mcu.now, exit=Exit.APPLICATION)
                return
            self._count(mcu.now)
            yield from mcu.delay(_COMMAND_S)
            yield from self._command(mcu, command)
            mcu.flush()

    def _deadline(self) -> float:
        """Its timer counts only while there is an application."""
        return self._counting_since + _STAY_S - self._counted_s if self.chip.has_application() else math.inf

    def _count(self, now: float) -> None:
        if self.chip.has_application():
            self._counted_s += now - self._counting_since
        self._counting_since = now

    def _command(self, mcu: Mcu, command: int) -> Program:
        """``CDC_Task``: commands with arguments here, the others by what they answer."""
        match chr(command):
            case "A":
                high, low = yield from self._take(mcu, 2)
                self._address = high << 9 | low << 1
            case "B" | "g":
                yield from self._block(mcu, is_read=chr(command) == "g")
                return
            case "C" | "c" | "D" | "T" | "l":
                (byte,) = yield from self._take(mcu, 1)
                self._cell(mcu, chr(command), byte)
            case "e":
                erase_s = self.chip.erase_application(mcu.now) - mcu.now
                yield from mcu.delay(2 * erase_s)  # it also writes each page, with nothing
            case "m":
                self._write_page(mcu, self._address)
            case "E":
                self._counted_s = _STAY_S - self.build.exit_s
            case "L" | "P":
                pass
            case _:
                mcu.write(*self._told(command))
                return
        mcu.write(_OK)

    def _take(self, mcu: Mcu, count: int) -> Generator[None, None, list[int]]:
        taken = [0] * count
        for index in range(count):
            taken[index] = yield from mcu.getch()
        return taken

    def _cell(self, mcu: Mcu, command: str, byte: int) -> None:
        """Carry out a command with one byte.

        'C' and 'c' are as in the source, which hands the bare byte to the word-wide page buffer both times.
        """
        match command:
            case "C":
                self._fill(byte)
            case "c":
                self._fill(byte)
                self._address += 2
            case "D":
                self._write_eeprom(mcu, byte)
            case "l":
                self.chip.target.core.lock &= byte | ~_BOOT_LOCK_BITS

    def _told(self, command: int) -> bytes:
        """Return the answer to a command that changes nothing."""
        if command in _TOLD:
            return _TOLD[command]
        if command in _FUSES:
            return bytes((self.chip.lock if command == ord("r") else self.chip.fuse(_FUSES[command]),))
        match chr(command):
            case "b":
                answer = b"Y" + len(self._page).to_bytes(2, "big")
            case "s":
                answer = self.chip.part.signature.value[::-1]
            case "R":
                answer = self._read(2)[::-1]
            case "d":
                answer = self.chip.read_eeprom(Span(self._address >> 1, (self._address >> 1) + 1))
                self._address += 2
            case _:
                answer = bytes((_UNKNOWN,))
        return answer

    # -- cells -----------------------------------------------------------------------------------------------------

    def _read(self, count: int) -> bytes:
        return self.chip.read_flash(Span(self._address, self._address + count))

    def _fill(self, word: int) -> None:
        """Put a word into the page buffer."""
        offset = self._address % len(self._page) & ~1
        self._page[offset : offset + 2] = word.to_bytes(2, "little")

    def _erase_page(self, mcu: Mcu, address: int) -> None:
        self._wait(mcu, self.chip.erase_page(address, mcu.now), address)

    def _write_page(self, mcu: Mcu, address: int) -> None:
        data = bytes(self._page)
        self._page[:] = b"\xff" * len(data)
        self._wait(mcu, self.chip.write_page(address, data, mcu.now), address)

    def _wait(self, mcu: Mcu, until: float, address: int) -> None:
        """Busy until the page is done. One of its own that was changed is the end of it: nothing guards them but lock bits."""
        if until > mcu.now and address >= self.chip.section.start:
            self._left = Departure(at=until, exit=Exit.HANG)
        mcu.now = max(mcu.now, until)

    def _write_eeprom(self, mcu: Mcu, byte: int) -> None:
        mcu.now = self.chip.write_eeprom(self._address >> 1, bytes((byte,)), mcu.now)
        self._address += 2

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _block(self, mcu: Mcu, *, is_read: bool) -> Program:
        """``ReadWriteMemoryBlock``: the timer starts anew, and stands still meanwhile."""
        high, low, memory = yield from self._take(mcu, 3)
        count = high << 8 | low
        if memory not in b"EF":
            mcu.write(_UNKNOWN)
        elif is_read:
            self._read_block(mcu, count, is_flash=memory == ord("F"))
        else:
            yield from self._write_block(mcu, count, is_flash=memory == ord("F"))
        self._counted_s, self._counting_since = 0.0, mcu.now

    def _read_block(self, mcu: Mcu, count: int, *, is_flash: bool) -> None:
        if is_flash:
            mcu.write(*self._read(count))
            self._address += count & ~1
        else:
            start = self._address >> 1
            mcu.write(*self.chip.read_eeprom(Span(start, start + count)))
            self._address += 2 * count

    def _write_block(self, mcu: Mcu, count: int, *, is_flash: bool) -> Program:
        start = self._address
        if is_flash:
            self._erase_page(mcu, start)
            yield from mcu.delay(0.0)
        low = 0
        for index in range(count):
            (byte,) = yield from self._take(mcu, 1)
            if not is_flash:
                self._write_eeprom(mcu, byte)
                yield from mcu.delay(0.0)
            elif index % 2:
                self._fill(byte << 8 | low)
                self._address += 2
            else:
                low = byte
        if is_flash:
            self._write_page(mcu, start)
        mcu.write(_OK)

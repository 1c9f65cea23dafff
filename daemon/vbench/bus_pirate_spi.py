"""The Bus Pirate's binary SPI mode (``SPI1``): every command that has to do with a target.

Sources: DangerousPrototypes/Bus_Pirate 2188001 SPI.c (binSPI), BusPirate/Bus_Pirate b580ca9 and 761f6f6 spi.c
(spi_enter_binary_io, spi_read_write_io, handle_extended_avr_command).
"""

from collections.abc import Generator

from vbench.bus_pirate_firmware import Firmware, Zero
from vbench.bus_pirate_pins import Pins
from vbench.mcu import Mcu, Program

__all__ = ["SpiMode"]

_OK, _REFUSED = 0x01, 0x00
_ENTRY_SPEED = 1
_ENTRY_FORMAT = 0b0010
"""Open drain, clock idle low, data change from active to idle."""
_THREE_BITS = 0x7
_AVR_LIMIT = 0xFFFF
"""Word address, byte count and even their sum must not be above this."""
_INSTRUCTION_BYTES = 4
_FILLER, _STREAM_FILLER = 0xFF, 0x00
"""What goes out on MOSI while only reading."""
_SPI_FIFO_BYTES = 8
_READ_LOW, _READ_HIGH = 0x20, 0x28


class SpiMode:
    """The SPI mode of one firmware; :meth:`main` runs from entry to exit."""

    def __init__(self, mcu: Mcu, pins: Pins, firmware: Firmware, *, is_v4: bool) -> None:
        self._mcu = mcu
        self._pins = pins
        self._firmware = firmware
        self._is_v4 = is_v4
        self._speed = _ENTRY_SPEED

    def main(self) -> Program:
        """Answer commands until 00."""
        mcu, pins = self._mcu, self._pins
        self._speed = _ENTRY_SPEED
        pins.clock_idle, pins.clock_edge, pins.open_drain = _ENTRY_FORMAT >> 2 & 1, _ENTRY_FORMAT >> 1 & 1, True
        self._set_up()
        mcu.write(*b"SPI1")
        while (command := (yield from mcu.getch())) != 0x00:
            yield from self._command(command)
            if self._firmware.hastens_replies:
                mcu.flush()

    def _command(self, command: int) -> Program:
        mcu, pins = self._mcu, self._pins
        match command >> 4:
            case 0x0:
                yield from self._basic(command)
            case 0x1:
                mcu.write(_OK)
                for _ in range((command & 0x0F) + 1):
                    mcu.write(pins.spi((yield from mcu.getch())))
                    yield from self._keep_pace()
            case 0x4:
                pins.configure(command & 0x0F)
                mcu.write(_OK)
            case 0x5 if self._is_v4:
                mcu.write(int(pins.open_drain))  # pull-up voltage: only in open drain mode
            case 0x6:
                self._set_speed(command & 0x0F)
            case 0x8:
                pins.set_up_format(command & 0x0F, self._firmware)
                self._set_up()
                mcu.write(_OK)
            case _:
                mcu.write(_REFUSED)

    def _basic(self, command: int) -> Program:
        mcu, pins, firmware = self._mcu, self._pins, self._firmware
        match command:
            case 0x01:
                mcu.write(*b"SPI1")
            case 0x02 | 0x03:
                pins.switch_cs(command == 0x03)
                mcu.write(_OK)
            case 0x04 | 0x05 if firmware.write_then_read:
                yield from self._write_then_read(toggles_cs=command == 0x04)
            case 0x06 if firmware.avr_extended:
                mcu.write(_OK)
                while self._is_v4 and firmware.extended_needs_uart:
                    yield from mcu.getch()  # hangs
                yield from self._avr_extended()
            case _:  # the sniffers, 0D and 0E, are for looking at somebody else's bus
                mcu.write(_REFUSED)

    def _set_up(self) -> None:
        self._pins.set_up_spi(self._firmware.sck_hz[self._speed])

    def _set_speed(self, code: int) -> None:
        """Old firmwares look at three bits only, so that 68 is 60. Later ones have more speeds, and a check that is off by one:
        they take 6C too, with whatever follows their table; here, nothing faster than the slowest clock.
        """
        speeds = len(self._firmware.sck_hz)
        if speeds == _THREE_BITS + 1:
            code &= _THREE_BITS
        if code <= speeds:
            self._speed = code % speeds
            self._set_up()
            self._mcu.write(_OK)
        else:
            self._mcu.write(_REFUSED)

    def _keep_pace(self) -> Program:
        while self._mcu.is_ahead:
            yield

    def _word(self) -> Generator[None, None, int]:
        high = yield from self._mcu.getch()
        return high << 8 | (yield from self._mcu.getch())

    # -- write then read -------------------------------------------------------------------------------------------

    def _write_then_read(self, *, toggles_cs: bool) -> Program:
        mcu, pins, firmware = self._mcu, self._pins, self._firmware
        to_write = yield from self._word()
        to_read = yield from self._word()
        limit = firmware.buffer_bytes
        if limit is not None and max(to_write, to_read) > limit:
            mcu.write(_REFUSED)
        elif to_write == 0 and to_read == 0 and firmware.empty is not Zero.DONE:
            self._answer(firmware.empty)
        elif limit is None:
            pins.set_cs(pins.cs_is_high and not toggles_cs)
            yield from self._pass_through(to_write)
            yield from self._stream(to_read)
            pins.set_cs(pins.cs_is_high or toggles_cs)
        else:
            data = bytearray()
            for _ in range(to_write):
                data.append((yield from mcu.getch()))
            pins.set_cs(pins.cs_is_high and not toggles_cs)
            yield from self._write(data)
            read = yield from self._read(to_read)
            pins.set_cs(pins.cs_is_high or toggles_cs)
            self._answer(Zero.DONE if to_read > 0 else firmware.write_only)
            for byte in read:
                mcu.write(byte)
                yield from self._keep_pace()

    def _answer(self, answer: Zero) -> None:
        if answer is not Zero.SILENT:
            self._mcu.write(answer.value)

    def _write(self, data: bytearray) -> Program:
        """Clock a buffer out; what comes back meanwhile is not kept."""
        pins = self._pins
        whole = len(data) // _INSTRUCTION_BYTES * _INSTRUCTION_BYTES
        for index in range(0, whole, _INSTRUCTION_BYTES):
            pins.instruction(data[index], data[index + 1], data[index + 2], data[index + 3])
            yield from self._keep_pace()
        for byte in data[whole:]:
            pins.spi(byte)

    def _pass_through(self, count: int) -> Program:
        """Clock bytes as they come from the host; the SPI unit's own FIFO takes them while it is behind."""
        mcu, pins = self._mcu, self._pins
        free = mcu.now
        for _ in range(count):
            byte = yield from mcu.getch()
            start = max(mcu.now, free)
            pins.clock(byte, start)
            free = start + pins.byte_s
            mcu.now = max(mcu.now, free - _SPI_FIFO_BYTES * pins.byte_s)
            yield from self._keep_pace()
        mcu.now = max(mcu.now, free)

    def _read(self, count: int) -> Generator[None, None, bytearray]:
        """Clock bytes in."""
        read = bytearray()
        for _ in range(count):
            read.append(self._pins.spi(_FILLER))
            yield from self._keep_pace()
        return read

    def _stream(self, count: int) -> Program:
        """Read bytes and send each at once."""
        self._answer(Zero.DONE if count > 0 else self._firmware.write_only)
        mcu, pins = self._mcu, self._pins
        for _ in range(count):
            at, mcu.now = mcu.now, mcu.now + pins.byte_s
            mcu.write(pins.clock(_STREAM_FILLER, at))
            yield from self._keep_pace()

    # -- AVR extended commands -------------------------------------------------------------------------------------

    def _avr_extended(self) -> Program:
        mcu = self._mcu
        match (yield from mcu.getch()):
            case 0x00:
                mcu.write(_OK)
            case 0x01:
                mcu.write(_OK, 0x00, 0x01)
            case 0x02:
                address = (yield from self._word()) << 16 | (yield from self._word())
                count = (yield from self._word()) << 16 | (yield from self._word())
                if max(address, count) > _AVR_LIMIT or address + count > _AVR_LIMIT:
                    mcu.write(_REFUSED)
                else:
                    yield from self._read_flash(address, count)
            case _:
                mcu.write(_REFUSED)

    def _read_flash(self, address: int, count: int) -> Program:
        mcu, instruction = self._mcu, self._pins.instruction
        mcu.write(_OK)
        for index in range(count):
            word = address + index // 2
            mcu.write(instruction(_READ_HIGH if index % 2 else _READ_LOW, word >> 8, word & 0xFF, 0x00))
            if mcu.is_ahead:
                yield from self._keep_pace()

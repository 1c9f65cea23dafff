"""What an ST-Link's firmware does on its side of the wire: commands in, answers out, SWD in between.

Source: commands as OpenOCD's ``stlink_usb.c``, pyOCD and stlink send them. JTAG, SWIM, trace and mass storage are not imitated.
"""

import struct
from dataclasses import dataclass

from vbench.stlink_firmware import Mode, Status, StLinkFirmware
from vbench.swd import Ack, SwdSocket

__all__ = ["Answer", "Debugger", "WriteExpected"]

_V2_KHZ = {0: 4000, 1: 1800, 2: 1200, 3: 950, 7: 480, 15: 240, 31: 125, 40: 100, 79: 50, 158: 25, 265: 15, 798: 5}
_V3_KHZ = (24000, 8000, 3300, 1000, 200, 50, 5)
_FIRST_DIVISOR = 1
_COMMAND_S = 40e-6
"""Work of the firmware for a command, an assumption: measured round trips are ruled by USB."""
_ACCESS_BITS, _SETUP_ACCESSES = 46, 4
"""A word on the wire with its request, acknowledge and turns; CSW, TAR, RDBUFF and the read of the sticky flags come on top."""
_LONGEST = 6144
_DHCSR, _DCRSR, _DCRDR, _AIRCR, _CPUID = 0xE000_EDF0, 0xE000_EDF4, 0xE000_EDF8, 0xE000_ED0C, 0xE000_ED00
_SYSRESETREQ = 0x05FA_0004
_DP = 0xFFFF
_PORTS = (0, _DP)
"""The access port of the core's memory, and the debug port."""
_S_REGISTERS = 21
_UNKNOWN = bytes((Status.UNKNOWN_COMMAND, 0))
_VREF_MV, _ADC_REF = 1200, 1489
"""F7 gives the reference of 1.2 V and half the target's supply in the same units."""
_READS = {0x07: 4, 0x47: 2, 0x0C: 1, 0x54: 4}
_WRITES = {0x08: 4, 0x48: 2, 0x0D: 1, 0x50: 4}
_GATES = {0x47: 26, 0x48: 26, 0x54: 32, 0x50: 26, 0x3E: 15, 0x43: 22, 0x44: 24, 0x45: 24, 0x46: 24, 0x4B: 28, 0x4C: 28}
"""J number a command came with."""
_FIXED = frozenset({0x54, 0x50})
"""Accesses without increment."""
_STATUSES = {
    Ack.OK: Status.OK,
    Ack.WAIT: Status.AP_WAIT,
    Ack.FAULT: Status.AP_FAULT,
    Ack.NONE: Status.AP_ERROR,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the host is to read; empty for commands without an answer."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class WriteExpected:
    """The command's data comes next."""

    address: int
    length: int
    width: int
    increments: bool


class Debugger:
    """The firmware's debug part. ``now`` is bench seconds and moves on with the work."""

    def __init__(self, firmware: StLinkFirmware, socket: SwdSocket, at: float) -> None:
        self.now = at
        self.mode = firmware.first_mode
        self.clock_hz = _V2_KHZ[_FIRST_DIVISOR] * 1e3
        self.commands = 0
        """Commands so far."""
        self._firmware = firmware
        self._socket = socket
        self._status, self._fault_address = Status.OK, 0

    # -- commands ----------------------------------------------------------------------------------------------------

    def command(self, command: bytes) -> Answer | WriteExpected:
        """Carry out one command of 16 bytes."""
        self.commands += 1
        self.now += _COMMAND_S
        answer: bytes = _UNKNOWN
        match command[0]:
            case 0xF1:
                answer = self._firmware.version
            case 0xF5:
                answer = bytes((self.mode, 0))
            case 0xF7 if self._firmware.has(13):
                answer = self._voltage()
            case 0xFB if self._firmware.generation == 3:
                answer = self._firmware.extended_version
            case 0xF3 if command[1] == 0x07:
                self._leave(Mode.DFU)
                answer = b""
            case 0xF4 if command[1] == 0x01:
                self._leave(Mode.SWIM)
                answer = b""
            case 0xF2 if command[1] in _READS or command[1] in _WRITES:
                return self._memory(command)
            case 0xF2:
                answer = self._debug(command)
        return Answer(answer)

    def _leave(self, mode: Mode) -> None:
        if self.mode is mode:
            self.mode = Mode.MASS_STORAGE

    def _voltage(self) -> bytes:
        return struct.pack("<II", _ADC_REF, round(self._socket.supply_mv() * _ADC_REF / (2 * _VREF_MV)))

    def _debug(self, command: bytes) -> bytes:
        """Commands about the connection."""
        if not self._firmware.has(_GATES.get(command[1], 0)):
            return _UNKNOWN
        match command[1]:
            case 0x30:
                answer = self._short(self._enter(command[2]))
            case 0x21:
                self._socket.set_nrst(False, self.now)
                self.mode = Mode.MASS_STORAGE
                answer = b""
            case 0x22:
                answer = (self._connect() or 0).to_bytes(4, "little")
            case 0x31:
                found = self._connect()
                answer = struct.pack("<III", Status.NO_IDCODE if found is None else Status.OK, found or 0, 0)
            case 0x3C:
                answer = self._short(self._nrst(command[2]))
            case _:
                answer = self._target(command)
        return answer

    def _target(self, command: bytes) -> bytes:
        """Commands about the core and its memory."""
        match command[1]:
            case 0x32:
                answer = self._short(self._system_reset())
            case 0x33:
                answer = struct.pack("<II", *self._read_register(command[2]))
            case 0x34:
                answer = self._short(self._write_register(command[2], _word(command, 3)))
            case 0x35:
                answer = self._short(self._put(_word(command, 2), _word(command, 6)))
            case 0x36:
                answer = struct.pack("<II", *self._get(_word(command, 2)))
            case 0x3A:
                answer = self._all_registers()
            case 0x3B:
                answer = self._short(self._status)
            case 0x3E:
                answer = struct.pack("<HHII", self._status, 0, self._fault_address, 0)
            case _:
                answer = self._settings(command)
        return answer

    def _settings(self, command: bytes) -> bytes:
        """Clock and access ports; whatever else there may be is unknown."""
        is_v3 = self._firmware.generation == 3
        answer: bytes = _UNKNOWN
        match command[1]:
            case 0x43 | 0x44 if not is_v3:
                answer = self._short(self._set_divisor(*struct.unpack_from("<H", command, 2)))
            case 0x61 if is_v3:
                answer = struct.pack("<HHI", Status.OK, 0, self._set_khz(_word(command, 4)))
            case 0x62 if is_v3:
                answer = struct.pack(f"<HHII{len(_V3_KHZ)}I", Status.OK, 0, 0, len(_V3_KHZ), *_V3_KHZ).ljust(52, b"\0")
            case 0x45:
                answer = struct.pack("<II", *self._read_port(*struct.unpack_from("<HH", command, 2)))
            case 0x46:
                port = struct.unpack_from("<H", command, 2)[0]
                answer = self._short(Status.OK if port in _PORTS else Status.BAD_AP)
            case 0x4B | 0x4C:
                answer = self._short(Status.OK if command[2] == 0 else Status.BAD_AP)
        return answer

    @staticmethod
    def _short(status: Status) -> bytes:
        return bytes((status, 0))

    # -- connection --------------------------------------------------------------------------------------------------

    def _enter(self, what: int) -> Status:
        """Enter SWD (A3); JTAG is not wired on four-pin dongles."""
        if what != 0xA3 or self._connect() is None:
            return Status.NO_IDCODE
        self.mode = Mode.DEBUG
        return Status.OK

    def _connect(self) -> int | None:
        self._pass(_SETUP_ACCESSES)
        return self._socket.connect(self.now, self.clock_hz)

    def _nrst(self, what: int) -> Status:
        if what not in (0, 1, 2):
            return Status.UNKNOWN_COMMAND
        if what == 2:
            self._socket.set_nrst(True, self.now)
            self.now += 1e-3
        self._socket.set_nrst(what == 0, self.now)
        return Status.OK

    def _set_divisor(self, divisor: int) -> Status:
        khz = _V2_KHZ.get(divisor)
        if khz is None:
            return Status.UNKNOWN_COMMAND
        self.clock_hz = khz * 1e3
        return Status.OK

    def _set_khz(self, khz: int) -> int:
        chosen = max((known for known in _V3_KHZ if known <= khz), default=_V3_KHZ[-1])
        self.clock_hz = chosen * 1e3
        return chosen

    def _read_port(self, port: int, register: int) -> tuple[int, int]:
        """Read a register of the debug port (FFFF) or of access port 0: their identities only."""
        found = self._connect()
        if found is None:
            return Status.NO_IDCODE, 0
        if port not in _PORTS:
            return Status.BAD_AP, 0
        known = {(_DP, 0x0): found, (0, 0xFC): 0x1477_0011, (0, 0xF8): 0xE00F_F003}
        return Status.OK, known.get((port, register), 0)

    # -- core --------------------------------------------------------------------------------------------------------

    def _system_reset(self) -> Status:
        """Reset through the core. The firmware waits for its end by DHCSR, which takes the sticky bit away from the host: stlink
        then says that NRST is not connected, on boards where it is too (stlink issue 1260)."""
        status = self._put(_AIRCR, _SYSRESETREQ)
        self._get(_DHCSR)
        return status

    def _read_register(self, number: int) -> tuple[Status, int]:
        status = self._put(_DCRSR, number & 0x1F)
        return self._get(_DCRDR) if status is Status.OK else (status, 0)

    def _write_register(self, number: int, value: int) -> Status:
        status = self._put(_DCRDR, value)
        return self._put(_DCRSR, 1 << 16 | number & 0x1F) if status is Status.OK else status

    def _all_registers(self) -> bytes:
        values = [self._read_register(number) for number in range(_S_REGISTERS)]
        status = next((status for status, _ in values if status is not Status.OK), Status.OK)
        return struct.pack("<22I", status, *(value for _, value in values))

    def _get(self, address: int) -> tuple[Status, int]:
        self._pass(1)
        reply = self._socket.read(address & ~3, 4, 4, self.now, self.clock_hz)
        return _STATUSES[reply.ack], int.from_bytes(reply.data, "little")

    def _put(self, address: int, value: int) -> Status:
        self._pass(1)
        return _STATUSES[self._socket.write(address & ~3, value.to_bytes(4, "little"), 4, self.now, self.clock_hz)]

    # -- memory ------------------------------------------------------------------------------------------------------

    def _memory(self, command: bytes) -> Answer | WriteExpected:
        code = command[1]
        address, length = struct.unpack_from("<IH", command, 2)
        width = _READS.get(code) or _WRITES[code]
        if not self._firmware.has(_GATES.get(code, 0)):
            return Answer(_UNKNOWN)
        self._status, self._fault_address = Status.OK, 0
        if code in _WRITES:
            return WriteExpected(address, length, width, code not in _FIXED)
        data = self._read_memory(address, length, width, increments=code not in _FIXED)
        return Answer(data.ljust(2, b"\0") if width == 1 else data)

    def _is_allowed(self, address: int, length: int, width: int) -> bool:
        longest = self._firmware.short_bytes if width == 1 else _LONGEST
        return address % width == 0 and length % width == 0 and length <= longest

    def _read_memory(self, address: int, length: int, width: int, *, increments: bool) -> bytes:
        if not self._is_allowed(address, length, width):
            self._status, self._fault_address = Status.FAULT, address
            return bytes(length)
        data = bytearray()
        for start, size in _pieces(address, length, width, increments=increments):
            self._pass(size // width)
            reply = self._socket.read(start, size, width, self.now, self.clock_hz)
            if reply.ack is not Ack.OK:
                self._status, self._fault_address = _STATUSES[reply.ack], start
                break
            data += reply.data
        return bytes(data).ljust(length, b"\0")

    def write(self, expected: WriteExpected, data: bytes) -> None:
        """Write what came after a write command; how it went is asked for by 3B or 3E."""
        width = expected.width
        if not self._is_allowed(expected.address, expected.length, width) or len(data) != expected.length:
            self._status, self._fault_address = Status.FAULT, expected.address
            return
        position = 0
        for start, size in _pieces(expected.address, len(data), width, increments=expected.increments):
            self._pass(size // width)
            ack = self._socket.write(start, data[position : position + size], width, self.now, self.clock_hz)
            position += size
            if ack is not Ack.OK:
                self._status, self._fault_address = _STATUSES[ack], start
                return

    def _pass(self, accesses: int) -> None:
        """Let the time for accesses on the wire pass."""
        self.now += (accesses + _SETUP_ACCESSES) * _ACCESS_BITS / self.clock_hz


def _word(command: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", command, offset)[0])


def _pieces(address: int, length: int, width: int, *, increments: bool) -> list[tuple[int, int]]:
    """Split an access into what goes to one address on: all of it, or one unit again and again.

    Access ports count up within 1 KiB only; the firmware sets the address anew there (stlink reads 6 KiB at once).
    """
    return [(address, length)] if increments else [(address, width)] * (length // width)

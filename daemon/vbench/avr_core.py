"""The inside of an AVR in serial programming mode: memories, write timing and the instruction table.

Source: data sheet chapters "Serial Downloading" (instruction set table) and "Serial Programming Characteristics"
of ATmega16U4/32U4 (7766), ATmega8A/16A/32A, ATmega48..328 and ATtiny25/45/85.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence

from ispd.model.part import AvrPart, MemoryKind
from vbench.faults import (
    BusyForever,
    Fault,
    LostErase,
    LostPage,
    ReadFlips,
    ReadsWrap,
    SlowWrites,
    StuckBits,
    WeakWrites,
    WrongSignature,
)
from vbench.violation import Violation, ViolationKind

__all__ = ["AvrCore", "chance"]

_BLANK = 0xFF
_INSTRUCTION_BITS = 32
_STATUS_BITS = 24
"""RDY/BSY is sampled when the fourth byte of its instruction begins to shift out."""
_PAGE_WRITE_S = 4.0e-3
_PAGE_WRITE_SPREAD_S = 0.4e-3
"""Self-timed page programming takes 3.7..4.5 ms on an ATmega32U4; the bench spreads 4.0 +- 0.4 ms."""
_CALIBRATION = bytes((0x5A, 0x5B, 0x5C, 0x5D))
"""Oscillator calibration, one byte per RC frequency; every chip has its own values, these serve for all."""
_LB1, _LB_BOTH = 0x01, 0x03
"""LB1 programmed: no further programming. LB1 and LB2 programmed: no reading either."""

_Handler = Callable[[int, int, int, float, float], int]


def chance(seed: int, count: int) -> float:
    """Return a number in 0..1 that depends on nothing but its arguments."""
    return zlib.crc32(count.to_bytes(8, "little"), seed & 0xFFFFFFFF) / 0xFFFFFFFF


class AvrCore:
    """Memories and instructions of one part.

    :param fuses: fuse bytes by memory; those not named keep the part's factory value.
    :param unimplemented: what fuse and lock bits that do not exist read.
    """

    def __init__(
        self,
        part: AvrPart,
        *,
        fuses: Mapping[MemoryKind, int],
        lock: int,
        unimplemented: int,
        faults: Sequence[Fault],
        seed: int,
    ) -> None:
        self.part = part
        self.flash = bytearray([_BLANK]) * part.flash.size_bytes
        self.eeprom = bytearray([_BLANK]) * part.eeprom.size_bytes
        self.fuses = {fuse.memory: fuses.get(fuse.memory, fuse.default) & fuse.mask for fuse in part.fuses}
        self.lock = lock & part.lock_mask
        self.erase_count = 0
        self.violations: list[Violation] = []
        self.busy_until = -math.inf
        self._busy_memory: MemoryKind | None = None
        self._undo: tuple[bytearray, int, bytes] | None = None
        self._unimplemented = unimplemented
        self._seed = seed
        self._signature = part.signature.value
        self._take_faults(faults)
        self._writes = 0
        self._reads = 0
        self._page_mask = part.flash.page_bytes - 1
        self._flash_mask = part.flash.size_bytes - 1
        self.clear_buffers()
        self._table = self._instruction_table()
        self._settle()

    def _take_faults(self, faults: Sequence[Fault]) -> None:
        self._stuck = [fault for fault in faults if isinstance(fault, StuckBits)]
        self._flips = [fault for fault in faults if isinstance(fault, ReadFlips)]
        self._lost_pages = {
            fault.address // self.part.flash.page_bytes for fault in faults if isinstance(fault, LostPage)
        }
        self._busy_forever = min((f.after_writes for f in faults if isinstance(f, BusyForever)), default=None)
        self._slow = max((f.factor for f in faults if isinstance(f, SlowWrites)), default=1.0)
        self._keeps = {fault.memory for fault in faults if isinstance(fault, LostErase)}
        self._weak = max((fault.rate for fault in faults if isinstance(fault, WeakWrites)), default=0.0)
        wraps = [fault.bytes for fault in faults if isinstance(fault, ReadsWrap)]
        self._read_mask = min([self.part.flash.size_bytes, *wraps]) - 1
        for stuck in self._stuck:
            if not self._has_cell(stuck):
                raise ValueError(f"{self.part.name} has no {stuck.memory} cell 0x{stuck.address:04X}")
        for fault in faults:
            if isinstance(fault, WrongSignature):
                self._signature = fault.signature

    def _has_cell(self, fault: StuckBits) -> bool:
        match fault.memory:
            case MemoryKind.FLASH | MemoryKind.EEPROM:
                return fault.address in self.part.memory(fault.memory).span
            case _:
                return fault.memory is MemoryKind.LOCK or fault.memory in self.fuses

    def _instruction_table(self) -> dict[int, _Handler]:
        return {
            0x20: self._read_flash_low,
            0x28: self._read_flash_high,
            0x40: self._load_low,
            0x48: self._load_high,
            0x4C: self._write_page,
            0x4D: self._load_extended_address,
            0xA0: self._read_eeprom,
            0xC0: self._write_eeprom,
            0xC1: self._load_eeprom_page,
            0xC2: self._write_eeprom_page,
            0x30: self._read_signature,
            0x38: self._read_calibration,
            0x50: self._read_fuse_low_or_ext,
            0x58: self._read_lock_or_high,
            0xAC: self._program_command,
            0xF0: self._poll,
        }

    # -- what the line level calls ---------------------------------------------------------------------------------

    def execute(self, b1: int, b2: int, b3: int, b4: int, at: float, sck_hz: float) -> int:
        """Carry out one instruction whose first bit is clocked at ``at``; return what byte 4 shows on MISO.

        Where the part drives nothing the shift register shows: the byte sent before.
        """
        handler = self._table.get(b1)
        if handler is None:
            return self._violate(ViolationKind.UNKNOWN_INSTRUCTION, at, (b1, b2, b3, b4))
        return handler(b2, b3, b4, at, sck_hz)

    def clear_buffers(self) -> None:
        """Forget both page buffers and the extended address, as a reset does."""
        self._buffer = bytearray([_BLANK]) * self.part.flash.page_bytes
        self._low_word = -1
        self._eeprom_buffer: dict[int, int] = {}
        self._extended = 0

    def is_busy(self, at: float) -> bool:
        """Tell whether a write or erase is still going on."""
        return at < self.busy_until

    def cut_power(self, at: float) -> None:
        """Lose the supply: a write in progress stops half way, leaving the upper half of its cells as they were."""
        if self.is_busy(at) and self._undo is not None:
            cells, start, old = self._undo
            half = len(old) // 2
            cells[start + half : start + len(old)] = old[half:]
        self._undo = None
        self.busy_until = -math.inf
        self.clear_buffers()

    def is_programmed(self, bit: str, fuses: Mapping[MemoryKind, int]) -> bool:
        """Tell whether a named fuse bit exists on the part and is 0 (active) in ``fuses``."""
        bits = self.part.bits.get(bit)
        return bits is not None and bits.is_programmed(fuses[bits.memory])

    def change(self, memory: MemoryKind, start: int, new: bytes, at: float, seconds: float) -> float:
        """Let the part's own program put ``new`` into flash or EEPROM, a page at most; return when the cells are ready again.

        Lock bits of the boot section are the caller's affair; those of serial programming do not count here.
        """
        cells = self.flash if memory is MemoryKind.FLASH else self.eeprom
        old = bytes(cells[start : start + len(new)])
        lost = memory is MemoryKind.FLASH and start // self.part.flash.page_bytes in self._lost_pages
        if not lost:
            cells[start : start + len(new)] = self._weakened(start, old, new) if self._weak > 0 else new
        self._start(memory, seconds, at, math.inf, undo=(cells, start, old))
        return self.busy_until

    def note(self, kind: ViolationKind, at: float) -> None:
        """Record a broken rule outside any instruction."""
        self.violations.append(Violation(kind=kind, at=at))

    # -- flash -----------------------------------------------------------------------------------------------------

    def _read_flash_low(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        return self._read_flash(0, (0x20, b2, b3, b4), at)

    def _read_flash_high(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        return self._read_flash(1, (0x28, b2, b3, b4), at)

    def _read_flash(self, high: int, instruction: tuple[int, int, int, int], at: float) -> int:
        _, b2, b3, _ = instruction
        if at < self.busy_until:
            return self._read_while_busy(MemoryKind.FLASH, instruction, at)
        if self.lock & _LB_BOTH == 0:
            return b3
        value = self.flash[((self._extended << 16 | b2 << 8 | b3) << 1 | high) & self._read_mask]
        return self._flipped(value) if self._flips else value

    def _flipped(self, value: int) -> int:
        index = self._reads
        self._reads += 1
        for fault in self._flips:
            if index in fault.reads or chance(self._seed, index) < fault.rate:
                value ^= fault.mask
        return value

    def _load_low(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if not self._may_write((0x40, b2, b3, b4), at):
            return b3
        address = b3 << 1 & self._page_mask
        self._buffer[address] = b4
        self._low_word = address
        return b3

    def _load_high(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if not self._may_write((0x48, b2, b3, b4), at):
            return b3
        address = b3 << 1 & self._page_mask
        if address != self._low_word:
            return self._violate(ViolationKind.HIGH_BYTE_FIRST, at, (0x48, b2, b3, b4))
        self._buffer[address + 1] = b4
        return b3

    def _write_page(self, b2: int, b3: int, b4: int, at: float, sck: float) -> int:
        if not self._may_write((0x4C, b2, b3, b4), at):
            return b3
        address = (self._extended << 16 | b2 << 8 | b3) << 1
        if address > self._flash_mask:
            return self._violate(ViolationKind.ADDRESS_RANGE, at, (0x4C, b2, b3, b4))
        start = address & ~self._page_mask
        old = bytes(self.flash[start : start + len(self._buffer)])
        if start // len(self._buffer) not in self._lost_pages:
            new = bytes(a & b for a, b in zip(old, self._buffer, strict=True))
            self.flash[start : start + len(old)] = self._weakened(start, old, new) if self._weak > 0 else new
        self._buffer = bytearray([_BLANK]) * len(old)
        self._low_word = -1
        spread = (chance(self._seed, self._writes) * 2 - 1) * _PAGE_WRITE_SPREAD_S
        self._start(MemoryKind.FLASH, _PAGE_WRITE_S + spread, at, sck, undo=(self.flash, start, old))
        return b3

    def _weakened(self, start: int, old: bytes, new: bytes) -> bytes:
        """Return what a page holds after its write where the supply dipped: some bytes are still the old ones."""
        pairs = zip(range(start, start + len(old)), old, new, strict=True)
        return bytes(before if chance(self._seed, address) < self._weak else after for address, before, after in pairs)

    def _load_extended_address(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if not self.part.needs_extended_address:
            return self._violate(ViolationKind.UNSUPPORTED_INSTRUCTION, at, (0x4D, b2, b3, b4))
        self._extended = b3
        return b3

    # -- EEPROM ----------------------------------------------------------------------------------------------------

    def _read_eeprom(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if at < self.busy_until:
            return self._read_while_busy(MemoryKind.EEPROM, (0xA0, b2, b3, b4), at)
        if self.lock & _LB_BOTH == 0:
            return b3
        return self.eeprom[(b2 << 8 | b3) % len(self.eeprom)]

    def _write_eeprom(self, b2: int, b3: int, b4: int, at: float, sck: float) -> int:
        instruction = (0xC0, b2, b3, b4)
        if not self._may_write(instruction, at):
            return b3
        address = b2 << 8 | b3
        if address >= len(self.eeprom):
            return self._violate(ViolationKind.ADDRESS_RANGE, at, instruction)
        old = bytes(self.eeprom[address : address + 1])
        self.eeprom[address] = b4
        self._start(MemoryKind.EEPROM, self.part.times.eeprom_s, at, sck, undo=(self.eeprom, address, old))
        return b3

    def _load_eeprom_page(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        instruction = (0xC1, b2, b3, b4)
        if not self.part.eeprom.is_paged:
            return self._violate(ViolationKind.UNSUPPORTED_INSTRUCTION, at, instruction)
        if self._may_write(instruction, at):
            self._eeprom_buffer[b3 % self.part.eeprom.page_bytes] = b4
        return b3

    def _write_eeprom_page(self, b2: int, b3: int, b4: int, at: float, sck: float) -> int:
        instruction = (0xC2, b2, b3, b4)
        if not self.part.eeprom.is_paged:
            return self._violate(ViolationKind.UNSUPPORTED_INSTRUCTION, at, instruction)
        if not self._may_write(instruction, at):
            return b3
        address = b2 << 8 | b3
        size = self.part.eeprom.page_bytes
        if address >= len(self.eeprom):
            return self._violate(ViolationKind.ADDRESS_RANGE, at, instruction)
        start = address // size * size
        old = bytes(self.eeprom[start : start + size])
        for offset, value in self._eeprom_buffer.items():
            self.eeprom[start + offset] = value
        self._eeprom_buffer.clear()
        self._start(MemoryKind.EEPROM, self.part.times.eeprom_s, at, sck, undo=(self.eeprom, start, old))
        return b3

    # -- identity, fuses, lock -------------------------------------------------------------------------------------

    def _read_signature(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if at < self.busy_until:
            return self._violate(ViolationKind.WHILE_BUSY, at, (0x30, b2, b3, b4), shown=_BLANK)
        index = b3 & 0x03
        return self._signature[index] if index < len(self._signature) else _BLANK

    def _read_calibration(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        if at < self.busy_until:
            return self._violate(ViolationKind.WHILE_BUSY, at, (0x38, b2, b3, b4), shown=_BLANK)
        return _CALIBRATION[b3] if b3 < len(_CALIBRATION) else _BLANK

    def _read_fuse_low_or_ext(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        return self._read_fuse(MemoryKind.EFUSE if b2 & 0x08 else MemoryKind.LFUSE, (0x50, b2, b3, b4), at)

    def _read_lock_or_high(self, b2: int, b3: int, b4: int, at: float, _sck: float) -> int:
        return self._read_fuse(MemoryKind.HFUSE if b2 & 0x08 else MemoryKind.LOCK, (0x58, b2, b3, b4), at)

    def _read_fuse(self, memory: MemoryKind, instruction: tuple[int, int, int, int], at: float) -> int:
        if at < self.busy_until:
            return self._violate(ViolationKind.WHILE_BUSY, at, instruction, shown=_BLANK)
        if memory is not MemoryKind.LOCK and memory not in self.fuses:
            return instruction[2]
        mask = self.part.mask(memory)
        value = self.lock if memory is MemoryKind.LOCK else self.fuses[memory]
        return value & mask | self._unimplemented & ~mask & 0xFF

    def _program_command(self, b2: int, b3: int, b4: int, at: float, sck: float) -> int:
        """Second byte after AC: 53 enable, 100x xxxx erase, 111x xxxx lock, A0/A8/A4 fuses."""
        instruction = (0xAC, b2, b3, b4)
        if b2 == 0x53:
            return b3
        if at < self.busy_until:
            return self._violate(ViolationKind.WHILE_BUSY, at, instruction)
        match b2 >> 5:
            case 0b100:
                self._erase_chip(at, sck)
                return b3
            case 0b111:
                self.lock &= b4
                self._start(MemoryKind.LOCK, self.part.times.fuse_s, at, sck)
                return b3
            case _:
                return self._write_fuse(instruction, at, sck)

    def _write_fuse(self, instruction: tuple[int, int, int, int], at: float, sck: float) -> int:
        memory = {0xA0: MemoryKind.LFUSE, 0xA8: MemoryKind.HFUSE, 0xA4: MemoryKind.EFUSE}.get(instruction[1])
        if memory is None:
            return self._violate(ViolationKind.UNKNOWN_INSTRUCTION, at, instruction)
        if memory not in self.fuses:
            return self._violate(ViolationKind.UNSUPPORTED_INSTRUCTION, at, instruction)
        if not self.lock & _LB1:
            return self._violate(ViolationKind.WRITE_LOCKED, at, instruction)
        value = instruction[3] & self.part.mask(memory)
        spien = self.part.bits.get("spien")
        if spien is not None and spien.memory is memory:
            value &= ~spien.mask  # not accessible in serial programming mode: stays programmed
        self.fuses[memory] = value
        self._start(memory, self.part.times.fuse_s, at, sck)
        return instruction[2]

    def _erase_chip(self, at: float, sck: float) -> None:
        old = bytes(self.flash)
        if MemoryKind.FLASH not in self._keeps:
            self.flash[:] = bytes([_BLANK]) * len(old)
        if not self.is_programmed("eesave", self.fuses) and MemoryKind.EEPROM not in self._keeps:
            self.eeprom[:] = bytes([_BLANK]) * len(self.eeprom)
        self.lock = self.part.lock_mask
        self.erase_count += 1
        self._start(None, self.part.times.erase_s, at, sck, undo=(self.flash, 0, old))

    # -- busy ------------------------------------------------------------------------------------------------------

    def _poll(self, b2: int, b3: int, b4: int, at: float, sck: float) -> int:
        if not self.part.has_ready_poll:
            return self._violate(ViolationKind.UNSUPPORTED_INSTRUCTION, at, (0xF0, b2, b3, b4))
        return 0x01 if at + _STATUS_BITS / sck < self.busy_until else 0x00

    def _start(
        self,
        memory: MemoryKind | None,
        seconds: float,
        at: float,
        sck: float,
        *,
        undo: tuple[bytearray, int, bytes] | None = None,
    ) -> None:
        self._writes += 1
        self._busy_memory = memory
        self._undo = undo
        self.busy_until = at + _INSTRUCTION_BITS / sck + seconds * self._slow
        if self._busy_forever is not None and self._writes >= self._busy_forever:
            self.busy_until = math.inf
        if self._stuck:
            self._settle()

    def _settle(self) -> None:
        """Pull stuck bits back to their level."""
        for fault in self._stuck:
            match fault.memory:
                case MemoryKind.FLASH:
                    self.flash[fault.address] = self._stuck_value(fault, self.flash[fault.address])
                case MemoryKind.EEPROM:
                    self.eeprom[fault.address] = self._stuck_value(fault, self.eeprom[fault.address])
                case MemoryKind.LOCK:
                    self.lock = self._stuck_value(fault, self.lock)
                case _:
                    self.fuses[fault.memory] = self._stuck_value(fault, self.fuses[fault.memory])

    @staticmethod
    def _stuck_value(fault: StuckBits, value: int) -> int:
        return value | fault.mask if fault.level else value & ~fault.mask

    def _read_while_busy(self, memory: MemoryKind, instruction: tuple[int, int, int, int], at: float) -> int:
        """Reading the memory that is being written is data polling, the only way on parts without RDY/BSY."""
        if self._busy_memory is memory:
            return _BLANK
        return self._violate(ViolationKind.WHILE_BUSY, at, instruction, shown=_BLANK)

    def _may_write(self, instruction: tuple[int, int, int, int], at: float) -> bool:
        if at < self.busy_until:
            self._violate(ViolationKind.WHILE_BUSY, at, instruction)
            return False
        if not self.lock & _LB1:
            self._violate(ViolationKind.WRITE_LOCKED, at, instruction)
            return False
        return True

    def _violate(
        self, kind: ViolationKind, at: float, instruction: tuple[int, int, int, int], *, shown: int | None = None
    ) -> int:
        self.violations.append(Violation(kind=kind, at=at, instruction=bytes(instruction)))
        return instruction[2] if shown is None else shown

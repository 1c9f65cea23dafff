"""An STM32F103 on its SWD port: bus, memories, resets, and what genuine parts and clones differ in.

Source: RM0008 and PM0075; DBGMCU and clones as known to OpenOCD and stlink. Peripherals other than the flash controller, RCC
and the backup registers only keep what is written to them.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vbench.cortex_m3 import PPB_BASE, PPB_BYTES, CortexM3
from vbench.faults import BusyForever, GoesSilent, LostPage, ReadFlips, SckCeiling, SlowWrites, StuckBits
from vbench.stm32 import Habit, Stm32Chip
from vbench.stm32f1_flash import FLASH_BASE, OPTION_BASE, OPTION_BYTES, REGISTERS, BusFaultError, FlashController
from vbench.swd import Ack, SwdReply
from vbench.violation import Violation

__all__ = ["GENUINE", "UID", "ApWait", "Stm32F1", "Stm32F1Fault", "Stm32F1Model"]

_SRAM_BASE = 0x2000_0000
_SYSTEM_BASE, _SYSTEM_BYTES = 0x1FFF_F000, 0x800
_SIZE_AT, _UID_AT = 0x1FFF_F7E0, 0x1FFF_F7E8
_IDCODE_AT, _DBGMCU_CR = 0xE004_2000, 0xE004_2004
_DBG_STOP = 1 << 1
_PERIPHERALS = range(0x4000_0000, 0x4003_0000)
_REGISTER_BYTES = 0x400
_DR10_AT = 0x4000_6C28
_PERIPHERAL_RESETS = {0x4002_1000: 0x0000_0083, 0x4002_1014: 0x14, 0x4002_1024: 0x0C00_0000}
"""RCC: HSI on and ready; SRAM and flash clocked in sleep; pin and power-on reset seen."""
_ALIAS_END = 0x0800_0000
_STALL_S = 1e-3
"""How long a debug access waits for a busy flash before the probe is told to try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApWait:
    """The chip answers WAIT to this many accesses from the one with this index on (counted from 0)."""

    access: int
    times: int = 1


Stm32F1Fault = StuckBits | BusyForever | SlowWrites | LostPage | GoesSilent | SckCeiling | ReadFlips | ApWait
"""What can be wrong with such a chip; addresses count from the start of flash, reads of :class:`ReadFlips` are blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32F1Model:
    """A kind of chip.

    :param dpidr: 1BA01477 on genuine parts, 2BA01477 on CS32 and CKS32.
    :param idcode: DBGMCU_IDCODE: device in the low 12 bits, revision in the high 16.
    :param size_kib: what its size register says, whatever there is: many "C8" say 128 and have 64 that are tested.
    :param hides_size: that register reads 0 under read protection.
    :param stalls: a store to flash waits while that is busy; on some clones it is lost.
    :param shows_lock: FLASH_CR tells that the flash is locked.
    :param page_bytes: by the size of flash where None.
    :param supply_mv: of its board, whoever supplies it.
    """

    dpidr: int = 0x1BA0_1477
    idcode: int = 0x2003_6410
    flash_bytes: int = 0x1_0000
    size_kib: int = 64
    ram_bytes: int = 20 * 1024
    hides_size: bool = True
    stalls: bool = True
    shows_lock: bool = True
    page_bytes: int | None = None
    supply_mv: int = 3240


GENUINE = Stm32F1Model()
"""STM32F103C8, revision Y."""
UID = bytes.fromhex("52FF6C064980545247140267")
"""Of all boards that are not given their own."""


class Stm32F1:
    """One chip; see :class:`~vbench.swd.SwdTarget`.

    :param chip: its flash, shared with the board it is on; a blank one where not given.
    :param uid: 12 bytes.
    :param is_protected: it comes read-protected.
    """

    def __init__(
        self,
        model: Stm32F1Model = GENUINE,
        *,
        chip: Stm32Chip | None = None,
        uid: bytes = UID,
        is_protected: bool = False,
        faults: Sequence[Stm32F1Fault] = (),
    ) -> None:
        lost = frozenset(fault.address for fault in faults if isinstance(fault, LostPage))
        self.model = model
        self.chip = chip or Stm32Chip(flash_bytes=model.flash_bytes, bad_pages=lost, page_bytes=model.page_bytes)
        cells = [fault for fault in faults if isinstance(fault, StuckBits | BusyForever | SlowWrites)]
        self.flash = FlashController(self.chip, stalls=model.stalls, shows_lock=model.shows_lock, faults=cells)
        if is_protected:
            self.flash.protect()
        self.uid = uid
        self.now = 0.0
        self.ram = bytearray(model.ram_bytes)
        self.ram_base = _SRAM_BASE
        self.program = range(FLASH_BASE, FLASH_BASE + len(self.chip.flash))
        self.windows: tuple[tuple[int, int], ...] = (
            (FLASH_BASE, len(self.chip.flash)),
            (_SYSTEM_BASE, 0x1000),
            (_PERIPHERALS.start, len(_PERIPHERALS)),
            (PPB_BASE, PPB_BYTES),
        )
        self.on_run: Callable[[bool, float], object] | None = None
        """Called when the program in flash begins to run or is stopped, with the time."""
        self.on_access: Callable[[float], object] | None = None
        """Called with the time before each debug access: what its program does to the port by then counts."""
        self.habit: Habit | None = None
        """What the running program does to the debug port from ``habit_from`` on; any reset undoes it."""
        self.habit_from = math.inf
        self.accesses = 0
        """Debug accesses so far: blocks count as one."""
        self.resets = 0
        self._supplies: set[str] = set()
        self._nrst_low = self._is_debugged = False
        self._reads = 0
        self._registers = dict(_PERIPHERAL_RESETS)
        self._silent_after = min((f.after_instructions for f in faults if isinstance(f, GoesSilent)), default=None)
        self._ceiling_hz = min((fault.hz for fault in faults if isinstance(fault, SckCeiling)), default=None)
        self._flips = [fault for fault in faults if isinstance(fault, ReadFlips)]
        self._waits = {index for f in faults if isinstance(f, ApWait) for index in range(f.access, f.access + f.times)}
        self.core = CortexM3(self, self._ran)

    @property
    def violations(self) -> list[Violation]:
        """Rules of the flash that were broken."""
        return self.flash.violations

    @property
    def is_powered(self) -> bool:
        """Whether any supply is there."""
        return bool(self._supplies)

    # -- pins --------------------------------------------------------------------------------------------------------

    def set_supply(self, source: str, on: bool, at: float) -> None:
        """Give or take a supply; see the protocol."""
        self.run(at)
        was = self.is_powered
        (self._supplies.add if on else self._supplies.discard)(source)
        if self.is_powered == was:
            return
        self.core.enter_reset()
        if self.is_powered:
            self.ram[:] = bytes(len(self.ram))
            self.core.power_on()
            self._is_debugged = False
            self._reset(release=not self._nrst_low)
        else:
            self.chip.dr10 = 0

    def set_nrst(self, low: bool, at: float) -> None:
        """Drive the reset pin."""
        self.run(at)
        if low == self._nrst_low:
            return
        self._nrst_low = low
        if self.is_powered:
            self.core.enter_reset()
            self._reset(release=not low)

    def press_reset(self, at: float) -> None:
        """Press the board's reset button shortly."""
        self.run(at)
        if self.is_powered:
            self.core.enter_reset()
            self._reset(release=not self._nrst_low)

    def supply_mv(self) -> int:
        """Return its supply."""
        return self.model.supply_mv if self.is_powered else 0

    def reset_requested(self) -> None:
        """The core asks for a reset of everything but debug logic."""
        self.core.enter_reset()
        self._reset(release=not self._nrst_low)

    def _reset(self, *, release: bool) -> None:
        self.resets += 1
        self.habit = None
        self.flash.reset()
        self._registers = dict(_PERIPHERAL_RESETS)
        if release:
            self.core.leave_reset()

    def _ran(self, runs: bool) -> None:
        if self.on_run is not None:
            self.on_run(runs, self.now)

    # -- SWD ---------------------------------------------------------------------------------------------------------

    def run(self, now: float) -> None:
        """Catch up with the clock: code in RAM runs meanwhile."""
        self.core.run(now)

    def connect(self, at: float, clock_hz: float) -> int | None:
        """Reset the line and return DPIDR, None where it does not answer."""
        self._catch_up(at)
        if not self._answers(self.accesses, clock_hz):
            return None
        self._is_debugged = True
        return self.model.dpidr

    def read(self, address: int, length: int, width: int, at: float, clock_hz: float) -> SwdReply:
        """Read memory."""
        ack = self._admit(address, at, clock_hz)
        if ack is not Ack.OK:
            return SwdReply(ack, bytes(length))
        try:
            data = self._block(address, length, width)
        except BusFaultError:
            return SwdReply(Ack.FAULT, bytes(length))
        return SwdReply(Ack.OK, self._flipped(data))

    def write(self, address: int, data: bytes, width: int, at: float, clock_hz: float) -> Ack:
        """Write memory."""
        ack = self._admit(address, at, clock_hz)
        if ack is not Ack.OK:
            return ack
        try:
            if 0 <= address - _SRAM_BASE <= len(self.ram) - len(data) and address % width == 0:
                self.ram[address - _SRAM_BASE : address - _SRAM_BASE + len(data)] = data
                return Ack.OK
            for offset in range(0, len(data), width):
                self._store(address + offset, int.from_bytes(data[offset : offset + width], "little"), width)
        except BusFaultError:
            return Ack.FAULT
        return Ack.OK

    def _answers(self, index: int, clock_hz: float) -> bool:
        is_loose = self._silent_after is not None and index >= self._silent_after
        is_too_fast = self._ceiling_hz is not None and clock_hz > self._ceiling_hz
        return self.is_powered and not is_loose and not is_too_fast and not self._does(Habit.SWD_OFF)

    def _does(self, habit: Habit) -> bool:
        return self.habit is habit and self.now >= self.habit_from

    @property
    def _has_bus_clock(self) -> bool:
        """Whether an access gets past the debug port: not in stop mode, unless the debugger has asked for that."""
        return not self._does(Habit.SLEEPS) or bool(self.core.load(_DBGMCU_CR) & _DBG_STOP)

    def _catch_up(self, at: float) -> None:
        self.run(at)
        if self.on_access is not None:
            self.on_access(at)

    def _admit(self, address: int, at: float, clock_hz: float) -> Ack:
        """Catch up, count an access and tell whether it gets through to the bus."""
        self._catch_up(at)
        index, self.accesses = self.accesses, self.accesses + 1
        if not self._answers(index, clock_hz):
            return Ack.NONE
        self._is_debugged = True
        if index in self._waits or not self._has_bus_clock:
            return Ack.WAIT
        if self._is_flash(address) and self.flash.is_busy(self.now):
            if self.flash.busy_until - self.now > _STALL_S:
                return Ack.WAIT
            self.now = self.flash.busy_until
        return Ack.OK

    def _is_flash(self, address: int) -> bool:
        return address in self.program

    def _flipped(self, data: bytes) -> bytes:
        index, self._reads = self._reads, self._reads + 1
        for fault in self._flips:
            if index in fault.reads:
                data = bytes((data[0] ^ fault.mask,)) + data[1:]
        return data

    # -- bus ---------------------------------------------------------------------------------------------------------

    def _block(self, address: int, length: int, width: int) -> bytes:
        """Read a block, the large memories at once."""
        if address % width:
            raise BusFaultError
        if 0 <= address - _SRAM_BASE <= len(self.ram) - length:
            return bytes(self.ram[address - _SRAM_BASE : address - _SRAM_BASE + length])
        if self._is_flash(address) and address - FLASH_BASE + length <= len(self.chip.flash):
            self._check_readable()
            return bytes(self.chip.flash[address - FLASH_BASE : address - FLASH_BASE + length])
        return b"".join(self._read(address + at, width).to_bytes(width, "little") for at in range(0, length, width))

    def load(self, address: int, size: int) -> int:
        """Read as the core does."""
        self.now += self.core.access_s()
        value = self._read(address, size)
        if address == REGISTERS + 0x0C and self.flash.is_busy(self.now):
            self.now = min(self.flash.busy_until, self.now + 1.0)  # a loop that waits for it need not go round
        return value

    def store(self, address: int, value: int, size: int) -> None:
        """Write as the core does; raises ``BusFaultError``."""
        self.now += self.core.access_s()
        self._store(address, value, size)

    def vector(self, index: int) -> int:
        """Return a word of the vector table: of nothing where the flash is shut against the core itself.

        That is so from a reset under read protection on, after a debugger was attached, until the next power-on reset (PM0075, 2.4.1).
        """
        if self.flash.is_protected and self._is_debugged:
            return 0xFFFF_FFFF
        return int.from_bytes(self.chip.flash[4 * index : 4 * index + 4], "little")

    def _check_readable(self) -> None:
        """Raise ``BusFaultError`` where read protection is in force: neither a debugger nor code in RAM sees the flash."""
        if self.flash.is_protected:
            raise BusFaultError

    def _read(self, address: int, size: int) -> int:
        if address % size:
            raise BusFaultError
        word, shift = address & ~3, 8 * (address & 3)
        return self._word(word) >> shift & (1 << 8 * size) - 1

    def _word(self, address: int) -> int:
        """Return an aligned word; raises ``BusFaultError``. What a loader polls comes first."""
        if REGISTERS <= address < REGISTERS + _REGISTER_BYTES:
            return self.flash.read_register(address - REGISTERS, self.now)
        if address < _ALIAS_END and address < len(self.chip.flash):
            address += FLASH_BASE
        for start, cells in ((FLASH_BASE, self.chip.flash), (_SRAM_BASE, self.ram), (OPTION_BASE, self.flash.options)):
            if 0 <= address - start < len(cells):
                if start == FLASH_BASE:
                    self._check_readable()
                return int(struct.unpack_from("<I", cells, address - start)[0])
        if 0 <= address - _SYSTEM_BASE < _SYSTEM_BYTES:
            return self._system_word(address)
        if address in _PERIPHERALS:
            return self.chip.dr10 if address == _DR10_AT else self._registers.get(address, 0)
        if 0 <= address - PPB_BASE < PPB_BYTES:
            return self.model.idcode if address == _IDCODE_AT else self.core.load(address)
        raise BusFaultError

    def _system_word(self, address: int) -> int:
        """Return a word of system memory: a ROM that is not imitated, and what the factory wrote."""
        if address == _SIZE_AT:
            is_hidden = self.model.hides_size and self.flash.is_protected
            return 0 if is_hidden else self.model.size_kib | 0xFFFF_0000
        if 0 <= address - _UID_AT < len(self.uid):
            return int(struct.unpack_from("<I", self.uid, address - _UID_AT)[0])
        return 0xFFFF_FFFF

    def _store(self, address: int, value: int, size: int) -> None:
        if address % size:
            raise BusFaultError
        if self._is_flash(address) or 0 <= address - OPTION_BASE < OPTION_BYTES:
            self.now = max(self.now, self.flash.store(address, value, size, self.now))
            return
        if 0 <= address - _SRAM_BASE < len(self.ram):
            self.ram[address - _SRAM_BASE : address - _SRAM_BASE + size] = value.to_bytes(size, "little")
            return
        word, shift = address & ~3, 8 * (address & 3)
        if size < 4 and (word in _PERIPHERALS or 0 <= word - PPB_BASE < PPB_BYTES):
            mask = (1 << 8 * size) - 1 << shift
            value = (self._word(word) & ~mask if word in self._registers else 0) | value << shift
        if REGISTERS <= word < REGISTERS + _REGISTER_BYTES:
            self.flash.write_register(word - REGISTERS, value, self.now)
        elif word == _DR10_AT:
            self.chip.dr10 = value & 0xFFFF
        elif word in _PERIPHERALS:
            self._registers[word] = value
        elif 0 <= word - PPB_BASE < PPB_BYTES:
            self.core.store(word, value)
        else:
            raise BusFaultError

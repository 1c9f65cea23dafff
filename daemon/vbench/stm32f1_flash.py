"""Flash controller (FPEC), flash and option bytes of an STM32F103. All times are bench seconds.

Source: PM0075 (flash programming of STM32F10x): keys, error bits, what read protection forbids, and that taking it away erases
everything. What is written into option bytes counts from the next reset on.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

from vbench.faults import BusyForever, SlowWrites, StuckBits
from vbench.stm32 import Stm32Chip
from vbench.violation import Violation, ViolationKind

__all__ = [
    "FLASH_BASE",
    "OPTION_BASE",
    "OPTION_BYTES",
    "RDP_OPEN",
    "REGISTERS",
    "BusFaultError",
    "Control",
    "FlashController",
    "Status",
]

FLASH_BASE = 0x0800_0000
OPTION_BASE, OPTION_BYTES = 0x1FFF_F800, 16
REGISTERS = 0x4002_2000
_KEYS = (0x4567_0123, 0xCDEF_89AB)
_ACR_RESET = 0x30
"""Prefetch on, no wait states."""
RDP_OPEN = 0xA5
"""The one value of RDP that leaves the flash readable."""
_HALF_WORD_S, _ERASE_S = 52.5e-6, 40e-3
"""Usual times of the data sheet (DS5319): 40, 52.5 and 70 us for a half-word, 20 to 40 ms for a page or all of it."""
_WRITE_GROUPS = 32
_OPTIONS_OPEN = bytes((RDP_OPEN, RDP_OPEN ^ 0xFF, *(0xFF, 0x00) * 7))


class BusFaultError(Exception):
    """Nothing answers at an address, or not to this access."""


class Status(IntEnum):
    """Bits of FLASH_SR."""

    BSY = 1 << 0
    PGERR = 1 << 2
    WRPRTERR = 1 << 4
    EOP = 1 << 5


class Control(IntEnum):
    """Bits of FLASH_CR. Plain integers when combined: a loader asks for them some 100,000 times."""

    PG = 1 << 0
    PER = 1 << 1
    MER = 1 << 2
    OPTPG = 1 << 4
    OPTER = 1 << 5
    STRT = 1 << 6
    LOCK = 1 << 7
    OPTWRE = 1 << 9


_CLEARABLE = Status.PGERR | Status.WRPRTERR | Status.EOP
_ERASES = Control.PER | Control.MER | Control.OPTER
_SETTABLE = Control.PG | Control.PER | Control.MER | Control.OPTPG | Control.OPTER | Control.STRT | Control.LOCK


class _KeyHole:
    """Two words in their order open it; anything else shuts it until the next reset."""

    def __init__(self) -> None:
        self.position = 0

    def take(self, word: int) -> bool | None:
        """Return True where this word opened it, None where one is missing, False where it is shut for good."""
        if self.position < 0 or word != _KEYS[self.position]:
            self.position = -1
            return False
        self.position = (self.position + 1) % len(_KEYS)
        return True if self.position == 0 else None


class FlashController:
    """Cells, option bytes and registers.

    :param chip: the cells, shared with whoever else looks at the flash.
    :param stalls: a store while it is busy waits, as on genuine parts; on some clones it is lost.
    :param shows_lock: CR tells that it is locked; some clones read 0 and are locked nevertheless.
    :param faults: those of the cells.
    """

    def __init__(
        self,
        chip: Stm32Chip,
        *,
        stalls: bool = True,
        shows_lock: bool = True,
        faults: Sequence[StuckBits | BusyForever | SlowWrites] = (),
    ) -> None:
        self.chip = chip
        self.options = bytearray(_OPTIONS_OPEN)
        """As they are in their cells; what is in force was loaded at the last reset."""
        self.violations: list[Violation] = []
        self.busy_until = -math.inf
        self.mass_erases = 0
        self._stalls = stalls
        self._shows_lock = shows_lock
        self._stuck = [fault for fault in faults if isinstance(fault, StuckBits)]
        self._factor = max((fault.factor for fault in faults if isinstance(fault, SlowWrites)), default=1.0)
        self._hangs_after = min((f.after_writes for f in faults if isinstance(f, BusyForever)), default=math.inf)
        self._operations = 0
        self._stick()
        self.reset()

    # -- protection --------------------------------------------------------------------------------------------------

    @property
    def is_protected(self) -> bool:
        """Whether read protection is in force."""
        return self._loaded[0] != RDP_OPEN

    def protect(self) -> None:
        """Leave the factory read-protected, as many Bluepills do; in force at once."""
        self.options[0:2] = bytes((0x00, 0xFF))
        self.reset()

    def set_options(self, values: bytes) -> None:
        """Leave the factory with other option bytes: RDP, USER, DATA0, DATA1, WRP0 to WRP3; in force at once."""
        if len(values) != OPTION_BYTES // 2:
            raise ValueError(f"there are {OPTION_BYTES // 2} option bytes")
        self.options[:] = bytes(byte for value in values for byte in (value, value ^ 0xFF))
        self.reset()

    def reset(self) -> None:
        """Reset: registers as after power-up, option bytes loaded anew. An erase that was under way is through."""
        self.busy_until = -math.inf
        self._status = 0
        self._control = int(Control.LOCK)
        self._acr, self._address = _ACR_RESET, 0
        self._keys, self._option_keys = _KeyHole(), _KeyHole()
        self._load_options()

    def _load_options(self) -> None:
        """Take the option bytes over; one that does not match its complement counts as FF, an erased pair is not compared."""
        loaded, self._has_option_error = bytearray(), False
        for index in range(0, OPTION_BYTES, 2):
            value, complement = self.options[index : index + 2]
            is_whole = value ^ complement == 0xFF or value == complement == 0xFF
            self._has_option_error = self._has_option_error or not is_whole
            loaded.append(value if is_whole else 0xFF)
        self._loaded = bytes(loaded)

    def _may_write(self, page: int) -> bool:
        """Tell whether a page can be programmed or erased by a debugger or by code in RAM: never under read protection."""
        group = min(page // (4 if self.chip.page_bytes == 1024 else 2), _WRITE_GROUPS - 1)
        return not self.is_protected and bool(self._loaded[4 + group // 8] >> group % 8 & 1)

    # -- registers ---------------------------------------------------------------------------------------------------

    def is_busy(self, now: float) -> bool:
        """Tell whether an operation is under way."""
        return now < self.busy_until

    def read_register(self, offset: int, now: float) -> int:
        """Return a register; the keys read 0."""
        self._catch_up(now)
        is_busy = now < self.busy_until
        value = 0
        match offset:
            case 0x0C:
                value = self._status | Status.BSY if is_busy else self._status
            case 0x00:
                value = self._acr
            case 0x10:
                started = Control.STRT if is_busy and self._control & _ERASES else 0
                value = (self._control | started) & ~(0 if self._shows_lock else Control.LOCK)
            case 0x14:
                value = self._address
            case 0x1C:
                user, first, second = self._loaded[1:4]
                value = self._has_option_error | self.is_protected << 1 | user << 2 | first << 10 | second << 18
            case 0x20:
                value = int.from_bytes(self._loaded[4:8], "little")
        return value

    def write_register(self, offset: int, value: int, now: float) -> None:
        """Write a register; what the controller refuses is noted and has no effect."""
        self._catch_up(now)
        match offset:
            case 0x00:
                self._acr = value & 0x1F | self._acr & 0x20
            case 0x04 if self._control & Control.LOCK:
                self._open(self._keys.take(value), Control.LOCK, now)
            case 0x08 if not self._control & (Control.LOCK | Control.OPTWRE):
                self._open(self._option_keys.take(value), Control.OPTWRE, now)
            case 0x0C:
                self._status &= ~(value & _CLEARABLE)
            case 0x10:
                self._command(value & (_SETTABLE | Control.OPTWRE), now)
            case 0x14:
                self._address = value

    def _open(self, is_open: bool | None, bit: Control, now: float) -> None:
        if is_open:
            self._control ^= bit
        elif is_open is not None:
            self._note(ViolationKind.WRONG_KEY, now)

    def _command(self, value: int, now: float) -> None:
        if self.is_busy(now):
            self._note(ViolationKind.WHILE_BUSY, now)
            return
        if self._control & Control.LOCK:
            if value & ~(Control.LOCK | Control.OPTWRE):
                self._note(ViolationKind.FLASH_LOCKED, now)
            return
        self._control = value & ~(Control.STRT | Control.OPTWRE) | self._control & value & Control.OPTWRE
        if value & Control.LOCK:
            self._control &= ~Control.OPTWRE
            self._keys, self._option_keys = _KeyHole(), _KeyHole()
        if value & Control.STRT:
            self._start(now)

    def _start(self, now: float) -> None:
        """Begin an erase."""
        if self._control & Control.MER:
            self._mass_erase()
        elif self._control & Control.PER:
            page, rest = divmod(self._address - FLASH_BASE, self.chip.page_bytes)
            if not 0 <= self._address - FLASH_BASE < len(self.chip.flash):
                self._note(ViolationKind.ADDRESS_RANGE, now)
                return
            if not self._may_write(page):
                self._status |= Status.WRPRTERR
                return
            self.chip.erase_page(self._address - FLASH_BASE - rest, now)
        elif self._control & Control.OPTER and self._control & Control.OPTWRE:
            self.options[:] = b"\xff" * OPTION_BYTES
        else:
            self._note(ViolationKind.FLASH_LOCKED, now)
            return
        self._work(_ERASE_S, now)

    def _mass_erase(self) -> None:
        """Erase the main flash; read protection does not forbid that, nor write protection of pages elsewhere."""
        self.mass_erases += 1
        for start in range(0, len(self.chip.flash), self.chip.page_bytes):
            self.chip.erase_page(start, 0.0)

    # -- cells -------------------------------------------------------------------------------------------------------

    def store(self, address: int, value: int, size: int, now: float) -> float:
        """Store to flash or option bytes by the bus; return when the bus is free again. Raises ``BusFaultError``."""
        if size != 2 or address % 2:
            self._note(ViolationKind.WRONG_WIDTH, now)
            raise BusFaultError
        if self.is_busy(now):
            if not self._stalls:
                self._note(ViolationKind.WHILE_BUSY, now)
                return now
            if self.busy_until == math.inf:
                raise BusFaultError
            now = self.busy_until
        self._catch_up(now)
        if OPTION_BASE <= address < OPTION_BASE + OPTION_BYTES:
            self._store_option(address - OPTION_BASE, value & 0xFF, now)
        else:
            self._store_flash(address - FLASH_BASE, value, now)
        return now

    def _store_flash(self, offset: int, value: int, now: float) -> None:
        if not self._control & Control.PG or self._control & Control.LOCK:
            self._note(ViolationKind.FLASH_LOCKED, now)
            raise BusFaultError
        if not self._may_write(offset // self.chip.page_bytes):
            self._status |= Status.WRPRTERR
            return
        if self.chip.flash[offset : offset + 2] != b"\xff\xff" and value != 0:
            self._note(ViolationKind.NOT_BLANK, now)
            self._status |= Status.PGERR
            return
        self.chip.program(offset, value.to_bytes(2, "little"), now)
        self._work(_HALF_WORD_S, now)

    def _store_option(self, offset: int, value: int, now: float) -> None:
        """Program one option byte; the controller makes its complement. Opening a protected chip erases its flash first."""
        if not (self._control & Control.OPTPG and self._control & Control.OPTWRE):
            self._note(ViolationKind.FLASH_LOCKED, now)
            raise BusFaultError
        if self.options[offset : offset + 2] != b"\xff\xff":
            self._note(ViolationKind.NOT_BLANK, now)
            self._status |= Status.PGERR
            return
        seconds = _HALF_WORD_S
        if offset == 0 and value == RDP_OPEN and self.is_protected:
            self._mass_erase()
            seconds += _ERASE_S
        self.options[offset : offset + 2] = bytes((value, value ^ 0xFF))
        self._work(seconds, now)

    def _work(self, seconds: float, now: float) -> None:
        self._operations += 1
        is_hung = self._operations >= self._hangs_after
        self.busy_until = math.inf if is_hung else now + seconds * self._factor
        self._stick()

    def _stick(self) -> None:
        """Let stuck bits have their way."""
        for fault in self._stuck:
            if fault.level:
                self.chip.flash[fault.address] |= fault.mask
            else:
                self.chip.flash[fault.address] &= ~fault.mask & 0xFF

    def _catch_up(self, now: float) -> None:
        """Tell the end of an operation that is over."""
        if -math.inf < self.busy_until <= now:
            self._status |= Status.EOP
            self.busy_until = -math.inf

    def _note(self, kind: ViolationKind, now: float) -> None:
        self.violations.append(Violation(kind=kind, at=now))

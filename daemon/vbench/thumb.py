"""Thumb code in RAM, executed by the ``unicorn`` package; everything but RAM goes over the bus.

The package is needed only where a debugger lets a chip run code in RAM, so it is loaded then.
"""

import ctypes
import importlib
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Protocol

from ispd.errors import ConfigError
from vbench.stm32f1_flash import BusFaultError

__all__ = ["Bus", "Stop", "ThumbEngine"]

_UNBOUNDED = 0xFFFF_FFFF
_CODE_BYTES = 4 << 20
"""For translated code, instead of 1 GiB of address space for each chip: flash loaders are short."""
_BKPT = 7
"""``EXCP_BKPT`` of unicorn's interrupt hook."""


class Bus(Protocol):
    """The system bus as the core sees it. Both raise ``BusFaultError``."""

    def load(self, address: int, size: int) -> int:
        """Return what is at an address."""

    def store(self, address: int, value: int, size: int) -> None:
        """Store there."""


class Stop(Enum):
    """Why a slice ended."""

    LIMIT = auto()
    BREAKPOINT = auto()
    FAULT = auto()
    """Nothing it can execute, or nothing at an address; also where it goes on outside of RAM."""


class ThumbEngine:
    """A Cortex-M's instructions. Raises ``ConfigError`` where ``unicorn`` is not installed.

    :param ram: the RAM's bytes, which both sides see.
    :param ram_base: where it is; whole pages of 4 KiB.
    :param windows: start and size (whole pages of 4 KiB) of what else is on the bus.
    """

    def __init__(self, ram: bytearray, ram_base: int, bus: Bus, windows: Sequence[tuple[int, int]]) -> None:
        try:
            unicorn: Any = importlib.import_module("unicorn")
            arm_const: Any = importlib.import_module("unicorn.arm_const")
        except ImportError as error:
            raise ConfigError(
                "an emulated STM32 runs code in its RAM by the package unicorn, which is not installed",
                hint="install ispd[bench], or unicorn itself",
            ) from error
        self._error = unicorn.UcError
        self._bus = bus
        self._ram_base, self._ram_end = ram_base, ram_base + len(ram)
        self._numbers = [getattr(arm_const, f"UC_ARM_REG_R{number}") for number in range(13)]
        self._numbers += [arm_const.UC_ARM_REG_SP, arm_const.UC_ARM_REG_LR, arm_const.UC_ARM_REG_PC]
        self._numbers.append(arm_const.UC_ARM_REG_XPSR)
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._uc.ctl_set_tcg_buffer_size(_CODE_BYTES)
        self._shared = (ctypes.c_char * len(ram)).from_buffer(ram)
        self._uc.mem_map_ptr(ram_base, len(ram), unicorn.UC_PROT_ALL, ctypes.addressof(self._shared))
        for base, size in windows:
            self._uc.mmio_map(base, size, self._load, base, self._store, base)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self._stop: Stop | None = None
        self._pc = 0

    def begin(self, registers: Sequence[int]) -> None:
        """Take r0 to r15 and xPSR over; code in RAM may be new."""
        self._uc.ctl_remove_cache(self._ram_base, self._ram_end)
        for number, value in zip(self._numbers, registers, strict=True):
            self._uc.reg_write(number, value)
        self._pc = registers[15]

    def registers(self) -> list[int]:
        """Return r0 to r15 and xPSR."""
        values = [int(self._uc.reg_read(number)) for number in self._numbers]
        values[15] = self._pc
        return values

    @property
    def pc(self) -> int:
        """Where it is."""
        return self._pc

    def run(self, count: int) -> Stop:
        """Execute at most ``count`` instructions."""
        self._stop = None
        try:
            self._uc.emu_start(self._pc | 1, _UNBOUNDED, count=count)
        except self._error:
            self._stop = Stop.FAULT
        self._pc = int(self._uc.reg_read(self._numbers[15])) & ~1
        return self._stop or Stop.LIMIT

    def _load(self, _uc: Any, offset: int, size: int, base: int) -> int:
        try:
            return self._bus.load(base + offset, size)
        except BusFaultError:
            self._halt(Stop.FAULT)
            return 0

    def _store(self, _uc: Any, offset: int, size: int, value: int, base: int) -> None:
        try:
            self._bus.store(base + offset, value, size)
        except BusFaultError:
            self._halt(Stop.FAULT)

    def _interrupt(self, _uc: Any, number: int, _data: object) -> None:
        self._halt(Stop.BREAKPOINT if number == _BKPT else Stop.FAULT)

    def _halt(self, stop: Stop) -> None:
        self._stop = self._stop or stop  # what came first; the rest of a block may still be executed
        self._uc.emu_stop()

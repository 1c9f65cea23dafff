"""The core of an STM32F103 as a debugger sees it: halt, step, registers, resets, and code that runs in RAM.

Source: ARMv7-M architecture reference, part C1 (debug). Code in flash is not executed: what a board does with it follows from what
is in the flash (:mod:`vbench.stm32_board`); the core then only counts as running. Code in RAM is executed while the clock
is moved on, which every access of the probe does.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from vbench.thumb import Bus, Stop, ThumbEngine

__all__ = ["CPUID", "PPB_BASE", "PPB_BYTES", "CortexM3", "Machine"]

PPB_BASE, PPB_BYTES = 0xE000_0000, 0x10_0000
"""The private peripheral bus."""
CPUID = 0x411F_C231
"""Cortex-M3 r1p1."""
_CPUID, _AIRCR, _DFSR = 0xE000_ED00, 0xE000_ED0C, 0xE000_ED30
_DHCSR, _DCRSR, _DCRDR, _DEMCR = 0xE000_EDF0, 0xE000_EDF4, 0xE000_EDF8, 0xE000_EDFC
_C_DEBUGEN, _C_HALT, _C_STEP = 1 << 0, 1 << 1, 1 << 2
_DHCSR_KEPT = 0x2F
_S_REGRDY, _S_HALT, _S_LOCKUP, _S_RESET_ST = 1 << 16, 1 << 17, 1 << 19, 1 << 25
_DEBUG_KEY, _RESET_KEY = 0xA05F, 0x05FA
_SYSRESETREQ, _VECTRESET = 1 << 2, 1 << 0
_VC_CORERESET = 1 << 0
_HALTED, _BKPT, _VCATCH = 1 << 0, 1 << 1, 1 << 3
_PC, _XPSR, _MSP, _REGISTERS = 15, 16, 17, 21
_THUMB = 0x0100_0000
_STORED = {0xE000_2000: 0x0000_0260, 0xE000_1000: 0x4000_0000}
"""FP_CTRL: six comparators for code, two for literals. DWT_CTRL: four."""

_INSTRUCTION_S = 1.25 / 8e6
"""HSI at 8 MHz, a little more than one cycle each."""
_ACCESS_S = 0.5e-6
"""What an access over the bus and the instructions around it take."""
_SLICE = 200
_BUDGET = 100_000
"""Most instructions for one step of the clock: a loop that waits for the debugger need not go round more often than that."""


class State(Enum):
    """What the core does."""

    RESET = auto()
    HALTED = auto()
    IN_RAM = auto()
    """Executing code."""
    IN_FLASH = auto()
    """Running a program that nobody follows."""
    LOCKUP = auto()


class Machine(Bus, Protocol):
    """What the core is built into."""

    now: float
    ram: bytearray
    ram_base: int
    windows: tuple[tuple[int, int], ...]
    program: range
    """Where its flash is."""

    def vector(self, index: int) -> int:
        """Return a word of the vector table."""

    def reset_requested(self) -> None:
        """The core asks for a reset of the whole chip."""


class CortexM3:
    """Registers and state.

    :param on_run: called when the program in flash begins to run (True) or is stopped (False).
    """

    def __init__(self, machine: Machine, on_run: Callable[[bool], object]) -> None:
        self._machine = machine
        self._on_run = on_run
        self._engine: ThumbEngine | None = None
        self.power_on()

    def power_on(self) -> None:
        """Forget everything, as without a supply."""
        self.state = State.RESET
        self.registers = [0] * _REGISTERS
        self._control = 0
        self._dfsr = self._demcr = self._dcrdr = 0
        self._was_reset = True
        self._stored = dict(_STORED)

    @property
    def is_halted(self) -> bool:
        """Whether the debugger has stopped it."""
        return self.state is State.HALTED

    @property
    def is_in_flash(self) -> bool:
        """Whether the program in flash runs."""
        return self.state is State.IN_FLASH

    # -- resets ------------------------------------------------------------------------------------------------------

    def enter_reset(self) -> None:
        """Reset it and keep it there; debug settings stay, but for C_HALT (Cortex-M3 TRM, DHCSR)."""
        self._control &= ~_C_HALT
        self._change(State.RESET)
        self._was_reset = True

    def leave_reset(self) -> None:
        """Let it begin at its reset vector, unless the debugger catches it there."""
        self.registers = [0] * _REGISTERS
        self.registers[13] = self.registers[_MSP] = self._machine.vector(0) & ~3
        self.registers[14] = 0xFFFF_FFFF
        self.registers[_PC] = self._machine.vector(1) & ~1
        self.registers[_XPSR] = _THUMB
        if self._control & _C_DEBUGEN and self._demcr & _VC_CORERESET:
            self._halt(_VCATCH)
        elif self._control & _C_DEBUGEN and self._control & _C_HALT:
            self._halt(_HALTED)
        else:
            self._go()

    # -- debug registers ---------------------------------------------------------------------------------------------

    def load(self, address: int) -> int:
        """Return a word of the private peripheral bus."""
        if address == _DHCSR:
            return self._dhcsr()
        known = {
            _CPUID: CPUID,
            _AIRCR: 0xFA05_0000,
            _DFSR: self._dfsr,
            _DCRDR: self._dcrdr,
            _DEMCR: self._demcr,
        }
        return known.get(address, self._stored.get(address, 0))

    def store(self, address: int, value: int) -> None:
        """Write a word there."""
        match address:
            case 0xE000_ED00 | 0xE004_2000:
                pass
            case 0xE000_ED0C:
                self._request_reset(value)
            case 0xE000_ED30:
                self._dfsr &= ~value
            case 0xE000_EDF0 if value >> 16 == _DEBUG_KEY:
                self._steer(value & _DHCSR_KEPT)
            case 0xE000_EDF4:
                self._transfer(value & 0x1F, is_write=bool(value & 1 << 16))
            case 0xE000_EDF8:
                self._dcrdr = value
            case 0xE000_EDFC:
                self._demcr = value
            case _:
                self._stored[address] = value

    def _dhcsr(self) -> int:
        value = self._control | _S_REGRDY
        value |= _S_HALT if self.is_halted else 0
        value |= _S_LOCKUP if self.state is State.LOCKUP else 0
        value |= _S_RESET_ST if self._was_reset else 0
        self._was_reset = self.state is State.RESET
        return value

    def _request_reset(self, value: int) -> None:
        if value >> 16 != _RESET_KEY or self.state is State.RESET:
            return
        if value & _SYSRESETREQ:
            self._machine.reset_requested()
        elif value & _VECTRESET:
            self.enter_reset()
            self.leave_reset()

    def _steer(self, value: int) -> None:
        """Halt, step or run."""
        self._control = value
        if self.state is State.RESET:
            return
        if value & _C_DEBUGEN and value & _C_HALT:
            if not self.is_halted:
                self._halt(_HALTED)
        elif self.is_halted:
            if value & _C_DEBUGEN and value & _C_STEP:
                self._step()
            else:
                self._go()

    def _transfer(self, number: int, *, is_write: bool) -> None:
        """Move a register through DCRDR; only a halted core has any."""
        if not self.is_halted or number >= _REGISTERS:
            return
        if not is_write:
            self._dcrdr = self.registers[number]
            return
        value = self._dcrdr & ~1 if number == _PC else self._dcrdr
        self.registers[number] = value
        if number in (13, _MSP):
            self.registers[13] = self.registers[_MSP] = value & ~3

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """Execute what is in RAM up to a time."""
        machine, left = self._machine, _BUDGET
        while self.state is State.IN_RAM and machine.now < until:
            if left <= 0:
                machine.now = until
                return
            left -= _SLICE
            self._slice(_SLICE)
        machine.now = max(machine.now, until)

    def access_s(self) -> float:
        """Return how long an access by the core itself takes."""
        return _ACCESS_S

    def _slice(self, count: int) -> None:
        engine = self._loaded_engine()
        begun = self._machine.now
        stop = engine.run(count)
        if stop is Stop.LIMIT:
            self._machine.now = max(self._machine.now, begun + count * _INSTRUCTION_S)
        elif stop is Stop.BREAKPOINT and self._control & _C_DEBUGEN:
            self._halt(_BKPT)
        else:
            self._take_registers()
            self._change(State.IN_FLASH if engine.pc in self._machine.program else State.LOCKUP)

    def _step(self) -> None:
        """Execute one instruction, where it is in RAM."""
        if self._is_in_ram(self.registers[_PC]):
            self._loaded_engine().begin(self.registers[: _XPSR + 1])
            self.state = State.IN_RAM
            self._slice(1)
        if self.state is not State.LOCKUP:
            self._halt(_HALTED)

    def _go(self) -> None:
        pc = self.registers[_PC]
        if self._is_in_ram(pc):
            self._loaded_engine().begin(self.registers[: _XPSR + 1])
            self._change(State.IN_RAM)
        else:
            self._change(State.IN_FLASH if self._machine.vector(0) != 0xFFFF_FFFF else State.LOCKUP)

    def _halt(self, reason: int) -> None:
        if self.state is State.IN_RAM:
            self._take_registers()
        self._dfsr |= reason
        self._control |= _C_HALT  # the core sets it itself
        self._change(State.HALTED)

    def _take_registers(self) -> None:
        values = self._loaded_engine().registers()
        self.registers[: _XPSR + 1] = values
        self.registers[_MSP] = self.registers[13]

    def _change(self, state: State) -> None:
        was, self.state = self.state, state
        if (was is State.IN_FLASH) != (state is State.IN_FLASH):
            self._on_run(state is State.IN_FLASH)

    def _is_in_ram(self, address: int) -> bool:
        return 0 <= address - self._machine.ram_base < len(self._machine.ram)

    def _loaded_engine(self) -> ThumbEngine:
        if self._engine is None:
            machine = self._machine
            self._engine = ThumbEngine(machine.ram, machine.ram_base, machine, machine.windows)
        return self._engine

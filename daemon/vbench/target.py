"""An AVR on the slot: supply, reset line, clock, and the SPI frame a programmer clocks into it.

Sans-IO and time-explicit: every call says when it happens, in bench seconds, and how fast SCK runs, in Hz.
Source: data sheet chapter "Serial Downloading" (entry, echo, SCK limits); the same text in all supported families.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ispd.model.part import AvrPart, ClockSource, MemoryKind
from vbench.avr_core import AvrCore, chance
from vbench.faults import (
    EchoOnly,
    Fault,
    GoesSilent,
    MisoStuck,
    MosiMisoShort,
    NoisyReplies,
    SckCeiling,
    Silent,
    SwappedWires,
)
from vbench.violation import Violation, ViolationKind

__all__ = ["AvrTarget", "Circuit", "Follower"]

_ENTRY_WAIT_S = 20e-3
"""Reset must be low this long before the first instruction (data sheet: at least 20 ms)."""
_ROUNDING_S = 1e-9
"""Bench times are floats; a wait of exactly 20 ms must not fall short by their rounding."""
_RESET_PULSE_CLOCKS = 2
_FAST_CLOCK_HZ = 12e6
"""From here on SCK may be at most f/6; below it must stay under f/4."""
_FRAME_BYTES = 4
_DIVIDER = 8

_INTERNAL_HZ = {
    ClockSource.RC: 8e6,
    ClockSource.RC_1_MHZ: 1e6,
    ClockSource.RC_2_MHZ: 2e6,
    ClockSource.RC_4_MHZ: 4e6,
    ClockSource.RC_128_KHZ: 128e3,
    ClockSource.RC_6_4_MHZ: 6.4e6,
    ClockSource.PLL: 16e6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What surrounds the AVR on its board.

    :param crystal_hz: the crystal, None where there is none.
    :param external_hz: clock fed into XTAL1 from outside, None normally.
    :param watch_crystal: whether a 32.768 kHz crystal is fitted.
    :param supply_mv: supply, compared with the brown-out level.
    """

    crystal_hz: float | None = 16e6
    external_hz: float | None = None
    watch_crystal: bool = False
    supply_mv: int = 5000


_KEYBOARD = Circuit()


class Follower(Protocol):
    """What depends on when a target runs."""

    def target_changed(self, at: float) -> None:
        """Take note that supply or reset line changed."""


class AvrTarget:
    """One board's AVR.

    :param fuses: fuse bytes it arrives with; factory values where not named.
    :param lock: lock byte it arrives with.
    :param circuit: crystal and supply; a 16 MHz crystal and 5 V where not given.
    :param unimplemented: what fuse and lock bits that do not exist read.
    :param faults: see :mod:`vbench.faults`.
    :param seed: chooses page write times and random faults.
    """

    def __init__(
        self,
        part: AvrPart,
        *,
        fuses: Mapping[MemoryKind, int] | None = None,
        lock: int = 0xFF,
        circuit: Circuit = _KEYBOARD,
        unimplemented: int = 0xFF,
        faults: Sequence[Fault] = (),
        seed: int = 0,
    ) -> None:
        self.part = part
        self.core = AvrCore(
            part,
            fuses=fuses or {},
            lock=lock,
            unimplemented=unimplemented,
            faults=faults,
            seed=seed,
        )
        self._sources = {
            **_INTERNAL_HZ,
            ClockSource.CRYSTAL: circuit.crystal_hz,
            ClockSource.FULL_SWING_CRYSTAL: circuit.crystal_hz,
            ClockSource.EXTERNAL: circuit.external_hz,
            ClockSource.LOW_FREQUENCY_CRYSTAL: 32768.0 if circuit.watch_crystal else None,
        }
        self._external_hz = circuit.external_hz
        self._supply_mv = circuit.supply_mv
        self._seed = seed
        self._take_line_faults(faults)
        self.powered = False
        self.in_reset = False
        self.follower: Follower | None = None
        """The USB side of the board it is on, where that has one."""
        self._header = self._cable = False
        self.programming = False
        self.clock_hz: float | None = None
        self.instructions = 0
        self._reset_changed = -math.inf
        self._latched = dict(self.core.fuses)
        self._slipped = False
        self._refuses_entry = False
        self._frame: list[int] = []
        self._frame_at = 0.0
        self._last = 0xFF
        self._sck_below = 0.0
        self._replies = 0

    def _take_line_faults(self, faults: Sequence[Fault]) -> None:
        self._short = any(isinstance(fault, MosiMisoShort) for fault in faults)
        self._stuck_level = next((f.level for f in faults if isinstance(f, MisoStuck)), None)
        self._silent = next((f.level for f in faults if isinstance(f, Silent | SwappedWires)), None)
        self._only_echoes = any(isinstance(fault, EchoOnly) for fault in faults)
        self._noise = max((f.rate for f in faults if isinstance(f, NoisyReplies)), default=0.0)
        self._ceiling_hz = min((f.hz for f in faults if isinstance(f, SckCeiling)), default=math.inf)
        self._silent_after = min((f.after_instructions for f in faults if isinstance(f, GoesSilent)), default=None)
        self._plain_line = (
            not (self._short or self._only_echoes or self._noise > 0)
            and self._stuck_level is None
            and self._silent_after is None
        )

    # -- what tests look at ----------------------------------------------------------------------------------------

    @property
    def flash(self) -> bytearray:
        """Flash cells as they are, whatever the lock bits say."""
        return self.core.flash

    @property
    def eeprom(self) -> bytearray:
        """EEPROM cells."""
        return self.core.eeprom

    @property
    def fuses(self) -> dict[MemoryKind, int]:
        """Fuse bytes, only the bits that exist."""
        return self.core.fuses

    @property
    def lock(self) -> int:
        """Lock byte, only the bits that exist."""
        return self.core.lock

    @property
    def erase_count(self) -> int:
        """Chip erases carried out so far."""
        return self.core.erase_count

    @property
    def violations(self) -> list[Violation]:
        """Rules the host broke, in order."""
        return self.core.violations

    # -- supply and reset ------------------------------------------------------------------------------------------

    def power_on(self, at: float, *, reset_active: bool) -> None:
        """Apply the programmer's supply while it holds the reset line at this level."""
        self._header = True
        if self.powered:
            self.set_reset(reset_active, at)
        else:
            self._begin(at, reset_active=reset_active)

    def power_off(self, at: float) -> None:
        """Take the programmer's supply away, and with it what drives the reset line."""
        self._header = False
        if self._cable:
            self.set_reset(False, at)
        else:
            self._end(at)

    def plug_cable(self, at: float) -> None:
        """Plug the board's own USB cable in: a second supply."""
        self._cable = True
        if not self.powered:
            self._begin(at, reset_active=False)

    def pull_cable(self, at: float) -> None:
        """Pull the board's own USB cable."""
        self._cable = False
        if not self._header:
            self._end(at)

    def _begin(self, at: float, *, reset_active: bool) -> None:
        self.powered = True
        self.in_reset = reset_active
        self._reset_changed = at
        self._start_over()
        self._tell(at)

    def _end(self, at: float) -> None:
        """Lose the last supply; a write in progress is left half done."""
        self.core.cut_power(at)
        self.powered = self.in_reset = self.programming = False
        self._tell(at)

    def _tell(self, at: float) -> None:
        if self.follower is not None:
            self.follower.target_changed(at)

    def set_reset(self, active: bool, at: float) -> None:
        """Drive the reset line. Active again after a pulse that is long enough latches the fuses anew."""
        if not self.powered or active == self.in_reset:
            return
        if self.core.is_busy(at):
            self.core.note(ViolationKind.RESET_WHILE_BUSY, at)
        if active:
            released_s = at - self._reset_changed
            pulse_counts = self.clock_hz is None or released_s * self.clock_hz >= _RESET_PULSE_CLOCKS
            self.in_reset = True
            if pulse_counts:
                self._start_over()
        else:
            self.in_reset = False
            self.programming = False
        self._reset_changed = at
        self._tell(at)

    def source_hz(self) -> float | None:
        """Return the rate of what the fuses, as they are now, select, before any divider; None where nothing oscillates."""
        return self._sources.get(self._source(self.core.fuses))

    def has_crystal_clock(self) -> bool:
        """Tell whether the fuses, as they are now, select a clock from outside that is there: USB needs its precision."""
        is_internal = self._source(self.core.fuses) in _INTERNAL_HZ
        return not is_internal and self.source_hz() is not None

    def _source(self, fuses: Mapping[MemoryKind, int]) -> ClockSource:
        cksel = self.part.bits["cksel"]
        return self.part.clock[cksel.of(fuses[cksel.memory])]

    def feed_clock(self, hz: float | None) -> None:
        """Feed a clock into XTAL1, None to take it away again; acts at once where the latched fuses want one."""
        self._sources[ClockSource.EXTERNAL] = self._external_hz if hz is None else hz
        if self.powered:
            self._take_clock()

    def _start_over(self) -> None:
        """Everything a reset does: fuses act, page buffers are blank, the bit counter starts at zero."""
        self.core.clear_buffers()
        self.programming = False
        self._slipped = False
        self._frame.clear()
        self._latched = dict(self.core.fuses)
        self._take_clock()
        self._refuses_entry = self._is_unreachable()

    def _take_clock(self) -> None:
        self.clock_hz = self._latched_clock_hz()
        limit = 0.0
        if self.clock_hz is not None:
            slow = self.clock_hz < _FAST_CLOCK_HZ
            limit = self.clock_hz / 4 if slow else math.nextafter(self.clock_hz / 6, math.inf)
        self._sck_below = min(limit, math.nextafter(self._ceiling_hz, math.inf))

    def _latched_clock_hz(self) -> float | None:
        fuses = self._latched
        hz = self._sources.get(self._source(fuses))
        if hz is not None and self.core.is_programmed("ckdiv8", fuses):
            hz /= _DIVIDER
        return hz

    def _is_unreachable(self) -> bool:
        """Tell whether the fuses keep the part out of serial programming: reset pin given away, or brown-out."""
        fuses = self.core.fuses
        if self.core.is_programmed("rstdisbl", fuses) or self.core.is_programmed("dwen", fuses):
            return True
        bodlevel = self.part.bits.get("bodlevel")
        if bodlevel is None or ("boden" in self.part.bits and not self.core.is_programmed("boden", fuses)):
            return False
        return self.part.bod_mv[bodlevel.of(fuses[bodlevel.memory])] > self._supply_mv

    # -- SPI -------------------------------------------------------------------------------------------------------

    def instruction(self, b1: int, b2: int, b3: int, b4: int, at: float, sck_hz: float) -> int:
        """Clock four bytes beginning at ``at`` and return the fourth reply byte."""
        if self.programming and not self._frame and sck_hz < self._sck_below and self._plain_line:
            self.instructions += 1
            self._last = b4
            return self.core.execute(b1, b2, b3, b4, at, sck_hz)
        return self.exchange(bytes((b1, b2, b3, b4)), at, sck_hz)[-1]

    def exchange(self, sent: bytes, at: float, sck_hz: float) -> bytes:
        """Clock any number of bytes back to back, beginning at ``at``, and return as many reply bytes."""
        return bytes(self.clock(byte, at + 8 * index / sck_hz, sck_hz) for index, byte in enumerate(sent))

    def clock(self, byte: int, at: float, sck_hz: float) -> int:
        """Clock one byte beginning at ``at`` and return the byte seen on MISO meanwhile."""
        reply = self._target_reply(byte, at, sck_hz)
        if self._short:
            return byte
        if self._stuck_level is not None:
            return self._stuck_level
        if self._noise > 0:
            self._replies += 1
            if chance(self._seed ^ 0x5EED, self._replies) < self._noise:
                return reply ^ 1 << self._replies % 8
        return reply

    def _target_reply(self, byte: int, at: float, sck_hz: float) -> int:
        if not self._is_listening(at):
            return 0x00 if self._silent is None else self._silent
        echo, self._last = self._last, byte
        if self._slipped or sck_hz >= self._sck_below:
            # an SCK edge was missed: bits arrive one place late, and frames mean nothing until the next reset pulse
            self._slipped = True
            return echo >> 1
        if self._only_echoes:
            return echo
        if not self._frame:
            self._frame_at = at
        self._frame.append(byte)
        if len(self._frame) < _FRAME_BYTES:
            return echo
        b1, b2, b3, b4 = self._frame
        self._frame.clear()
        self.instructions += 1
        if self.programming:
            return self.core.execute(b1, b2, b3, b4, self._frame_at, sck_hz)
        if (b1, b2) == (0xAC, 0x53):
            self._enable(self._frame_at)
        return echo

    def _is_listening(self, at: float) -> bool:
        if self._silent is not None or not self.powered or not self.in_reset:
            return False
        if self._silent_after is not None and self.instructions >= self._silent_after:
            return False
        if self.clock_hz is None or self._refuses_entry:
            return False
        if at - self._reset_changed < _ENTRY_WAIT_S - _ROUNDING_S:
            self.core.note(ViolationKind.ENTRY_TOO_EARLY, at)
            self._refuses_entry = True
            return False
        return True

    def _enable(self, at: float) -> None:
        self.programming = not self.core.is_busy(at)

"""An Arduino Uno that runs real firmware in simavr, with one of our emulated boards on its ISP header."""

import ctypes
from ctypes import CDLL, CFUNCTYPE, POINTER, c_double, c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Self

from tests.oracle.sketch.build import build_board_library

from vbench.target import AvrTarget

__all__ = ["CLOCK_HZ", "Board", "Reply"]

CLOCK_HZ = 16e6
_SPI_HOOK = CFUNCTYPE(c_uint8, c_uint8, c_uint64, c_uint32)
_RESET_HOOK = CFUNCTYPE(None, c_int, c_uint64)
_RUNNING = {2, 3}
"""simavr's cpu_Running and cpu_Sleeping."""
_TAKE = 4096


@dataclass(frozen=True, slots=True)
class Reply:
    """One byte as the host's serial receiver saw it. ``at`` is in seconds since power-up."""

    byte: int
    at: float
    is_bad: bool


class Board:
    """The Uno. All times are seconds of simulated time since power-up.

    :param flash: contents of its flash, see :mod:`tests.oracle.sketch.build`.
    :param start: byte address where a reset starts (a bootloader's, by the BOOTRST fuse).
    :param target: what is on the ISP header; powered by the Uno.
    :param baud: the host's baud rate.
    """

    def __init__(self, flash: bytes, target: AvrTarget, *, start: int = 0, baud: float = 19200) -> None:
        self.target = target
        self.instructions: list[tuple[float, bytes]] = []
        """Four-byte frames that went over SPI while reset was active, each with the time it began."""
        self.sck_hz: set[float] = set()
        self.reset_changes: list[tuple[float, int]] = []
        self._frame = bytearray()
        self._frame_at = 0.0
        self._reset_level = 1
        self._lib = _library()
        # kept: ctypes does not hold on to callbacks
        self._hooks = (_SPI_HOOK(self._spi), _RESET_HOOK(self._reset))
        self._board = c_void_p(self._lib.board_new(flash, len(flash), start, CLOCK_HZ, *self._hooks))
        self._lib.board_set_baud(self._board, baud)
        target.power_on(0.0, reset_active=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.board_free(self._board)
        self._board = c_void_p(None)

    @property
    def now(self) -> float:
        """Simulated time."""
        return float(self._lib.board_cycle(self._board) / CLOCK_HZ)

    @property
    def line_free(self) -> float:
        """When the last byte fed so far has passed the host's transmit line."""
        return float(self._lib.board_line_free(self._board) / CLOCK_HZ)

    @property
    def overruns(self) -> int:
        """Bytes the USART itself lost because its two-byte buffer was full."""
        return int(self._lib.board_overruns(self._board))

    @property
    def resets(self) -> int:
        """Resets of the Uno's own processor since power-up, watchdog and button alike."""
        return int(self._lib.board_resets(self._board))

    @property
    def flash(self) -> bytes:
        """The Uno's own flash as it is now."""
        return ctypes.string_at(self._lib.board_flash(self._board), 0x8000)

    def press_reset(self) -> None:
        """Reset the processor, as the edge on DTR does."""
        self._lib.board_press_reset(self._board)

    def feed(self, data: bytes, at: float) -> None:
        """Put bytes on the host's transmit line, back to back, none of them before ``at``."""
        self._lib.board_feed(self._board, data, len(data), round(at * CLOCK_HZ))

    def run(self, until: float, *, stop_at_reply: bool = False) -> None:
        """Run the firmware to a time, or only to the next byte it sends."""
        state = self._lib.board_run(self._board, round(until * CLOCK_HZ), int(stop_at_reply))
        if state not in _RUNNING:
            raise RuntimeError(f"the simulated processor stopped in state {state}")

    def take(self) -> list[Reply]:
        """Return what the host received and did not take yet."""
        data, bad, at = (c_uint8 * _TAKE)(), (c_uint8 * _TAKE)(), (c_uint64 * _TAKE)()
        count = self._lib.board_take(self._board, data, bad, at, _TAKE)
        return [Reply(data[i], at[i] / CLOCK_HZ, bool(bad[i])) for i in range(count)]

    def _spi(self, mosi: int, cycle: int, cycles_per_bit: int) -> int:
        at, sck_hz = cycle / CLOCK_HZ, CLOCK_HZ / cycles_per_bit
        if self._reset_level == 0:
            if not self._frame:
                self._frame_at = at
                self.sck_hz.add(sck_hz)
            self._frame.append(mosi)
            if len(self._frame) == 4:
                self.instructions.append((self._frame_at, bytes(self._frame)))
                self._frame.clear()
        return self.target.clock(mosi, at, sck_hz)

    def _reset(self, level: int, cycle: int) -> None:
        self._reset_level = level
        self._frame.clear()
        self.reset_changes.append((cycle / CLOCK_HZ, level))
        self.target.set_reset(level == 0, cycle / CLOCK_HZ)


@cache
def _library() -> CDLL:
    lib = CDLL(str(build_board_library()))
    lib.board_new.restype = c_void_p
    lib.board_new.argtypes = [ctypes.c_char_p, c_uint32, c_uint32, c_double, _SPI_HOOK, _RESET_HOOK]
    for name, result, arguments in (
        ("set_baud", None, [c_double]),
        ("press_reset", None, []),
        ("feed", None, [ctypes.c_char_p, c_size_t, c_uint64]),
        ("run", c_int, [c_uint64, c_int]),
        ("take", c_size_t, [POINTER(c_uint8), POINTER(c_uint8), POINTER(c_uint64), c_size_t]),
        ("cycle", c_uint64, []),
        ("line_free", c_uint64, []),
        ("resets", c_uint64, []),
        ("overruns", c_uint64, []),
        ("peek", c_uint8, [c_uint16]),
        ("flash", c_void_p, []),
        ("free", None, []),
    ):
        function = getattr(lib, f"board_{name}")
        function.restype = result
        function.argtypes = [c_void_p, *arguments]
    return lib

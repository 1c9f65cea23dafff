"""Which way of writing flash is faster on this line. Pure: measurements in, decisions out.

Blocks (``d``) cost the sketch's fixed 30 ms after each page; single loads (``V``) cost six bytes on the line for each
byte of flash, and poll the target instead. On a slow line blocks win by far, where the line is no limit loads do.
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Decision", "Pace", "Way"]

_SPI_S = 0.00027
"""One instruction at 125 kHz with the sketch's overhead (four bytes of 64 us each, and a little)."""

_COMMIT_S = 0.0303
"""``4C`` and the fixed delay behind it (``PTIME`` of the sketch)."""

_READY_S = 0.006
"""A page write watched by polling: tWD_FLASH is 4.5 ms at most, and some time passes until it is noticed."""

_UNIVERSAL_BYTES = 6
_WORTH_A_TRIAL_PAGES = 8
"""Shorter writes go by estimate: a trial of the slower way would cost more than it can gain."""


class Way(Enum):
    """How pages get into flash."""

    BLOCK = "block"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Decision:
    """Write ``pages`` pages this way (None: all that are left), then ask again."""

    way: Way
    pages: int | None


class Pace:
    """What was measured of one open programmer."""

    def __init__(self) -> None:
        self.universal_s: float | None = None
        """Seconds for each ``V`` in a full window, None before it was measured."""
        self._page_s: dict[tuple[Way, int], float] = {}

    def note_page(self, way: Way, page_bytes: int, seconds: float) -> None:
        """Take note how long one page of ``page_bytes`` took."""
        self._page_s.setdefault((way, page_bytes), seconds)

    def decide(self, page_bytes: int, pages_left: int) -> Decision:
        """Return how to write the next pages. ``universal_s`` must have been measured."""
        load_s = self._page_s.get((Way.LOAD, page_bytes))
        block_s = self._page_s.get((Way.BLOCK, page_bytes))
        fastest_block_s = page_bytes * _SPI_S + _COMMIT_S
        load_guess_s = load_s if load_s is not None else self._guess_load_s(page_bytes)
        if load_guess_s > self._slowest_block_s(page_bytes):
            return Decision(Way.BLOCK, None)
        if load_guess_s < fastest_block_s * 0.8:
            return Decision(Way.LOAD, None)
        if load_s is not None and block_s is not None:
            return Decision(Way.LOAD if load_s < block_s else Way.BLOCK, None)
        if pages_left < _WORTH_A_TRIAL_PAGES:
            return Decision(Way.LOAD if load_guess_s < fastest_block_s else Way.BLOCK, None)
        return Decision(Way.LOAD, 1) if load_s is None else Decision(Way.BLOCK, 2)

    def _guess_load_s(self, page_bytes: int) -> float:
        """Return what a page of single loads takes by the pace of ``V``."""
        return (page_bytes + 1) * self._universal() + _READY_S

    def _slowest_block_s(self, page_bytes: int) -> float:
        """Return what a block takes without any prefetch, were the line alone to blame for the pace of ``V``."""
        byte_s = self._universal() / _UNIVERSAL_BYTES
        return page_bytes * (_SPI_S + byte_s) + _COMMIT_S

    def _universal(self) -> float:
        if self.universal_s is None:
            raise ValueError("the line was not measured yet")
        return self.universal_s

"""Byte ranges: one half-open type, so that no range arithmetic is written by hand twice."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Span"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range of byte addresses, ``start <= address < stop``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a span: {self.start:#x}..{self.stop:#x}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, other: object) -> bool:
        match other:
            case int():
                return self.start <= other < self.stop
            case Span():
                return self.start <= other.start and other.stop <= self.stop
            case _:
                return False

    def __str__(self) -> str:
        return f"0x{self.start:04X}..0x{max(self.start, self.stop - 1):04X}"

    def overlap(self, other: "Span") -> "Span":
        """Return the bytes in both; empty (``start == stop``) where they do not meet."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.stop, other.stop)))

    def aligned(self, block_bytes: int) -> "Span":
        """Return the smallest span of whole blocks that holds this one."""
        return Span(self.start // block_bytes * block_bytes, -(-self.stop // block_bytes) * block_bytes)

    def blocks(self, block_bytes: int) -> Iterator["Span"]:
        """Yield consecutive pieces of at most ``block_bytes``, cut at multiples of it."""
        start = self.start
        while start < self.stop:
            stop = min(self.stop, (start // block_bytes + 1) * block_bytes)
            yield Span(start, stop)
            start = stop

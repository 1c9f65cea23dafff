"""Images: bytes with addresses, independent of the file format they came in."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from ispd.model.span import Span

__all__ = ["BLANK", "Image", "Segment"]

BLANK = 0xFF
"""What an erased AVR flash or EEPROM cell reads."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Consecutive bytes at a byte address."""

    start: int
    data: bytes

    @property
    def span(self) -> Span:
        """Addresses this segment covers."""
        return Span(self.start, self.start + len(self.data))


@dataclass(frozen=True, slots=True)
class Image:
    """Sparse bytes of one memory: segments sorted by address, apart from each other, none empty.

    Build with :meth:`of`, which sorts and joins neighbours; overlapping segments raise ``ValueError``.
    """

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> "Image":
        """Return the canonical image of ``segments``; two images with equal bytes are then equal values."""
        joined: list[Segment] = []
        for segment in sorted(s for s in segments if s.data):
            if joined and joined[-1].span.stop > segment.start:
                raise ValueError(f"segments overlap at 0x{segment.start:04X}")
            if joined and joined[-1].span.stop == segment.start:
                joined[-1] = Segment(joined[-1].start, joined[-1].data + segment.data)
            else:
                joined.append(segment)
        return cls(tuple(joined))

    @property
    def sha256(self) -> str:
        """Digest of the canonical form: for each segment its address and length (8 bytes each, big endian) and data."""
        digest = hashlib.sha256()
        for segment in self.segments:
            digest.update(segment.start.to_bytes(8, "big") + len(segment.data).to_bytes(8, "big") + segment.data)
        return digest.hexdigest()

    @property
    def span(self) -> Span:
        """From the first to behind the last byte; empty at 0 for an empty image."""
        return Span(self.segments[0].start, self.segments[-1].span.stop) if self.segments else Span(0, 0)

    def __len__(self) -> int:
        return sum(len(segment.data) for segment in self.segments)

    def bytes_in(self, span: Span) -> bytes:
        """Return ``span`` as dense bytes, gaps filled with 0xFF."""
        dense = bytearray([BLANK]) * len(span)
        first = bisect_right(self.segments, span.start, key=lambda segment: segment.start) - 1
        for segment in self.segments[max(0, first) :]:
            if segment.start >= span.stop:
                break
            common = segment.span.overlap(span)
            if len(common):
                piece = segment.data[common.start - segment.start : common.stop - segment.start]
                dense[common.start - span.start : common.stop - span.start] = piece
        return bytes(dense)

    def pages(self, page_bytes: int) -> Iterator[Segment]:
        """Yield each whole page holding a byte of the image, gaps filled with 0xFF, in address order."""
        last = -1
        for segment in self.segments:
            for block in segment.span.blocks(page_bytes):
                page = block.start // page_bytes
                if page != last:
                    last = page
                    whole = Span(page * page_bytes, (page + 1) * page_bytes)
                    yield Segment(whole.start, self.bytes_in(whole))

    def overlaps(self, other: "Image") -> Iterator[Span]:
        """Yield every range that both images define, in address order."""
        mine, theirs = iter(self.segments), iter(other.segments)
        left, right = next(mine, None), next(theirs, None)
        while left is not None and right is not None:
            common = left.span.overlap(right.span)
            if len(common):
                yield common
            if left.span.stop <= right.span.stop:
                left = next(mine, None)
            else:
                right = next(theirs, None)

    def merged(self, other: "Image") -> "Image":
        """Return both images in one; raises ``ValueError`` where they overlap."""
        return Image.of([*self.segments, *other.segments])

    def gaps(self) -> Iterator[Span]:
        """Yield the holes between segments."""
        for left, right in pairwise(self.segments):
            yield Span(left.span.stop, right.start)

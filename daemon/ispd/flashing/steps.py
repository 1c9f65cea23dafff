"""What can be done to a unit, as data: a plan is a list of these, and nothing else is executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ispd.flashing.sck import FoundSck, SckKey
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span

__all__ = [
    "AnyStep",
    "CheckWritable",
    "EraseChip",
    "Leave",
    "Plan",
    "Reenter",
    "Step",
    "VerifyBits",
    "VerifyCells",
    "WriteCells",
    "WriteFuse",
    "WriteLock",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyStep:
    """What each step has: its name, and how many cells it moves."""

    name: str
    bytes: int = 0
    is_destructive: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWritable(AnyStep):
    """Read cells and refuse where one would have to change from 0 to 1, which only an erase does."""

    spans: tuple[Span, ...]
    expected: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseChip(AnyStep):
    """Erase, then make sure by the lock bits and by sampled cells that it happened. ``samples`` are flash bytes."""

    samples: tuple[Span, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFuse(AnyStep):
    """Write one fuse byte."""

    memory: MemoryKind
    value: int
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reenter(AnyStep):
    """Leave and enter again, at the fastest of ``candidates`` that is proven to work.

    :param candidates: SCK limits in Hz, fastest first; the last is believed to work (None: the programmer's own).
    :param known: fuse and lock bytes that the target must show at a clock, under their masks, before it is trusted.
    :param promised_hz: what the fuses promise to follow; less is worth a warning. None: nothing to compare with.
    :param new_clock: names the clock source that was just fused in, None where only SCK is raised.
    :param fixed_hz: what the recipe fixes, which failures must name.
    """

    candidates: tuple[int | None, ...]
    known: Mapping[MemoryKind, int]
    promised_hz: int | None = None
    new_clock: str | None = None
    fixed_hz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCells(AnyStep):
    """Write flash pages or pieces of EEPROM, in address order."""

    memory: MemoryKind
    pages: tuple[Segment, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCells(AnyStep):
    """Read ``spans`` back and compare ``expected``, each of which lies within one span."""

    memory: MemoryKind
    spans: tuple[Span, ...]
    expected: tuple[Segment, ...]
    after_erase: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLock(AnyStep):
    """Program lock bits."""

    value: int
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyBits(AnyStep):
    """Read fuse and lock bytes back and compare them under their masks.

    :param expected: every fuse byte and the lock byte: what was asked, as before where nothing was.
    :param asked: the bytes among them that the recipe names.
    """

    expected: Mapping[MemoryKind, int]
    asked: frozenset[MemoryKind] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(AnyStep):
    """Release reset: the target runs."""


Step = CheckWritable | EraseChip | WriteFuse | Reenter | WriteCells | VerifyCells | WriteLock | VerifyBits | Leave
"""Every kind of step. ``bytes`` counts cells moved: what progress is told in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done to one unit, in order.

    :param sck_key: what the SCK that is found is remembered for; None where none is looked for.
    :param found: what was remembered for it and is relied on.
    :param is_bold: also clocks are tried that the fuses make possible but do not promise.
    """

    part: str
    steps: tuple[Step, ...]
    sck_key: SckKey | None = None
    found: FoundSck | None = None
    is_bold: bool = False

    @property
    def total_bytes(self) -> int:
        """Bytes written and read back: what progress counts."""
        return sum(step.bytes for step in self.steps)

    @property
    def changes_target(self) -> bool:
        """True when any step changes the target; false where it already is as asked."""
        return any(step.is_destructive for step in self.steps)

"""From a recipe, the part found and the state it was found in to ordered, weighted steps. Pure.

What decides the order:

- *erase* is for writing flash: a recipe without a flash image never erases, so that ``enqueue --lfuse ..`` or
  ``--eeprom`` on a finished board changes what was named and nothing else. A recipe that must open lock bits therefore
  needs an image.
- *fuses that change the clock* come before the pages, then the part is entered again: it proves that the board runs
  from its new clock, and allows a faster SCK. They wait for the other fuses where the new clock is too slow to be
  programmed with, or where the same byte would shut ISP out.
- *blank pages* are not written after an erase, but everything the image defines is read back, blank or not.
- *remaining fuses* follow the proof of flash and EEPROM; *lock bits* come last, since they close the rest.
- every fuse byte is read back, also those nobody asked to change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ispd.catalog.fuses import clock_of, is_programmed
from ispd.errors import ErrorCode, Facts, ProgrammerError, RefusedError, TargetError
from ispd.flashing.sck import can_follow, fastest_sck, first_scks, safe_sck_hz
from ispd.flashing.session import TargetState
from ispd.model.image import BLANK, Image, Segment
from ispd.model.part import MemoryKind, Part
from ispd.model.recipe import Recipe
from ispd.model.span import Span
from ispd.programmers.contract import Capabilities

__all__ = [
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
    "plan_unit",
]

# Weights only spread a progress bar, so rough figures do: one byte over a 19200 baud line (0.52 ms) plus four SPI bytes
# at 125 kHz (0.26 ms); one instruction there and back; one way into programming mode.
_BYTE_S = 0.8e-3
_INSTRUCTION_S = 6e-3
_ENTRY_S = 0.1

_WRITE_ORDER = (MemoryKind.EFUSE, MemoryKind.HFUSE, MemoryKind.LFUSE)
"""The clock last: until then the part runs as it was found."""

_CLOCK_BITS = ("cksel", "sut", "ckdiv8", "ckopt")
_ISP_BITS = ("rstdisbl", "dwen")
_WORD_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnyStep:
    name: str
    weight_s: float
    bytes: int = 0
    is_destructive: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWritable(_AnyStep):
    """Read cells and refuse where one would have to change from 0 to 1, which only an erase does."""

    spans: tuple[Span, ...]
    expected: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseChip(_AnyStep):
    """Erase, then make sure by the lock bits and by sampled cells that it happened. ``samples`` are flash bytes."""

    samples: tuple[Span, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFuse(_AnyStep):
    """Write one fuse byte."""

    memory: MemoryKind
    value: int
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reenter(_AnyStep):
    """Leave and enter again, at ``sck_hz`` (None: the programmer's own), and find the same signature.

    ``new_clock`` names the clock source that was just fused in, None where only SCK is raised.
    """

    sck_hz: int | None
    new_clock: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCells(_AnyStep):
    """Write flash pages or pieces of EEPROM, in address order."""

    memory: MemoryKind
    pages: tuple[Segment, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCells(_AnyStep):
    """Read ``spans`` back and compare ``expected``, each of which lies within one span."""

    memory: MemoryKind
    spans: tuple[Span, ...]
    expected: tuple[Segment, ...]
    after_erase: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLock(_AnyStep):
    """Program lock bits."""

    value: int
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyBits(_AnyStep):
    """Read fuse and lock bytes back and compare them under their masks."""

    expected: Mapping[MemoryKind, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(_AnyStep):
    """Release reset: the target runs."""


Step = CheckWritable | EraseChip | WriteFuse | Reenter | WriteCells | VerifyCells | WriteLock | VerifyBits | Leave
"""Every kind of step; nothing else is executed. ``bytes`` counts cells moved, ``weight_s`` is a rough duration."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done to one unit, in order."""

    part: str
    steps: tuple[Step, ...]

    @property
    def total_weight_s(self) -> float:
        """Rough duration of all steps."""
        return sum(step.weight_s for step in self.steps)

    @property
    def total_bytes(self) -> int:
        """Bytes written and read back: what progress counts."""
        return sum(step.bytes for step in self.steps)

    @property
    def changes_target(self) -> bool:
        """True when any step changes the target; false where it already is as asked."""
        return any(step.is_destructive for step in self.steps)


def plan_unit(recipe: Recipe, part: Part, capabilities: Capabilities, before: TargetState) -> Plan:
    """Return the steps that make a part found in state ``before`` what ``recipe`` wants.

    Raises, before anything is touched: ``RefusedError`` (recipe-invalid, image-does-not-fit), ``ProgrammerError``
    (programmer-cannot), ``TargetError`` (target-locked where only an erase could do what is asked).
    """
    _check_reach(recipe, part, capabilities)
    will_erase = recipe.erase and len(recipe.flash) > 0
    early, late = _split_fuses(recipe, part, capabilities, before)
    steps: list[Step] = []
    if will_erase:
        steps.append(_erase(part))
    elif len(recipe.flash):
        steps.append(_check_writable(recipe.flash, part))
    steps += early
    steps += _reenter(recipe, part, capabilities, before, is_clock_new=bool(early))
    steps += _cells(recipe, part, before, will_erase=will_erase)
    steps += late
    steps += _bits(recipe, part, before, will_erase=will_erase)
    steps.append(Leave(name="leave", weight_s=_INSTRUCTION_S))
    plan = Plan(part.id, tuple(steps))
    if plan.changes_target and before.is_write_locked and not will_erase:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the lock bits (0x{before.lock:02X}) forbid writing",
            hint="only a chip erase opens them: enqueue an image, with erase",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK.value, actual=before.lock & part.lock_mask),
        )
    return plan


def _check_reach(recipe: Recipe, part: Part, capabilities: Capabilities) -> None:
    if not (len(recipe.flash) or recipe.eeprom or recipe.fuses or recipe.lock is not None):
        raise RefusedError(ErrorCode.RECIPE_INVALID, "the recipe changes nothing", hint="name an image or fuses")
    for kind, image in ((MemoryKind.FLASH, recipe.flash), (MemoryKind.EEPROM, recipe.eeprom or Image(()))):
        if image.span not in part.memory(kind).span:
            raise RefusedError(
                ErrorCode.IMAGE_DOES_NOT_FIT,
                f"the image ends at 0x{image.span.stop - 1:04X}, the {kind} of {part.name} at "
                f"0x{part.memory(kind).size_bytes - 1:04X}",
                facts=Facts(part=part.id, memory=kind.value, address=image.span.stop - 1),
            )
    missing = [memory for memory in recipe.fuses if part.fuse(memory) is None]
    if missing:
        raise RefusedError(ErrorCode.RECIPE_INVALID, f"{part.name} has no {', '.join(missing)}")
    limit_bytes = capabilities.max_flash_bytes
    if limit_bytes is not None and recipe.flash.span.stop > limit_bytes:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"the image ends at 0x{recipe.flash.span.stop - 1:05X}; this programmer reaches {limit_bytes} bytes of flash",
            hint="use another programmer for this part",
            facts=Facts(part=part.id, memory=MemoryKind.FLASH.value, address=recipe.flash.span.stop - 1),
        )


# fuses


def _split_fuses(
    recipe: Recipe, part: Part, capabilities: Capabilities, before: TargetState
) -> tuple[list[Step], list[Step]]:
    """Return the fuse bytes to write before the pages, and after them. A byte that matches is not written again."""
    changed = {
        memory: recipe.fuses[memory]
        for memory in _WRITE_ORDER
        if memory in recipe.fuses and (recipe.fuses[memory] ^ before.fuses[memory]) & part.mask(memory)
    }
    early: list[Step] = []
    late: list[Step] = []
    reachable = can_follow(part, {**before.fuses, **changed}, capabilities)
    for memory, value in changed.items():
        step = WriteFuse(
            name=f"write {memory}", weight_s=part.times.fuse_s + _INSTRUCTION_S, memory=memory, value=value
        )
        is_early = reachable and _changes_clock(part, memory, before.fuses[memory], value)
        (early if is_early and not _shuts_isp(part, memory, value) else late).append(step)
    if any(_shuts_isp(part, step.memory, step.value) for step in late if isinstance(step, WriteFuse)):
        return [], [*early, *late]  # one entry less than with a reset that would already count
    return early, late


def _changes_clock(part: Part, memory: MemoryKind, old: int, new: int) -> bool:
    groups = [part.bits[name] for name in _CLOCK_BITS if name in part.bits]
    return any(group.memory is memory and (old ^ new) & group.mask for group in groups)


def _shuts_isp(part: Part, memory: MemoryKind, value: int) -> bool:
    groups = [part.bits[name] for name in _ISP_BITS if name in part.bits]
    return any(group.memory is memory and group.is_programmed(value) for group in groups)


def _reenter(
    recipe: Recipe, part: Part, capabilities: Capabilities, before: TargetState, *, is_clock_new: bool
) -> list[Step]:
    fuses = {**before.fuses, **recipe.fuses} if is_clock_new else before.fuses
    first_hz = first_scks(capabilities, recipe.sck_hz)[0]
    limit_hz = safe_sck_hz(part, fuses)
    sck_hz = first_hz
    if recipe.sck_hz is None and limit_hz is not None:
        sck_hz = fastest_sck(capabilities, limit_hz)
    if is_clock_new:
        words = clock_of(part, fuses).words
        return [Reenter(name="enter with new clock", weight_s=_ENTRY_S, sck_hz=sck_hz, new_clock=words)]
    moves_bytes = len(recipe.flash) or recipe.eeprom
    if moves_bytes and sck_hz is not None and first_hz is not None and sck_hz > first_hz:
        return [Reenter(name="raise sck", weight_s=_ENTRY_S, sck_hz=sck_hz, new_clock=None)]
    return []


# flash and EEPROM


def _erase(part: Part) -> EraseChip:
    starts = {0, part.flash.size_bytes - _WORD_BYTES}
    if part.boot is not None:
        starts |= {part.flash.size_bytes - (part.boot.min_bytes << shift) for shift in range(4)}
    samples = tuple(Span(start, start + _WORD_BYTES) for start in sorted(starts))
    weight_s = part.times.erase_s + _INSTRUCTION_S * (2 + len(samples) * _WORD_BYTES)
    return EraseChip(name="erase", weight_s=weight_s, samples=samples)


def _check_writable(image: Image, part: Part) -> CheckWritable:
    spans = _joined(segment.span.aligned(part.flash.page_bytes) for segment in image.segments)
    size_bytes = sum(map(len, spans))
    return CheckWritable(
        name="check flash", weight_s=size_bytes * _BYTE_S, bytes=size_bytes, spans=spans, expected=image.segments
    )


def _cells(recipe: Recipe, part: Part, before: TargetState, *, will_erase: bool) -> list[Step]:
    writes: list[Step] = []
    verifies: list[Step] = []
    if len(recipe.flash):
        pages = tuple(recipe.flash.pages(part.flash.page_bytes))
        written = tuple(page for page in pages if not (will_erase and _is_blank(page)))
        writes += _write(MemoryKind.FLASH, written, part.times.flash_s)
        # without an erase the rest of a page keeps what it held
        expected = pages if will_erase else recipe.flash.segments
        spans = _joined(page.span for page in pages)
        verifies.append(_verify(MemoryKind.FLASH, spans, expected, after_erase=will_erase))
    if recipe.eeprom is not None and len(recipe.eeprom):
        is_blank_now = will_erase and not is_programmed(part, "eesave", before.fuses)
        pieces = tuple(_eeprom_pieces(recipe.eeprom, part.eeprom.page_bytes))
        written = tuple(piece for piece in pieces if not (is_blank_now and _is_blank(piece)))
        writes += _write(MemoryKind.EEPROM, written, part.times.eeprom_s)
        spans = _joined(segment.span.aligned(_WORD_BYTES) for segment in recipe.eeprom.segments)
        verifies.append(_verify(MemoryKind.EEPROM, spans, recipe.eeprom.segments, after_erase=is_blank_now))
    return [*writes, *verifies]


def _is_blank(segment: Segment) -> bool:
    return segment.data.count(BLANK) == len(segment.data)


def _eeprom_pieces(image: Image, page_bytes: int) -> Iterable[Segment]:
    """Cut at pages but never pad: an EEPROM byte is erased when written, and its neighbours are not ours."""
    for segment in image.segments:
        for block in segment.span.blocks(page_bytes):
            yield Segment(block.start, image.bytes_in(block))


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join spans, sorted by address, that touch or overlap."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start <= joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(span.stop, joined[-1].stop))
        else:
            joined.append(span)
    return tuple(joined)


def _write(memory: MemoryKind, pages: tuple[Segment, ...], page_s: float) -> list[Step]:
    if not pages:
        return []
    size_bytes = sum(len(page.data) for page in pages)
    weight_s = size_bytes * _BYTE_S + len(pages) * page_s
    return [WriteCells(name=f"write {memory}", weight_s=weight_s, bytes=size_bytes, memory=memory, pages=pages)]


def _verify(
    memory: MemoryKind, spans: tuple[Span, ...], expected: tuple[Segment, ...], *, after_erase: bool
) -> VerifyCells:
    size_bytes = sum(map(len, spans))
    return VerifyCells(
        name=f"verify {memory}",
        weight_s=size_bytes * _BYTE_S,
        bytes=size_bytes,
        memory=memory,
        spans=spans,
        expected=expected,
        after_erase=after_erase,
    )


# verifying fuses, and lock bits


def _bits(recipe: Recipe, part: Part, before: TargetState, *, will_erase: bool) -> list[Step]:
    fuses = {fuse.memory: recipe.fuses.get(fuse.memory, before.fuses[fuse.memory]) for fuse in part.fuses}
    lock = part.lock_mask if will_erase else before.lock & part.lock_mask
    wanted = lock if recipe.lock is None else recipe.lock & part.lock_mask
    if wanted & ~lock:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the lock bits read 0x{lock:02X} and cannot be opened to 0x{wanted:02X}",
            hint="only a chip erase opens lock bits: enqueue an image, with erase",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK.value, expected=wanted, actual=lock),
        )
    weight_s = _INSTRUCTION_S * (len(fuses) + 1)
    if wanted == lock:
        return [VerifyBits(name="verify fuses", weight_s=weight_s, expected={**fuses, MemoryKind.LOCK: lock})]
    return [
        VerifyBits(name="verify fuses", weight_s=weight_s, expected={**fuses, MemoryKind.LOCK: lock}),
        WriteLock(name="write lock", weight_s=part.times.fuse_s + _INSTRUCTION_S, value=wanted),
        VerifyBits(name="verify lock", weight_s=weight_s, expected={**fuses, MemoryKind.LOCK: wanted}),
    ]

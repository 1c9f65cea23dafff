"""What will be done to one STM32F1, in order: pure, from the recipe and what the chip tells.

What decides the order: *a protection* that is in the way goes first, with consent, and takes all of flash with it; *erase* is for writing
flash, as on AVRs; *blank* cells are not written after an erase but read back; *option bytes* follow the proof of flash; *RDP* comes last,
since flash cannot be read under it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from ispd.errors import ErrorCode, Facts, RefusedError, TargetError
from ispd.flashing.plan_cells import is_blank, joined, verify_step, with_blanks
from ispd.flashing.steps import AnyStep, Leave, VerifyBits, VerifyCells
from ispd.flashing.stm32f1_flash import block_sizes
from ispd.flashing.stm32f1_identify import Stm32Facts
from ispd.model.image import BLANK, Image, Segment
from ispd.model.part import OPTION_BYTES, MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from ispd.model.span import Span
from ispd.wire.stm32f1 import RDP_OPEN, OptionBytes, protected_pages

__all__ = [
    "CheckBlank",
    "EraseAll",
    "ErasePages",
    "Stm32Plan",
    "Stm32Step",
    "Unlock",
    "WriteFlash",
    "WriteOptions",
    "blocks_of",
    "plan_stm32f1",
    "plan_unlock",
]

_UNLOCK_HINT: Final = "--unlock removes the protection and erases all of its flash"
_ATTACHED: Final = (
    "reading is protected now: with a debugger attached meanwhile the chip runs its program only after its supply was off; "
    "unplug the board's supply once"
)
"""PM0075, "Read protection"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlock(AnyStep):
    """Write option bytes without protection, reset, make sure that they are in force, and flash blank where reading was protected.

    :param kind: what is protected, in a word.
    """

    options: OptionBytes
    kind: str
    expects_blank: bool
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckBlank(AnyStep):
    """Read cells and refuse where a half-word is neither blank nor as it should be; only the blank ones are written."""

    spans: tuple[Span, ...]
    expected: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasePages(AnyStep):
    """Erase pages, by their addresses."""

    pages: tuple[int, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseAll(AnyStep):
    """Erase all of the main flash."""

    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFlash(AnyStep):
    """Program flash, block by block, in address order. Blocks fit into RAM and hold whole half-words.

    :param after_check: only what the check found blank is written.
    """

    blocks: tuple[Segment, ...]
    after_check: bool = False
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions(AnyStep):
    """Write option bytes, reset, and make sure that they are in force."""

    options: OptionBytes
    is_destructive: ClassVar[bool] = True


Stm32Step = Unlock | CheckBlank | EraseAll | ErasePages | WriteFlash | VerifyCells | WriteOptions | VerifyBits | Leave
"""Every kind of step. ``bytes`` counts bytes moved."""


@dataclass(frozen=True, slots=True)
class Stm32Plan:
    """What will be done, in order."""

    steps: tuple[Stm32Step, ...]
    warnings: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes written and read back: what progress counts."""
        return sum(step.bytes for step in self.steps)


def plan_unlock(recipe: Recipe, facts: Stm32Facts) -> Unlock | None:
    """Return how a protection that is in the way is removed, None where none is.

    What is in the way: any read protection where something is to be changed, and write protection of a page that is to be written or erased. Raises
    ``TargetError`` (target-locked) where nobody consented.
    """
    guarded = protected_pages(facts.wrpr, _touched(recipe, facts), facts.part.flash.page_bytes)
    if facts.is_read_protected:
        if not _changes_anything(recipe, facts):
            return None
    elif not guarded:
        return None
    kind = "read" if facts.is_read_protected else "write"
    if not recipe.unlock:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the chip is {kind} protected{_cut_short(facts)}",
            hint=_UNLOCK_HINT,
            facts=Facts(part=facts.part.id, memory=MemoryKind.FLASH.value),
        )
    return Unlock(name="unlock", options=facts.options.opened(), kind=kind, expects_blank=facts.is_read_protected)


def _cut_short(facts: Stm32Facts) -> str:
    """Say what no owner does to a chip: erased, its option bytes protect it just as well."""
    is_erased = all(value == BLANK for value in facts.options.values)
    return ": its option bytes are erased, as after writing them was cut short" if is_erased else ""


def plan_stm32f1(recipe: Recipe, facts: Stm32Facts) -> Stm32Plan:
    """Return how a chip without protection in the way gets what the recipe wants.

    Raises ``RefusedError`` (recipe-invalid, image-does-not-fit, image-too-large).
    """
    _check(recipe, facts)
    steps: list[Stm32Step] = []
    warnings: list[str] = []
    if len(recipe.flash):
        steps += _flash_steps(recipe, facts)
    steps += _option_steps(recipe, facts)
    if any(step.name == "write lock" for step in steps):
        warnings.append(_ATTACHED)
    steps.append(Leave(name="leave"))
    return Stm32Plan(tuple(steps), tuple(warnings))


# -- what may not be ---------------------------------------------------------------------------------------------------


def _check(recipe: Recipe, facts: Stm32Facts) -> None:
    part = facts.part
    if not (len(recipe.flash) or recipe.fuses or recipe.lock is not None):
        raise RefusedError(ErrorCode.RECIPE_INVALID, "the recipe changes nothing", hint="name an image or option bytes")
    missing = [memory for memory in recipe.fuses if memory not in OPTION_BYTES]
    if recipe.eeprom is not None:
        missing.append(MemoryKind.EEPROM)
    if missing:
        raise RefusedError(ErrorCode.RECIPE_INVALID, f"{part.name} has no {', '.join(missing)}")
    if len(recipe.flash):
        _check_fit(recipe.flash, facts)
    if recipe.verify is VerifyScope.FULL and len(recipe.flash) and not _erases_all(recipe):
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "all of flash can only be verified after an erase of all of it",
            hint="erase the whole chip, or verify only what was written",
        )


def _check_fit(image: Image, facts: Stm32Facts) -> None:
    part = facts.part
    # what a protected chip does not tell is asked again once it is open
    is_hidden = facts.is_read_protected and not facts.tells_size
    flash = part.flash.span if is_hidden else facts.flash
    if image.span in flash:
        return
    at = Facts(part=part.id, memory=MemoryKind.FLASH.value, address=image.span.stop - 1)
    if image.span not in part.flash.span:
        raise RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"the image is at {image.span}, the flash of {part.name} at {part.flash.span}",
            hint="was it made for this chip?",
            facts=at,
        )
    raise RefusedError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"the image ends at 0x{image.span.stop - 1:08X}, this chip's flash at 0x{flash.stop - 1:08X}",
        hint="was it made for a chip with more flash?",
        facts=at,
    )


def _erases_all(recipe: Recipe) -> bool:
    return recipe.erase and not recipe.keeps_rest


def _touched(recipe: Recipe, facts: Stm32Facts) -> tuple[int, ...]:
    """Return the numbers of the pages that are erased or written."""
    flash = facts.part.flash
    if not len(recipe.flash):
        return ()
    if _erases_all(recipe):
        return tuple(range(facts.flash_bytes // flash.page_bytes))
    return tuple((page.start - flash.start) // flash.page_bytes for page in recipe.flash.pages(flash.page_bytes))


def _changes_anything(recipe: Recipe, facts: Stm32Facts) -> bool:
    return len(recipe.flash) > 0 or _wanted(recipe, facts) != facts.options


# -- flash -------------------------------------------------------------------------------------------------------------


def _flash_steps(recipe: Recipe, facts: Stm32Facts) -> Iterable[Stm32Step]:
    """Yield what erases, writes and reads back."""
    part = facts.part
    pages = tuple(recipe.flash.pages(part.flash.page_bytes))
    spans = joined(page.span for page in pages)
    if not recipe.erase:
        size = sum(map(len, spans))
        expected = recipe.flash.segments
        yield CheckBlank(name="check flash", bytes=size, spans=spans, expected=expected)
        blocks = blocks_of(recipe.flash, facts.block_bytes)
    else:
        expected = pages
        if recipe.keeps_rest:
            yield ErasePages(name="erase", pages=tuple(page.start for page in pages))
        else:
            yield EraseAll(name="erase")
        written = Image.of(page for page in pages if not is_blank(page))
        blocks = blocks_of(written, facts.block_bytes)
    if blocks:
        size = sum(len(block.data) for block in blocks)
        yield WriteFlash(name="write flash", bytes=size, blocks=blocks, after_check=not recipe.erase)
    if recipe.verify is VerifyScope.FULL:
        spans, expected = (facts.flash,), with_blanks(facts.flash, pages)
    yield verify_step(MemoryKind.FLASH, spans, expected, after_erase=recipe.erase)


def blocks_of(image: Image, most_bytes: int) -> tuple[Segment, ...]:
    """Return what is to be programmed: whole half-words, filled with FF, in pieces of at most ``most_bytes``, without blank ends."""
    blocks = []
    sizes = block_sizes(most_bytes)
    for span in joined(segment.span.aligned(2) for segment in image.segments):
        start = span.start
        while start < span.stop:
            piece = Span(start, min(span.stop, start + next(sizes)))
            data = image.bytes_in(piece)
            kept = data.rstrip(bytes([BLANK]))
            if kept:
                blocks.append(Segment(start, data[: len(kept) + len(kept) % 2]))
            start = piece.stop
    return tuple(blocks)


# -- option bytes ------------------------------------------------------------------------------------------------------


def _wanted(recipe: Recipe, facts: Stm32Facts) -> OptionBytes:
    """Return option bytes as they are at the end: bits that do not exist as ones, what need not change as it is."""
    before = facts.options
    values = [before.rdp if recipe.lock is None else recipe.lock]
    for kind, value in zip(OPTION_BYTES, before.values[1:], strict=True):
        mask = facts.part.mask(kind)
        asked = recipe.fuses.get(kind, value)
        values.append(asked | ~mask & 0xFF if (asked ^ value) & mask else value)
    return OptionBytes.of_values(values)


def _option_steps(recipe: Recipe, facts: Stm32Facts) -> Iterable[Stm32Step]:
    before = facts.options
    final = _wanted(recipe, facts)
    asked = frozenset(recipe.fuses)
    all_asked = asked | ({MemoryKind.LOCK} if recipe.lock is not None else frozenset())
    is_locking = final.rdp not in (before.rdp, RDP_OPEN)
    first = replace(final, rdp=before.rdp) if is_locking else final
    if first != before:
        yield WriteOptions(name="write option bytes", options=first)
    yield VerifyBits(name="verify fuses", expected=_bits(first), asked=asked if is_locking else all_asked)
    if is_locking:
        yield WriteOptions(name="write lock", options=final)
        yield VerifyBits(name="verify lock", expected=_bits(final), asked=all_asked)


def _bits(options: OptionBytes) -> Mapping[MemoryKind, int]:
    rdp, *others = options.values
    return {**dict(zip(OPTION_BYTES, others, strict=True)), MemoryKind.LOCK: rdp}

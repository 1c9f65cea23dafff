"""What will be done to one STM32F1, in order: pure, from what is wanted and what the chip is."""

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import ClassVar

from ispd.errors import ErrorCode, Facts, RefusedError, TargetError
from ispd.flashing.stm32f1_identify import Stm32Facts
from ispd.model.image import BLANK, Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdSettings
from ispd.wire.stm32f1 import FLASH_BASE, OptionBytes, protected_pages

__all__ = [
    "EraseAll",
    "ErasePages",
    "OpenProtection",
    "RunTarget",
    "Stm32Erase",
    "Stm32Plan",
    "Stm32Step",
    "Stm32Wish",
    "VerifyFlash",
    "WriteFlash",
    "WriteOptions",
    "plan_opening",
    "plan_stm32f1",
]


@unique
class Stm32Erase(StrEnum):
    """What is erased before writing."""

    PAGES = "pages"
    """Every page that holds a byte of the image, and no other."""
    CHIP = "chip"
    """All of the main flash: quicker from two pages on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32Wish:
    """What is wanted of a unit.

    :param image: what goes into flash; addresses from 0x08000000 on, or from 0 on, which is the same flash.
    :param opens_protection: a read or write protection may be removed, which erases the chip: somebody consented to it.
    :param flash_bytes: overrules what the chip says of its flash; None to believe it.
    :param options: option bytes at the end, in force from the reset on; None to leave them.
    """

    image: Image
    erase: Stm32Erase = Stm32Erase.PAGES
    opens_protection: bool = False
    flash_bytes: int | None = None
    options: OptionBytes | None = None
    settings: SwdSettings = field(default_factory=SwdSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnyStep:
    name: str
    bytes: int = 0
    is_destructive: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenProtection(_AnyStep):
    """Write option bytes without protection, reset, make sure that flash is open, and blank where reading was protected."""

    options: OptionBytes
    expects_blank: bool
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasePages(_AnyStep):
    """Erase pages, by their addresses."""

    pages: tuple[int, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseAll(_AnyStep):
    """Erase all of the main flash."""

    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFlash(_AnyStep):
    """Program erased flash, block by block, in address order. Blocks fit into RAM and hold whole half-words."""

    blocks: tuple[Segment, ...]
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyFlash(_AnyStep):
    """Read flash back and compare, pages that the image fills only in part to their ends."""

    expected: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions(_AnyStep):
    """Write option bytes, reset, and make sure that they are in force."""

    options: OptionBytes
    is_destructive: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTarget(_AnyStep):
    """Reset the chip and let it run."""


Stm32Step = OpenProtection | ErasePages | EraseAll | WriteFlash | VerifyFlash | WriteOptions | RunTarget
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


def plan_opening(wish: Stm32Wish, facts: Stm32Facts) -> Stm32Plan:
    """Return how a protection that is in the way is removed; no steps where none is.

    What is in the way: any read protection, and write protection of a page that is to be written. Raises ``TargetError``
    (target-locked) where nobody consented.
    """
    pages = tuple((page.start - FLASH_BASE) // facts.family.page_bytes for page in _pages(wish, facts))
    if wish.erase is Stm32Erase.CHIP:
        pages = tuple(range(facts.flash_bytes // facts.family.page_bytes))
    guarded = protected_pages(facts.wrpr, pages, facts.family.page_bytes)
    if not facts.is_read_protected and not guarded:
        return Stm32Plan(())
    kind = "read" if facts.is_read_protected else "write"
    if not wish.opens_protection:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the chip is {kind} protected",
            hint="removing the protection erases all of its flash: agree to that, and flash it again",
            facts=Facts(memory=MemoryKind.FLASH.value),
        )
    step = OpenProtection(
        name="open protection",
        options=facts.options.opened(),
        expects_blank=facts.is_read_protected,
    )
    return Stm32Plan((step,), (f"the chip was {kind} protected; its protection was removed",))


def plan_stm32f1(wish: Stm32Wish, facts: Stm32Facts) -> Stm32Plan:
    """Return how an open chip gets what is wanted.

    Raises ``RefusedError``: image-does-not-fit for an image outside of flash, image-too-large for one beyond its end,
    image-invalid for an empty one.
    """
    pages = _pages(wish, facts)
    blocks = _blocks(pages, facts.family.buffer_bytes)
    written = sum(len(block.data) for block in blocks)
    read = sum(len(page.data) for page in pages)
    erase: Stm32Step = EraseAll(name="erase chip")
    if wish.erase is Stm32Erase.PAGES:
        erase = ErasePages(name="erase pages", pages=tuple(page.start for page in pages))
    steps: list[Stm32Step] = [
        erase,
        WriteFlash(name="write flash", bytes=written, blocks=blocks),
        VerifyFlash(name="verify flash", bytes=read, expected=Image.of(pages).segments),
    ]
    if wish.options is not None:
        steps.append(WriteOptions(name="write options", options=wish.options))
    steps.append(RunTarget(name="run"))
    return Stm32Plan(tuple(steps), _doubts(wish, facts))


def _flash_bytes(wish: Stm32Wish, facts: Stm32Facts) -> int:
    return facts.flash_bytes if wish.flash_bytes is None else wish.flash_bytes


def _pages(wish: Stm32Wish, facts: Stm32Facts) -> list[Segment]:
    """Return whole pages at their addresses in flash. Raises ``RefusedError`` where the image does not fit."""
    image = _located(wish.image)
    if not len(image):
        raise RefusedError(ErrorCode.IMAGE_INVALID, "the image is empty")
    flash = Span(FLASH_BASE, FLASH_BASE + _flash_bytes(wish, facts))
    if image.span.start < flash.start or image.span.start >= flash.start + facts.family.largest_flash_bytes:
        raise RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"the image is at {image.span}, which is not flash ({flash})",
            hint="was it made for this chip?",
        )
    if image.span.stop > flash.stop:
        raise RefusedError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"the image ends at 0x{image.span.stop - 1:08X}, flash at 0x{flash.stop - 1:08X}",
            hint="was it made for this chip? say how much flash the chip has where it tells too little",
        )
    return list(image.pages(facts.family.page_bytes))


def _located(image: Image) -> Image:
    """Return an image at its address in flash; what is linked for 0 means the same memory (RM0008, boot configuration)."""
    if image.span.stop > FLASH_BASE:
        return image
    return Image.of(Segment(FLASH_BASE + one.start, one.data) for one in image.segments)


def _blocks(pages: list[Segment], block_bytes: int) -> tuple[Segment, ...]:
    """Return what is to be programmed: pages side by side joined, cut to what fits into RAM, without blank ends."""
    blocks = []
    for run in Image.of(pages).segments:
        for start in range(0, len(run.data), block_bytes):
            data = run.data[start : start + block_bytes].rstrip(bytes([BLANK]))
            if data:
                blocks.append(Segment(run.start + start, data + bytes([BLANK]) * (len(data) % 2)))
    return tuple(blocks)


def _doubts(wish: Stm32Wish, facts: Stm32Facts) -> tuple[str, ...]:
    """Return what looks wrong with an image that begins where the chip starts from."""
    image = _located(wish.image)
    if image.span.start != FLASH_BASE or len(image.segments[0].data) < 8:
        return ()
    stack, reset = (int.from_bytes(image.segments[0].data[at : at + 4], "little") for at in (0, 4))
    flash = Span(FLASH_BASE, FLASH_BASE + _flash_bytes(wish, facts))
    if stack >> 20 != 0x200 or not reset & 1 or (reset - 1) not in flash:
        return (f"the image does not begin like a program (stack 0x{stack:08X}, start 0x{reset:08X})",)
    if (reset - 1) not in image.span:
        return (f"the image starts at 0x{reset - 1:08X}, where it has nothing: was it linked for another address?",)
    return ()

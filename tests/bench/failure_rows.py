"""The rows of ``test_failure_hints``: what is on the slot, what is asked for, and what is to be read about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.faults import (
    CorruptReply,
    DropReply,
    EchoOnly,
    Fault,
    LineNoise,
    LostErase,
    LostPage,
    MisoStuck,
    MosiMisoShort,
    NoisyReplies,
    ReadFlips,
    ReadsWrap,
    SckCeiling,
    Silent,
    StuckBits,
    SwappedWires,
    WeakWrites,
)
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget, Circuit
from vbench.violation import ViolationKind

PARTS = load_parts()
CONTENT = bytes(at * 37 + 1 & 0xFE for at in range(384))
LFUSE, HFUSE, EFUSE, LOCK = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE, MemoryKind.LOCK


def flash(data: bytes = CONTENT, start: int = 0, **fields: object) -> Recipe:
    return replace(Recipe(flash=Image.of([Segment(start, data)]), accept_fuses=True), **fields)  # type: ignore[arg-type]  # names of Recipe's fields


def board(part: str = "atmega32u4", *faults: Fault, **options: object) -> AvrTarget:
    return AvrTarget(PARTS.avr(part), faults=faults, **options)  # type: ignore[arg-type]  # names of AvrTarget's own


def dirty(target: AvrTarget) -> AvrTarget:
    """A board that was flashed before: flash and EEPROM hold something else."""
    target.flash[:] = bytes(len(target.flash))
    target.eeprom[:] = bytes(len(target.eeprom))
    return target


@dataclass(frozen=True, kw_only=True)
class Row:
    """``code`` None: the board passes. ``says`` are pieces of message and hint; ``steps`` names that the record holds."""

    name: str
    target: Callable[[], AvrTarget | None] = board
    programmer: Callable[[AvrTarget | None], EmulatedSerial | EmulatedUsb] = lambda target: SerialProgrammer(
        Flavour.UNO, target=target
    )
    kind: str = "stk500v1"
    baud: int | None = None
    recipe: Recipe = field(default_factory=flash)
    code: ErrorCode | None = None
    says: Sequence[str] = ()
    steps: Sequence[str] = ()
    faster_than_hz: int = 0
    may_break: frozenset[ViolationKind] = frozenset()


def interrupted(target: AvrTarget | None) -> SerialProgrammer:
    """A programmer that was told nonsense, which it refused with 15s, and then left in the middle of a block."""
    programmer = SerialProgrammer(Flavour.LEONARDO, target=target)
    programmer.feed(b"\x40\x89\x05\x20" * 3 + b"\x64\x00\x80F" + bytes(60), 0.0)
    return programmer


def half_pages() -> AvrPart:
    """An ATmega32U4 whose pages are half as long as the catalog thinks."""
    part = PARTS.avr("atmega32u4")
    return replace(part, flash=replace(part.flash, page_bytes=64))


class Unasserted(SerialProgrammer):
    """A board whose host never asserts DTR or RTS."""

    def opened(self, at: float, *, baud: int, dtr: bool = False, rts: bool = False) -> None:  # noqa: ARG002 - the point
        super().opened(at, baud=baud, dtr=False, rts=False)


SERIAL_ROWS = [
    # what the signature says
    Row(
        name="signature FF: no board",
        target=lambda: None,
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("signature FF FF FF", "check VCC, GND and MISO"),
    ),
    Row(
        name="signature FF: no supply",
        target=lambda: board("atmega32u4", Silent(level=0xFF)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("check VCC, GND and MISO",),
    ),
    Row(
        name="signature FF: MISO shorted to VCC",
        target=lambda: board("atmega32u4", MisoStuck(0xFF)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("check VCC, GND and MISO",),
    ),
    Row(
        name="signature 00: RESET wire",
        target=lambda: board("atmega32u4", Silent(level=0x00)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("signature 00 00 00", "check the RESET wire first, then try a slower SCK, then check the target's clock"),
    ),
    Row(
        name="signature 00: MISO shorted to GND",
        target=lambda: board("atmega32u4", MisoStuck(0x00)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("check the RESET wire first", "MISO"),
    ),
    Row(
        name="signature 00: crystal missing",
        target=lambda: board("atmega32u4", fuses={LFUSE: 0xDE}, circuit=Circuit(crystal_hz=None)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("then check the target's clock",),
    ),
    Row(
        name="signature 00: external clock fused, none fed",
        target=lambda: board("atmega328p", fuses={LFUSE: 0x60}),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("then check the target's clock",),
    ),
    Row(
        name="signature 00: RSTDISBL",
        target=lambda: board("atmega328p", fuses={HFUSE: 0x59}),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("check the RESET wire first", "RSTDISBL"),
    ),
    Row(
        name="signature 00: DWEN",
        target=lambda: board("attiny85", fuses={HFUSE: 0x9F}),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("DWEN",),
    ),
    Row(
        name="garbage: SCK too fast for the target's clock",
        target=lambda: board("attiny85", fuses={LFUSE: 0x64}),
        says=("lower SCK",),
        code=ErrorCode.SIGNATURE_UNKNOWN,
    ),
    Row(
        name="garbage: long wires",
        target=lambda: board("atmega32u4", SckCeiling(100e3)),
        code=ErrorCode.SIGNATURE_UNKNOWN,
        says=("lower SCK, shorten the wires", "programmer's firmware"),
    ),
    Row(
        name="signature changes between reads",
        target=lambda: board("atmega32u4", NoisyReplies(0.3)),
        code=ErrorCode.SIGNATURE_UNKNOWN,
        says=("not twice in a row; use a slower clock, shorten the wires, press the contacts on",),
    ),
    Row(
        name="MOSI and MISO touch, or are on one pin",
        target=lambda: board("atmega32u4", MosiMisoShort()),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("replies equal the bytes sent", "both wires are on one pin: check MOSI and MISO"),
    ),
    Row(
        name="MOSI and MISO swapped, line high",
        target=lambda: board("atmega32u4", SwappedWires(0xFF)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("MOSI and MISO are not swapped",),
    ),
    Row(
        name="MOSI and MISO swapped, line low",
        target=lambda: board("atmega32u4", SwappedWires(0x00)),
        code=ErrorCode.TARGET_NOT_RESPONDING,
        says=("MOSI and MISO are not swapped",),
    ),
    Row(
        name="signature 00 01 02",
        target=lambda: board("atmega32u4", EchoOnly()),
        code=ErrorCode.TARGET_LOCKED,
        says=("only echoes (signature 00 01 02)", "a chip erase unlocks", "check MISO"),
    ),
    Row(
        name="another part than asked",
        target=lambda: board("atmega328p"),
        recipe=flash(part="atmega32u4"),
        code=ErrorCode.SIGNATURE_MISMATCH,
        says=("the board has ATmega328P (signature 1E 95 0F), not ATmega32U4", "take this board out"),
    ),
    Row(
        name="1E 95 0F from the programmer's own bootloader",
        programmer=lambda target: SerialProgrammer(
            Flavour.UNO, target=target, baud=115200, auto_reset=False, stuck_in_bootloader=True
        ),
        baud=115200,
        code=ErrorCode.PROGRAMMER_IS_BOOTLOADER,
        says=("a bootloader answers", "nothing was written", "10 uF between RESET and GND"),
    ),
    # what reading back says
    Row(
        name="erase without effect",
        target=lambda: dirty(board("attiny85", LostErase())),
        code=ErrorCode.ERASE_FAILED,
        says=("flash at 0x0000 reads 0x00 after the erase", "check the supply voltage"),
    ),
    Row(
        name="EEPROM kept by an erase",
        target=lambda: dirty(board("atmega32u4", LostErase(MemoryKind.EEPROM))),
        recipe=flash(eeprom=Image.of([Segment(0, bytes([0xFF] * 64))])),
        code=ErrorCode.ERASE_FAILED,
        says=("old contents shine through", "clear EESAVE"),
    ),
    Row(
        name="EEPROM kept by EESAVE is written all the same",
        target=lambda: dirty(board("atmega32u4", fuses={HFUSE: 0x91})),
        recipe=flash(eeprom=Image.of([Segment(0, bytes([0xFF] * 8))])),
    ),
    Row(
        name="scattered bytes: reads at the limit",
        target=lambda: board("atmega32u4", ReadFlips(rate=0.1)),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("scattered bytes differ: use a slower SCK, shorter wires and a steadier supply",),
    ),
    Row(
        name="scattered bytes: supply dips while writing",
        target=lambda: board("atmega32u4", WeakWrites(0.1)),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("scattered bytes differ", "steadier supply"),
    ),
    Row(
        name="one bad cell",
        target=lambda: board("atmega32u4", StuckBits(memory=MemoryKind.FLASH, address=0x21, mask=1, level=1)),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("flash at 0x0021 reads 0xC7 instead of 0xC6", "the chip is bad, replace it"),
    ),
    Row(
        name="a page of FF",
        target=lambda: board("atmega32u4", LostPage(0x80)),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("flash at 0x0080 reads 0xFF", "whole pages were not written", "supply"),
    ),
    Row(
        name="page size wrong",
        target=lambda: AvrTarget(half_pages()),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("pages are 64 bytes, not 128", "check the page size in its part file"),
    ),
    Row(
        name="wrong above 0x10000 only",
        target=lambda: board("at90usb1286", ReadsWrap(0x10000)),
        recipe=Recipe(flash=Image.of([Segment(0xFE00, bytes(range(1, 201)) * 5)])),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("flash at 0x10000 reads", "only addresses from 0x10000 differ"),
    ),
    Row(
        name="wrong above 0x20000 only",
        target=lambda: board("atmega2560", ReadsWrap(0x20000)),
        recipe=Recipe(flash=Image.of([Segment(0x0, CONTENT[1:257]), Segment(0x20000, CONTENT)])),
        code=ErrorCode.VERIFY_MISMATCH,
        says=("flash at 0x20000 reads", "only addresses from 0x20000 differ", "extended address"),
    ),
    # fuses and lock bits
    Row(
        name="fuse bits that do not exist",
        target=lambda: board("atmega32u4", unimplemented=0x00),
        recipe=flash(fuses={EFUSE: 0xCB}),
    ),
    Row(
        name="lock bits that do not exist",
        target=lambda: board("atmega32u4", unimplemented=0x00),
        recipe=flash(lock=0xEF),
    ),
    Row(
        name="fuse write refused by LB1",
        target=lambda: board("atmega32u4", lock=0x3E),
        recipe=Recipe(flash=Image(()), fuses={LFUSE: 0xDE}, accept_fuses=True),
        code=ErrorCode.TARGET_LOCKED,
        says=("the lock bits (0xFE) forbid writing", "only a chip erase opens them"),
    ),
    Row(
        name="fuse write without effect",
        target=lambda: board("atmega32u4", StuckBits(memory=EFUSE, address=0, mask=0x08, level=0)),
        recipe=flash(fuses={EFUSE: 0xFB}),
        code=ErrorCode.FUSE_MISMATCH,
        says=("efuse reads", "a fuse that does not change is locked"),
    ),
    Row(
        name="lock bits without effect",
        target=lambda: board("atmega32u4", StuckBits(memory=LOCK, address=0, mask=0x10, level=1)),
        recipe=flash(lock=0xEF),
        code=ErrorCode.LOCK_MISMATCH,
        says=("lock reads",),
    ),
    Row(
        name="new clock fuses act after a new entry",
        recipe=flash(fuses={LFUSE: 0xFF}),
        steps=("write lfuse", "enter with new clock"),
    ),
    # the programmer and its line
    Row(
        name="STK500v1 answers 15, and waits for the rest of a block that somebody else began",
        programmer=interrupted,
    ),
    Row(
        name="framing lost in the middle",
        programmer=lambda target: SerialProgrammer(
            Flavour.UNO, target=target, faults=[LineNoise(150, b"\x15\x15\x15"), DropReply(151), CorruptReply(152)]
        ),
        code=ErrorCode.PROTOCOL_REMOTE,
        says=("framing was lost: check the baud rate, and that no other program uses the port",),
    ),
    Row(
        name="wrong baud rate",
        programmer=lambda target: SerialProgrammer(Flavour.UART, target=target, baud=57600),
        code=ErrorCode.PROGRAMMER_SILENT,
        says=("nothing on /bench/A1 answers", "baud rate"),
    ),
    Row(name="silent 1.7 s after DTR reset it"),
    Row(
        name="DTR and RTS do not reach a Leonardo",
        programmer=lambda target: Unasserted(Flavour.LEONARDO, target=target),
        code=ErrorCode.PROGRAMMER_SILENT,
        says=("DTR",),
    ),
]

"""Which STM32F1 is on the slot, how much flash it has, and how it is protected."""

from dataclasses import dataclass
from typing import Final

from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, Facts, TargetError
from ispd.flashing.readback import Unwatched
from ispd.flashing.stm32f1_flash import block_bytes
from ispd.flashing.target_state import TargetState
from ispd.flashing.verdict import unknown_part
from ispd.model.part import OPTION_BYTES, MemoryKind, Signature, Stm32Part
from ispd.model.recipe import ClonePolicy
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdConnection, SwdProgrammer
from ispd.wire.cortex_m import core_name
from ispd.wire.stm32f1 import (
    DBGMCU_IDCODE,
    FLASH_OBR,
    FLASH_SIZE,
    FLASH_WRPR,
    OPTION_SPAN,
    RAM_BASE,
    RDP_OPEN,
    UNIQUE_ID,
    OptionBytes,
    clone_maker,
    device_id,
    is_read_protected,
    revision_words,
)

__all__ = ["ChipId", "Stm32Facts", "check_same", "identify", "read_id", "read_options", "state_of"]

_KIB: Final = 1024
_NO_SIZE: Final = frozenset({0x0000, 0xFFFF})
_NO_ID: Final = frozenset({0x000, 0xFFF})
_NO_UNIQUE_ID: Final = frozenset({b"", b"\0" * len(UNIQUE_ID), b"\xff" * len(UNIQUE_ID)})


@dataclass(frozen=True, slots=True)
class ChipId:
    """Who a chip says it is.

    :param id_code: DBGMCU_IDCODE: revision above, device id in the lower 12 bits.
    :param unique_id: 24 hexadecimal digits; empty where it tells none, as some that are read protected.
    """

    id_code: int
    unique_id: str

    @property
    def signature(self) -> Signature:
        """Its device id."""
        return Signature(device_id(self.id_code))

    def __str__(self) -> str:
        return f"{self.signature} {self.unique_id or 'without a unique id'}"

    def is_another(self, now: "ChipId", *, may_hide: bool = False) -> bool:
        """Tell whether what is read ``now`` is of another chip, as far as can be told.

        :param may_hide: it may keep its unique id to itself, which it told before.
        """
        is_hidden = not self.unique_id or (may_hide and not now.unique_id)
        return self.id_code != now.id_code or (self.unique_id != now.unique_id and not is_hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32Facts:
    """What was read from the chip.

    :param flash_bytes: what is believed.
    :param tells_size: False where its size register says nothing; ``flash_bytes`` is the least there can be then.
    :param options: option bytes in their cells; they count from the next reset on.
    :param wrpr: write protection, in force or from the next reset on, a bit per group of pages; a one lets it be written.
    :param ram_bytes: RAM that is there for certain.
    :param chip: revision, maker where it is a clone, the flash it claims, core; in words.
    :param doubts: what deserves a word about its size; a protected chip may tell more once it is open.
    """

    id: ChipId
    part: Stm32Part
    flash_bytes: int
    tells_size: bool
    is_read_protected: bool
    options: OptionBytes
    wrpr: int
    ram_bytes: int
    chip: str
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def state(self) -> TargetState:
        """Option bytes as fuses, RDP as lock byte."""
        return state_of(self.options)

    @property
    def block_bytes(self) -> int:
        """How much is programmed at once."""
        return block_bytes(self.ram_bytes)

    @property
    def flash(self) -> Span:
        """The flash that is believed to be there."""
        start = self.part.flash.start
        return Span(start, start + self.flash_bytes)


def state_of(options: OptionBytes) -> TargetState:
    """Return option bytes as fuses, with RDP as lock byte."""
    rdp, *others = options.values
    return TargetState(fuses=dict(zip(OPTION_BYTES, others, strict=True)), lock=rdp)


async def read_id(programmer: SwdProgrammer) -> ChipId:
    """Read who the connected chip is. Raises ``TargetError`` (target-not-responding) for an empty id."""
    id_code = await programmer.read_word(DBGMCU_IDCODE)
    if id_code & 0xFFF in _NO_ID:
        raise TargetError(
            ErrorCode.TARGET_NOT_RESPONDING,
            f"the chip's id reads 0x{id_code & 0xFFF:03X}",
            hint="are SWDIO and SWCLK swapped? check them, GND and the board's supply",
        )
    try:
        raw = await programmer.read(UNIQUE_ID, Unwatched())
    except TargetError:
        raw = b""
    return ChipId(id_code, "" if raw in _NO_UNIQUE_ID else raw.hex().upper())


async def read_options(programmer: SwdProgrammer) -> OptionBytes:
    """Read the cells of the option bytes, which can be read under protection too (PM0075)."""
    return OptionBytes.decode(await programmer.read(OPTION_SPAN, Unwatched()))


async def identify(
    programmer: SwdProgrammer,
    parts: Parts,
    connection: SwdConnection,
    clones: ClonePolicy,
    *,
    wanted: Stm32Part | None = None,
    known: ChipId | None = None,
) -> Stm32Facts:
    """Read everything that the connected chip tells about itself. Nothing is changed.

    :param wanted: the part the recipe names; preferred among twins.
    :param known: what :func:`read_id` just returned; None to read it.

    Raises ``TargetError``: what :func:`read_id` raises, signature-unknown for an id that no part has, signature-unstable where it reads
    otherwise at the end, signature-mismatch for a clone that is rejected.
    """
    found_id = known or await read_id(programmer)
    part = _part(parts, found_id, connection, wanted)
    maker = _maker(found_id.id_code, connection)
    warnings = _judge(maker, found_id.id_code, clones)
    obr, wrpr = await programmer.read_word(FLASH_OBR), await programmer.read_word(FLASH_WRPR)
    options = await read_options(programmer)
    is_locked = is_read_protected(obr) or options.rdp != RDP_OPEN
    flash_kib = await programmer.read_word(FLASH_SIZE) & 0xFFFF
    flash_bytes, doubts = _believe(flash_kib, part, is_locked=is_locked)
    check_same(found_id, await read_id(programmer))
    return Stm32Facts(
        id=found_id,
        part=part,
        flash_bytes=flash_bytes,
        tells_size=flash_kib not in _NO_SIZE,
        is_read_protected=is_locked,
        options=options,
        wrpr=wrpr & int.from_bytes(options.wrp, "little"),
        ram_bytes=await _ram_bytes(programmer, part),
        chip=_words(found_id.id_code, maker, connection, flash_kib),
        warnings=warnings,
        doubts=doubts,
    )


async def _ram_bytes(programmer: SwdProgrammer, part: Stm32Part) -> int:
    """Return how much RAM there is for certain: some chips of a line have half of what the others have."""
    try:
        await programmer.read_word(RAM_BASE + part.ram_bytes - 4)
    except TargetError:
        return part.ram_bytes // 2
    return part.ram_bytes


def check_same(before: ChipId, now: ChipId, *, may_hide: bool = False) -> None:
    """Raise ``TargetError`` (signature-unstable) where another chip answers now; see :meth:`ChipId.is_another`."""
    if before.is_another(now, may_hide=may_hide):
        raise TargetError(
            ErrorCode.SIGNATURE_UNSTABLE,
            f"the chip was {before}, and is {now} now",
            hint="was the board exchanged? keep it in place until the verdict; shorten the wires",
            facts=Facts(memory=MemoryKind.SIGNATURE.value),
        )


def _part(parts: Parts, found_id: ChipId, connection: SwdConnection, wanted: Stm32Part | None) -> Stm32Part:
    found = parts.by_signature(found_id.signature, Stm32Part)
    if found:
        return wanted if wanted in found else found[0]
    error = unknown_part(found_id.signature)
    core = core_name(connection.cpuid)
    if core in (None, "Cortex-M3"):
        raise error
    raise TargetError(error.code, f"{error.message}; its core is a {core}, which no STM32F1 has", hint=error.hint)


def _maker(id_code: int, connection: SwdConnection) -> str | None:
    """Return whose the chip is where it is a clone. The debug port of one is what every Cortex-M4 has, too."""
    return clone_maker(id_code, connection.id_code if core_name(connection.cpuid) == "Cortex-M3" else None)


def _judge(maker: str | None, id_code: int, policy: ClonePolicy) -> tuple[str, ...]:
    """Note or refuse a chip that only looks like an STM32. Raises ``TargetError`` (signature-mismatch)."""
    if maker is None or policy is ClonePolicy.ALLOW:
        return ()
    message = f"the target is a clone ({maker}, {revision_words(id_code)})"
    if policy is ClonePolicy.REJECT:
        raise TargetError(
            ErrorCode.SIGNATURE_MISMATCH, message, hint="take this board out, or let clones pass: --clones warn"
        )
    return (message,)


def _words(id_code: int, maker: str | None, connection: SwdConnection, flash_kib: int) -> str:
    core = core_name(connection.cpuid) or f"CPUID 0x{connection.cpuid:08X}"
    claims = "tells no flash size" if flash_kib in _NO_SIZE else f"says {flash_kib} KiB"
    return ", ".join((revision_words(id_code), *(() if maker is None else (f"clone: {maker}",)), claims, core))


def _believe(flash_kib: int, part: Stm32Part, *, is_locked: bool) -> tuple[int, tuple[str, ...]]:
    """Return how much flash there is as far as its size register can be believed, and what is to be said about that.

    Many chips sold with 64 KiB say 128 (and have them); some say nothing while they are read protected.
    """
    largest = part.flash.size_bytes
    if flash_kib in _NO_SIZE:
        assumed = part.smallest_flash_bytes
        why = " as it is read protected" if is_locked else ""
        return assumed, (f"the chip does not tell its flash size{why}; {assumed // _KIB} KiB are assumed",)
    if flash_kib * _KIB > largest:
        return largest, (f"the chip claims {flash_kib} KiB of flash; {largest // _KIB} KiB are used",)
    return flash_kib * _KIB, ()

"""The guard of an STM32F1's option bytes: what has to be asked, what is worth a word, and what they say in words.

Meanings: PM0075, "Option byte description". A bit of USER acts when it is 0, a bit of WRP protects when it is 0.
"""

from collections.abc import Iterator, Mapping

from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.part import FuseBits, MemoryKind, Stm32Part
from ispd.model.report import FindingLevel, FuseBitReport, FuseFinding
from ispd.model.span import Span

__all__ = ["RDP_OPEN", "explain_options", "explain_rdp", "judge_options", "judge_rdp", "protected_flash"]

RDP_OPEN = 0xA5
"""The one value of RDP that lets flash be read."""

_BYTE = 0xFF
_ASKED = {
    "wdg_sw": "WDG_SW starts the watchdog with the chip: whatever does not serve it, a bootloader too, resets for ever",
    "nrst_stop": "nRST_STOP makes a reset of entering Stop mode: a keyboard that sleeps would restart instead",
    "nrst_stdby": "nRST_STDBY makes a reset of entering Standby mode: a keyboard that sleeps would restart instead",
}
_WORDS = {
    # what a bit means when it is 0, and when not
    "wdg_sw": ("the watchdog starts with the chip", "the program starts the watchdog"),
    "nrst_stop": ("entering Stop mode resets the chip", "Stop mode without a reset"),
    "nrst_stdby": ("entering Standby mode resets the chip", "Standby mode without a reset"),
}
_WRP = (MemoryKind.WRP0, MemoryKind.WRP1, MemoryKind.WRP2, MemoryKind.WRP3)
_GROUP_BYTES = 4096
"""A bit of WRP stands for four pages of 1 KiB or two of 2 KiB; the last of all for everything that follows."""


def judge_options(
    part: Stm32Part, requested: Mapping[MemoryKind, int], current: Mapping[MemoryKind, int] | None = None
) -> tuple[FuseFinding, ...]:
    """Judge the option bytes that are to be written, the worst first.

    :param current: bytes the chip has now, where known: a question about what does not change is not asked.
    Raises ``RefusedError`` (invalid-parameter) for what cannot be written at all: a value outside 0..255, another part's fuse.
    """
    for memory, value in requested.items():
        _check_writable(part, memory, value)
    now = current or {}
    changed = {memory: value for memory, value in requested.items() if now.get(memory) != value}
    findings = [*_judge_user(part, changed, now), *_judge_protection(part, changed)]
    return tuple(sorted(findings, key=lambda finding: list(FindingLevel).index(finding.level)))


def judge_rdp(part: Stm32Part, lock: int, current: int | None = None) -> tuple[FuseFinding, ...]:
    """Judge the RDP byte. Raises ``RefusedError`` (invalid-parameter) for a value outside 0..255."""
    _check_byte(part, MemoryKind.LOCK, lock)
    if lock in (RDP_OPEN, current):
        return ()
    message = f"RDP 0x{lock:02X} closes flash to every programmer; opening it again (--unlock) erases all of it"
    return (FuseFinding(level=FindingLevel.CHECK, memory=MemoryKind.LOCK, bits="rdp", message=message),)


def protected_flash(part: Stm32Part, options: Mapping[MemoryKind, int]) -> tuple[Span, ...]:
    """Return what of flash option bytes protect from being written, whoever writes; bytes that are not given protect nothing."""
    bits = int.from_bytes(bytes(options.get(memory, _BYTE) for memory in _WRP), "little")
    last = 8 * len(_WRP) - 1
    found: list[Span] = []
    for group in range(last + 1):
        start = part.flash.start + group * _GROUP_BYTES
        stop = part.flash.span.stop if group == last else min(start + _GROUP_BYTES, part.flash.span.stop)
        if bits >> group & 1 or start >= stop:
            continue
        if found and found[-1].stop == start:
            start = found.pop().start
        found.append(Span(start, stop))
    return tuple(found)


def explain_options(part: Stm32Part, values: Mapping[MemoryKind, int]) -> tuple[FuseBitReport, ...]:
    """Return every option byte in words: USER bit by bit, the others as they are."""
    return tuple(
        report
        for fuse in part.fuses
        if fuse.memory in values
        for report in _explain(part, fuse.memory, values[fuse.memory])
    )


def explain_rdp(value: int) -> tuple[FuseBitReport, ...]:
    """Return the RDP byte in words."""
    meaning = "flash can be read and written" if value == RDP_OPEN else "flash is closed until it is erased by --unlock"
    return (_report("rdp", MemoryKind.LOCK, value, meaning, acts=value != RDP_OPEN),)


def _explain(part: Stm32Part, memory: MemoryKind, value: int) -> Iterator[FuseBitReport]:
    groups = [group for group in part.bits.values() if group.memory is memory]
    for group in groups:
        acts = group.is_programmed(value)
        yield _report(group.name, memory, group.of(value), _WORDS[group.name][0 if acts else 1], acts=acts)
    if memory in _WRP:
        spans = protected_flash(part, {memory: value})
        meaning = f"protects {_listed(spans)} from being written" if spans else "protects nothing"
        yield _report(memory, memory, value, meaning, acts=bool(spans))
    elif not groups:
        yield _report(memory, memory, value, "free for the firmware's use", acts=False)


def _judge_user(
    part: Stm32Part, changed: Mapping[MemoryKind, int], now: Mapping[MemoryKind, int]
) -> Iterator[FuseFinding]:
    for group in part.bits.values():
        if group.memory in changed and group.is_programmed(changed[group.memory]) and not _is_set(group, now):
            yield FuseFinding(
                level=FindingLevel.CONFIRM, memory=group.memory, bits=group.name, message=_ASKED[group.name]
            )
    absent = ~part.mask(MemoryKind.USER) & ~changed.get(MemoryKind.USER, _BYTE) & _BYTE
    if absent:
        message = f"bits 0x{absent:02X} are 0 and do not exist on {part.name}"
        yield FuseFinding(level=FindingLevel.CHECK, memory=MemoryKind.USER, bits="", message=message)


def _is_set(group: FuseBits, now: Mapping[MemoryKind, int]) -> bool:
    return group.memory in now and group.is_programmed(now[group.memory])


def _judge_protection(part: Stm32Part, changed: Mapping[MemoryKind, int]) -> Iterator[FuseFinding]:
    for memory in _WRP:
        spans = protected_flash(part, {memory: changed.get(memory, _BYTE)})
        if spans:
            message = f"{memory.upper()} protects {_listed(spans)} from being written, by a bootloader too, until --unlock erases all of flash"
            yield FuseFinding(level=FindingLevel.CONFIRM, memory=memory, bits=memory, message=message)


def _listed(spans: tuple[Span, ...]) -> str:
    return ", ".join(f"0x{span.start:08X}..0x{span.stop - 1:08X}" for span in spans)


def _report(name: str, memory: MemoryKind, value: int, meaning: str, *, acts: bool) -> FuseBitReport:
    return FuseBitReport(name=name, memory=memory, value=value, programmed=acts, meaning=meaning)


def _check_writable(part: Stm32Part, memory: MemoryKind, value: int) -> None:
    if part.fuse(memory) is None:
        names = ", ".join(fuse.memory for fuse in part.fuses)
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER,
            f"{part.name} has no {memory}; its option bytes are {names}",
            hint="--option-byte user=0xFF writes one; RDP is --lock",
            facts=Facts(part=part.id, field=memory),
        )
    _check_byte(part, memory, value)


def _check_byte(part: Stm32Part, memory: MemoryKind, value: int) -> None:
    if not 0 <= value <= _BYTE:
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER,
            f"{memory} must be 0x00..0xFF, not {value:#x}",
            facts=Facts(part=part.id, field=memory),
        )

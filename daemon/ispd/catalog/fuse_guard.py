"""The fuse guard: what must not be written, what has to be asked, what is worth a word.

Judged bit group by bit group from the part's own table: RSTDISBL is bit 7 of one family's high byte and bit 6 of
another's. A byte equal to a known preset of the part (under its mask) is never questioned.
"""

from collections.abc import Iterator, Mapping, Sequence

from ispd.catalog.fuses import FusePreset, brown_out_mv, clock_of, complete_fuses
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.part import AvrPart, ClockSource, MemoryKind
from ispd.model.report import FindingLevel, FuseFinding

__all__ = ["judge_fuses", "judge_lock"]

_BYTE = 0xFF

_REFUSED = {
    # bits that end ISP when programmed
    "rstdisbl": "RSTDISBL makes RESET an ordinary pin: the board could never be programmed by ISP again",
    "dwen": "DWEN turns RESET into debugWIRE: the board would no longer answer ISP",
}
_ASKED = {
    # bits that surprise when programmed
    "wdton": "WDTON keeps the watchdog running: firmware that does not serve it resets for ever",
    "ocden": "OCDEN opens on-chip debugging: it costs power and opens a locked part to a debugger",
    "eesave": "EESAVE keeps the EEPROM through a chip erase: old settings survive a new firmware",
    "ckout": "CKOUT puts the clock on a port pin, which the board may use otherwise",
}
_ASKED_CLOCKS = {
    ClockSource.EXTERNAL: "needs a clock signal on XTAL1; without it the part never answers again",
    ClockSource.EXTERNAL_RC: "needs an RC network on XTAL1; without it the part never answers again",
    ClockSource.LOW_FREQUENCY_CRYSTAL: "needs a watch crystal, and SCK below 8 kHz to be programmed again",
    ClockSource.RC_128_KHZ: "is so slow that SCK must stay below 21 kHz to program it again",
    ClockSource.RESERVED: "is reserved: the part may never answer again",
    ClockSource.CRYSTAL: "needs a crystal or resonator on the board; without it the part never answers again",
    ClockSource.FULL_SWING_CRYSTAL: "needs a crystal or resonator on the board; without it the part never answers again",
}
_CRYSTALS = (ClockSource.CRYSTAL, ClockSource.FULL_SWING_CRYSTAL)


def judge_fuses(
    part: AvrPart,
    requested: Mapping[MemoryKind, int],
    current: Mapping[MemoryKind, int] | None,
    presets: Sequence[FusePreset],
    *,
    supply_mv: int | None = None,
) -> tuple[FuseFinding, ...]:
    """Judge the fuse bytes that are to be written, the worst first.

    :param current: bytes the part has now, where known: a question about a bit that does not change is not asked.
    :param supply_mv: the board's supply, where known.
    Raises ``RefusedError`` (invalid-parameter) for what cannot be written at all: a value outside 0..255, a fuse the
    part does not have.
    """
    for memory, value in requested.items():
        _check_writable(part, memory, value)
    now = dict(current or {})
    questionable = {
        memory: value
        for memory, value in requested.items()
        if not any(preset.holds(part, memory, value) for preset in presets)
    }
    findings = [
        *_judge_bits(part, questionable, now),
        *_judge_jtag(part, questionable, now),
        *_judge_clock(part, questionable, now),
        *_judge_brown_out(part, requested, questionable, now, supply_mv),
        *_judge_absent_bits(part, questionable),
        *_judge_swaps(questionable, presets),
    ]
    order = list(FindingLevel)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def judge_lock(part: AvrPart, lock: int, current: int | None = None, *, erase: bool = True) -> tuple[FuseFinding, ...]:
    """Judge a lock byte. LB = bits 1..0, BLB0 = 3..2, BLB1 = 5..4; 3 is open in each field.

    :param current: lock byte the part has now, where known; only a chip erase opens bits again.
    Raises ``RefusedError`` (invalid-parameter) for a value outside 0..255.
    """
    _check_byte(MemoryKind.LOCK, lock)
    return tuple(_judge_lock(part, lock, current, erase=erase))


def _check_byte(memory: MemoryKind, value: int) -> None:
    if not 0 <= value <= _BYTE:
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER, f"{memory} must be 0x00..0xFF, not {value:#x}", facts=Facts(field=memory)
        )


def _check_writable(part: AvrPart, memory: MemoryKind, value: int) -> None:
    if part.fuse(memory) is None:
        names = ", ".join(fuse.memory for fuse in part.fuses)
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER, f"{part.name} has no {memory}; it has {names}", facts=Facts(field=memory)
        )
    _check_byte(memory, value)


def _judge_bits(part: AvrPart, fuses: Mapping[MemoryKind, int], now: Mapping[MemoryKind, int]) -> Iterator[FuseFinding]:
    for name, group in part.bits.items():
        if group.memory not in fuses:
            continue
        programmed = group.is_programmed(fuses[group.memory])
        if name in _REFUSED and programmed:
            yield _finding(FindingLevel.REFUSE, group.memory, name, _REFUSED[name])
        elif name == "spien" and not programmed:
            message = "SPIEN cannot be switched off by ISP: the byte is a mistake, or meant for another fuse"
            yield _finding(FindingLevel.REFUSE, group.memory, name, message)
        elif name in _ASKED and programmed and not _is_programmed_now(part, name, now):
            yield _finding(FindingLevel.CONFIRM, group.memory, name, _ASKED[name])


def _is_programmed_now(part: AvrPart, name: str, now: Mapping[MemoryKind, int]) -> bool:
    group = part.bits[name]
    return group.memory in now and group.is_programmed(now[group.memory])


def _judge_jtag(part: AvrPart, fuses: Mapping[MemoryKind, int], now: Mapping[MemoryKind, int]) -> Iterator[FuseFinding]:
    group = part.bits.get("jtagen")
    if group is None or group.memory not in fuses:
        return
    # where the current byte is not known, the part is taken to be as it left the factory
    before = complete_fuses(part, now)[group.memory]
    if (fuses[group.memory] ^ before) & group.mask:
        change = "on: the JTAG pins are lost to the board" if group.is_programmed(fuses[group.memory]) else "off"
        yield _finding(FindingLevel.CONFIRM, group.memory, "jtagen", f"JTAGEN changes: JTAG goes {change}")


def _judge_clock(
    part: AvrPart, fuses: Mapping[MemoryKind, int], now: Mapping[MemoryKind, int]
) -> Iterator[FuseFinding]:
    memory = part.bits["cksel"].memory
    if memory not in fuses:
        return
    wanted = clock_of(part, complete_fuses(part, fuses))
    words = _ASKED_CLOCKS.get(wanted.source)
    if words is None:
        return
    if memory in now:
        source = clock_of(part, complete_fuses(part, now)).source
        if source is wanted.source or (source in _CRYSTALS and wanted.source in _CRYSTALS):
            return
    yield _finding(FindingLevel.CONFIRM, memory, "cksel", f"the clock source ({wanted.words}) {words}")


def _judge_brown_out(
    part: AvrPart,
    requested: Mapping[MemoryKind, int],
    questionable: Mapping[MemoryKind, int],
    now: Mapping[MemoryKind, int],
    supply_mv: int | None,
) -> Iterator[FuseFinding]:
    memory = part.bits["bodlevel"].memory
    if memory not in requested:
        return
    threshold_mv = brown_out_mv(part, complete_fuses(part, {**now, **requested}))
    if threshold_mv is None:
        if memory in questionable:
            yield _finding(FindingLevel.CONFIRM, memory, "bodlevel", "BODLEVEL is a reserved setting of this part")
    elif supply_mv is not None and threshold_mv > supply_mv:
        # judged even for a preset: the preset is for another board's supply
        message = f"brown-out at {threshold_mv} mV holds a board supplied with {supply_mv} mV in reset for ever"
        yield _finding(FindingLevel.REFUSE, memory, "bodlevel", message)


def _judge_absent_bits(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> Iterator[FuseFinding]:
    for memory, value in fuses.items():
        absent = ~part.mask(memory) & _BYTE
        # both ways of writing absent bits are common: all 1 (the QMK guide) and all 0 (avrdude reports)
        if value & absent not in (0, absent):
            message = (
                f"{part.name} has only the bits 0x{part.mask(memory):02X} of {memory}; is the byte for another part?"
            )
            yield _finding(FindingLevel.CHECK, memory, "", message)


def _judge_swaps(fuses: Mapping[MemoryKind, int], presets: Sequence[FusePreset]) -> Iterator[FuseFinding]:
    for memory, value in fuses.items():
        if value == _BYTE:
            continue  # nothing programmed: a factory value of some byte on most parts
        for preset in presets:
            other = next(
                (kind for kind, values in preset.values.items() if kind is not memory and value in values), None
            )
            if other is not None:
                message = f"0x{value:02X} is the {other} of {preset.name}: were two bytes swapped?"
                yield _finding(FindingLevel.CHECK, memory, "", message)
                break


def _judge_lock(part: AvrPart, lock: int, current: int | None, *, erase: bool) -> Iterator[FuseFinding]:
    reopened = lock & ~(_BYTE if current is None or erase else current) & part.lock_mask
    if reopened:
        message = f"lock bits 0x{reopened:02X} are locked now, and only a chip erase opens them"
        yield _finding(FindingLevel.REFUSE, MemoryKind.LOCK, "", message)
    match lock & 0x03:
        case 0:
            message = "LB 0: flash and EEPROM can be neither read nor written until a chip erase"
            yield _finding(FindingLevel.CHECK, MemoryKind.LOCK, "lb", message)
        case 1:
            message = "LB 1 is not a documented mode of the part"
            yield _finding(FindingLevel.CONFIRM, MemoryKind.LOCK, "lb", message)
        case 2:
            message = "LB 2: flash, EEPROM and fuses can be read but not written until a chip erase"
            yield _finding(FindingLevel.CHECK, MemoryKind.LOCK, "lb", message)
    if part.lock_mask & 0x0C and lock & 0x04 == 0:
        message = "BLB0 closes the application section to the bootloader: no firmware update over USB"
        yield _finding(FindingLevel.CHECK, MemoryKind.LOCK, "blb0", message)


def _finding(level: FindingLevel, memory: MemoryKind, bits: str, message: str) -> FuseFinding:
    return FuseFinding(level=level, memory=memory, bits=bits, message=message)

"""Fuse bytes in words: what each bit group does, and which known set the bytes are.

Meanings come from the data sheets' chapters on memory programming, system clock and reset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ispd.catalog.bootloaders import Bootloaders
from ispd.model.part import AvrPart, ClockSource, FuseBits, MemoryKind, Part
from ispd.model.report import FuseBitReport
from ispd.model.span import Span

__all__ = [
    "Clock",
    "FusePreset",
    "boot_span",
    "brown_out_mv",
    "clock_of",
    "complete_fuses",
    "explain_bits",
    "explain_boot",
    "explain_brown_out",
    "explain_lock",
    "is_programmed",
    "known_presets",
]

_SOURCE_HZ = {
    ClockSource.RC: 8_000_000,
    ClockSource.RC_1_MHZ: 1_000_000,
    ClockSource.RC_2_MHZ: 2_000_000,
    ClockSource.RC_4_MHZ: 4_000_000,
    ClockSource.RC_128_KHZ: 128_000,
    ClockSource.RC_6_4_MHZ: 1_600_000,  # ATtiny15 mode of the tinyX5: the system clock is a fourth of the oscillator
    ClockSource.PLL: 16_000_000,
    ClockSource.LOW_FREQUENCY_CRYSTAL: 32_768,
}
_MHZ = 1_000_000
_SOURCE_WORDS = {
    ClockSource.EXTERNAL: "external clock on XTAL1",
    ClockSource.RC: "internal RC oscillator, 8 MHz",
    ClockSource.RC_1_MHZ: "internal RC oscillator, 1 MHz",
    ClockSource.RC_2_MHZ: "internal RC oscillator, 2 MHz",
    ClockSource.RC_4_MHZ: "internal RC oscillator, 4 MHz",
    ClockSource.RC_128_KHZ: "internal oscillator, 128 kHz",
    ClockSource.RC_6_4_MHZ: "internal RC oscillator, 6.4 MHz, of which a fourth is used",
    ClockSource.PLL: "internal PLL, 16 MHz",
    ClockSource.LOW_FREQUENCY_CRYSTAL: "watch crystal, 32.768 kHz",
    ClockSource.CRYSTAL: "crystal or resonator",
    ClockSource.FULL_SWING_CRYSTAL: "crystal, full swing",
    ClockSource.EXTERNAL_RC: "external RC network",
    ClockSource.RESERVED: "reserved setting",
}
# what a bit group means when programmed, and when not
_BIT_WORDS = {
    "ckdiv8": ("clock divided by 8 at start", "clock not divided"),
    "ckout": ("clock put out on CLKO", "no clock output"),
    "ckopt": ("oscillator with full swing", "oscillator with small swing"),
    "boden": ("brown-out detection on", "brown-out detection off"),
    "bootrst": ("starts in the boot section", "starts at address 0"),
    "eesave": ("EEPROM survives a chip erase", "a chip erase clears the EEPROM"),
    "wdton": ("watchdog always on", "watchdog under program control"),
    "spien": ("ISP enabled", "ISP disabled"),
    "jtagen": ("JTAG on: its pins are not free for the board", "JTAG off"),
    "ocden": ("on-chip debugging on", "on-chip debugging off"),
    "rstdisbl": ("RESET pin is an ordinary pin: no ISP", "RESET pin resets"),
    "dwen": ("debugWIRE on: no ISP", "debugWIRE off"),
    "hwbe": ("HWB pin starts the bootloader at reset", "HWB pin has no effect"),
    "cfd": ("clock failure detection on", "clock failure detection off"),
    "selfprgen": ("self-programming on", "self-programming off"),
}

# what each pair of CKSEL settings is for, in MHz (data sheet tables "Crystal Oscillator Operating Modes")
_CRYSTAL_MHZ = {4: "0.4 to 0.9", 5: "0.9 to 3", 6: "3 to 8", 7: "8 to 16"}
_CLASSIC_CRYSTAL_MHZ = {5: "0.4 to 0.9", 6: "0.9 to 3", 7: "3 to 8"}
# start-up time by SUT, for crystals by CKSEL0 and SUT (data sheet tables "Start-up Times" of each clock source); the wait is
# 4 or 4.1, 64 or 65 ms, by family
_CRYSTAL_STARTS = (
    "258 clocks and 4 ms",
    "258 clocks and 65 ms",
    "1024 clocks",
    "1024 clocks and 4 ms",
    "1024 clocks and 65 ms",
    "16384 clocks",
    "16384 clocks and 4 ms",
    "16384 clocks and 65 ms",
)
_PLAIN_STARTS = ("6 clocks", "6 clocks and 4 ms", "6 clocks and 65 ms")
_PLAIN_SOURCES = (
    ClockSource.EXTERNAL,
    ClockSource.RC,
    ClockSource.RC_1_MHZ,
    ClockSource.RC_2_MHZ,
    ClockSource.RC_4_MHZ,
    ClockSource.RC_128_KHZ,
)
# lock bit modes (data sheet chapter "Program And Data Memory Lock Bits")
_LOCK_WORDS: Mapping[str, tuple[int, tuple[str, str, str, str]]] = {
    "blb1": (
        0x30,
        (
            "the application can neither read nor write the boot section",
            "the application cannot read the boot section",
            "no program can write the boot section",
            "the boot section is open to programs",
        ),
    ),
    "blb0": (
        0x0C,
        (
            "the bootloader can neither read nor write the application section",
            "the bootloader cannot read the application section",
            "no program can write the application section",
            "the application section is open to programs",
        ),
    ),
    "lb": (
        0x03,
        (
            "flash and EEPROM can be neither read nor written by ISP",
            "not a documented mode",
            "flash, EEPROM and fuses can be read but not written by ISP",
            "open",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Clock:
    """The system clock that fuse bytes make. ``hz`` None: the fuses do not tell (crystal, external)."""

    source: ClockSource
    divided_by: int
    hz: int | None
    words: str


@dataclass(frozen=True, slots=True)
class FusePreset:
    """A known good set of fuse bytes: for each memory, the values that are as good as each other."""

    name: str
    values: Mapping[MemoryKind, tuple[int, ...]]

    def holds(self, part: Part, memory: MemoryKind, value: int) -> bool:
        """Tell whether ``value`` is this preset's, in the bits that exist."""
        mask = part.mask(memory)
        return any((value ^ known) & mask == 0 for known in self.values.get(memory, ()))

    def equals(self, part: Part, fuses: Mapping[MemoryKind, int]) -> bool:
        """Tell whether all of ``fuses`` are this preset's."""
        return all(self.holds(part, memory, value) for memory, value in fuses.items())


def known_presets(part: Part, bootloaders: Bootloaders | None) -> tuple[FusePreset, ...]:
    """Return the factory bytes of a part (all order codes) and the fuse bytes of its bootloaders."""
    variants = part.factory_variants if isinstance(part, AvrPart) else ()
    sets = [tuple(fuse.default for fuse in part.fuses), *variants]
    factory = [
        FusePreset(
            "factory" if index == 0 else "factory, RC order code",
            {fuse.memory: (value,) for fuse, value in zip(part.fuses, values, strict=True)},
        )
        for index, values in enumerate(sets)
    ]
    if bootloaders is None:
        return tuple(factory)
    loaders = [
        FusePreset(b.id, {kind: (value, *b.fuse_alternatives.get(kind, ())) for kind, value in b.fuses.items()})
        for b in bootloaders.presets(part)
        if b.fuses
    ]
    return (*factory, *loaders)


def complete_fuses(part: AvrPart, values: Mapping[MemoryKind, int]) -> dict[MemoryKind, int]:
    """Return every fuse byte of a part: those given, and factory bytes for the rest."""
    return {fuse.memory: values.get(fuse.memory, fuse.default) for fuse in part.fuses}


def clock_of(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> Clock:
    """Return the system clock that complete ``fuses`` select."""
    cksel = part.bits["cksel"]
    source = part.clock[cksel.of(fuses[cksel.memory])]
    ckdiv8 = part.bits.get("ckdiv8")
    divided_by = 8 if ckdiv8 is not None and ckdiv8.is_programmed(fuses[ckdiv8.memory]) else 1
    source_hz = _SOURCE_HZ.get(source)
    hz = None if source_hz is None else source_hz // divided_by
    words = _SOURCE_WORDS[source]
    if divided_by > 1:
        words += f", divided by {divided_by}"
    if source_hz is not None and divided_by > 1:
        divided_hz = source_hz / divided_by
        words += f" to {divided_hz / 1e6:g} MHz" if divided_hz >= _MHZ else f" to {divided_hz / 1e3:g} kHz"
    return Clock(source, divided_by, hz, words)


def explain_brown_out(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> str:
    """Return what the brown-out detector does with complete ``fuses``."""
    threshold_mv = brown_out_mv(part, fuses)
    if threshold_mv is None:
        return "reserved setting"
    return f"resets below {threshold_mv / 1000:.1f} V" if threshold_mv else "off"


def brown_out_mv(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> int | None:
    """Return the brown-out threshold in millivolts; 0 where it is off, None for a reserved setting."""
    boden = part.bits.get("boden")
    if boden is not None and not boden.is_programmed(fuses[boden.memory]):
        return 0
    level = part.bits["bodlevel"]
    threshold_mv = part.bod_mv[level.of(fuses[level.memory])]
    return None if threshold_mv < 0 else threshold_mv


def boot_span(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> Span | None:
    """Return the boot section; None for a part without one or when its fuse byte is not in ``fuses``."""
    if part.boot is None or part.boot.bits.memory not in fuses:
        return None
    size_bytes = part.boot.size_bytes(fuses[part.boot.bits.memory])
    return Span(part.flash.size_bytes - size_bytes, part.flash.size_bytes)


def explain_boot(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> str:
    """Return boot section and start address in words."""
    section = boot_span(part, fuses)
    if section is None:
        return "none"
    starts_there = is_programmed(part, "bootrst", fuses)
    start = f"the part starts at 0x{section.start if starts_there else 0:04X}"
    return f"{section} ({len(section)} bytes); {start}"


def is_programmed(part: AvrPart, bits: str, fuses: Mapping[MemoryKind, int]) -> bool | None:
    """Tell whether a bit group is programmed; None where the part has no such bits or the byte is not known."""
    group = part.bits.get(bits)
    if group is None or group.memory not in fuses:
        return None
    return group.is_programmed(fuses[group.memory])


def explain_bits(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> Iterable[FuseBitReport]:
    """Yield each bit group of complete ``fuses`` in words, byte by byte, highest bit first."""
    order = [fuse.memory for fuse in part.fuses]
    for group in sorted(part.bits.values(), key=lambda group: (order.index(group.memory), -group.mask)):
        value = fuses[group.memory]
        yield FuseBitReport(
            name=group.name,
            memory=group.memory,
            value=group.of(value),
            programmed=group.is_programmed(value),
            meaning=_meaning(part, group, fuses),
        )


def explain_lock(part: AvrPart, lock: int) -> Iterable[FuseBitReport]:
    """Yield each field of a lock byte in words, highest bit first."""
    for name, (mask, words) in _LOCK_WORDS.items():
        if part.lock_mask & mask:
            group = FuseBits(name, MemoryKind.LOCK, mask)
            yield FuseBitReport(
                name=name,
                memory=MemoryKind.LOCK,
                value=group.of(lock),
                programmed=group.is_programmed(lock),
                meaning=words[group.of(lock)],
            )


def _meaning(part: AvrPart, group: FuseBits, fuses: Mapping[MemoryKind, int]) -> str:
    value = fuses[group.memory]
    match group.name:
        case "cksel":
            return _SOURCE_WORDS[clock_of(part, fuses).source] + _crystal_range(part, group, fuses)
        case "sut":
            return _start_up(part, group.of(value), fuses)
        case "bodlevel":
            return explain_brown_out(part, fuses)
        case "bootsz":
            section = boot_span(part, fuses)
            return "" if section is None else f"boot section {section} ({len(section)} bytes)"
        case name:
            programmed, unprogrammed = _BIT_WORDS.get(name, ("programmed", "unprogrammed"))
            return programmed if group.is_programmed(value) else unprogrammed


def _start_up(part: AvrPart, sut: int, fuses: Mapping[MemoryKind, int]) -> str:
    cksel = part.bits["cksel"]
    setting = cksel.of(fuses[cksel.memory])
    source = part.clock[setting]
    if source in (ClockSource.CRYSTAL, ClockSource.FULL_SWING_CRYSTAL):
        return f"starts after {_CRYSTAL_STARTS[(setting & 1) << 2 | sut]}"
    if source in _PLAIN_SOURCES:
        return f"starts after {_PLAIN_STARTS[sut]}" if sut < len(_PLAIN_STARTS) else "reserved setting"
    return f"start-up delay setting {sut} of the clock source"


def _crystal_range(part: AvrPart, cksel: FuseBits, fuses: Mapping[MemoryKind, int]) -> str:
    setting = cksel.of(fuses[cksel.memory])
    if part.clock[setting] is not ClockSource.CRYSTAL:
        return ""
    is_small_swing = is_programmed(part, "ckopt", fuses) is False
    if "ckopt" in part.bits and not is_small_swing:
        return ", 1 MHz and more"
    mhz = (_CLASSIC_CRYSTAL_MHZ if is_small_swing else _CRYSTAL_MHZ).get(setting >> 1)
    return "" if mhz is None else f", {mhz} MHz"

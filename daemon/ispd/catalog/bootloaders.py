"""The bootloaders: one file each in ``bootloaders/``, checked against their parts at load.

Fuse bytes are those of the QMK ISP flashing guide; lock bytes those of the vendors' boards.txt.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import msgspec

from ispd.catalog.datafile import decode_toml, named_files
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.part import AvrPart, MemoryKind, Part
from ispd.model.span import Span

__all__ = ["Bootloaders", "load_bootloaders"]

_USB_ID = re.compile(r"[0-9A-F]{4}:[0-9A-F]{4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BYTE = 0xFF

# spellings that QMK took before its names became lower case (data/schemas/keyboard.jsonschema, lib/python/qmk)
_QMK_SPELLINGS = MappingProxyType({"usbasp": "usbasploader"})


class _BootloaderFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    family: str
    qmk: str
    title: str
    parts: list[str] = []
    chips: list[str] = []
    usb: list[str] = []
    usb_application: list[str] = []
    usb_release: int | None = None
    usb_texts: list[str] = []
    shares_usb: str = ""
    is_any: bool = False
    section_start: int | None = None
    section_bytes: int | None = None
    application_max_bytes: int | None = None
    tool_max_bytes: int | None = None
    application_start: int = 0
    dfu_alt: int | None = None
    entry: str = ""
    by_hand: str = ""
    lock: int | None = None
    image_file: str = ""
    image_is_combined: bool = False
    image_sha256: str = ""
    sketch_file_bytes: int | None = None
    note: str = ""
    unverified: list[str] = []
    fuses: dict[MemoryKind, int] = {}
    fuse_alternatives: dict[MemoryKind, list[int]] = {}


@dataclass(frozen=True, slots=True)
class Bootloaders:
    """All known bootloaders, sorted by id. Immutable. What stands for any of a name is found by name only: it is none itself."""

    _by_id: Mapping[str, Bootloader]

    def __iter__(self) -> Iterator[Bootloader]:
        return (bootloader for bootloader in self._by_id.values() if not bootloader.is_any)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def presets(self, part: Part) -> tuple[Bootloader, ...]:
        """Return the bootloaders of a part or of its same-signature twins, sorted by id."""
        return tuple(bootloader for bootloader in self if _is_for(bootloader, part))

    def any_of(self, name: str, part: Part | None = None) -> Bootloader | None:
        """Return what stands for all bootloaders that QMK calls by this name, None where nothing does."""
        wanted = _spelled(name)
        every = (one for one in self._by_id.values() if one.is_any)
        suits = (one for one in every if part is None or _is_for(one, part))
        return next((bootloader for bootloader in suits if bootloader.qmk == wanted), None)

    def candidates(self, name: str, part: Part | None = None) -> tuple[Bootloader, ...]:
        """Return the one bootloader with this id, or all that QMK calls by this name and that suit ``part``."""
        wanted = _spelled(name)
        exact = self._by_id.get(wanted)
        if exact is not None:
            return (exact,)
        suits = tuple(self) if part is None else self.presets(part)
        return tuple(bootloader for bootloader in suits if bootloader.qmk == wanted)

    def get(self, name: str, part: Part | None = None) -> Bootloader:
        """Return a bootloader by id, or by the name QMK uses where only one of that name suits ``part``.

        Raises ``RefusedError`` (unknown-bootloader) listing the candidates.
        """
        match self.candidates(name, part):
            case (only,):
                return only
            case ():
                raise self._unknown(name, part)
            case several:
                listed = ", ".join(f"{b.id} ({b.title})" for b in several)
                suited = [id_ for bootloader in several for id_ in bootloader.parts]
                part_decides = part is None and len(suited) == len(set(suited))
                raise RefusedError(
                    ErrorCode.UNKNOWN_BOOTLOADER,
                    f"{name!r} is more than one bootloader",
                    hint=f"name {'the part, or ' if part_decides else ''}one of {listed}",
                )

    def _unknown(self, name: str, part: Part | None) -> RefusedError:
        wanted = name.strip().lower()
        near = get_close_matches(wanted, [b.id for b in self] + [b.qmk for b in self], n=4, cutoff=0.5)
        on_part = "" if part is None else f" for {part.name}"
        return RefusedError(
            ErrorCode.UNKNOWN_BOOTLOADER,
            f"there is no bootloader called {name!r}{on_part} in the catalog",
            hint=f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "`ispctl bootloaders` lists them",
        )


def load_bootloaders(parts: Parts, overlay: Path | None = None) -> Bootloaders:
    """Return the shipped bootloaders, with those of the ``overlay`` folder added or put in their place.

    Raises ``ConfigError`` naming the file and the failed check.
    """
    found: dict[str, Bootloader] = {}
    for stem, content in named_files("bootloaders", overlay):
        data = decode_toml(f"bootloaders/{stem}.toml", content, _BootloaderFile)
        problems = [f"{name}: {problem}" for name, check in _CHECKS.items() for problem in check(data, parts)]
        if problems:
            raise ConfigError(f"catalog file bootloaders/{stem}.toml: {'; '.join(problems)}")
        found[stem] = _bootloader(stem, data)
    return Bootloaders(MappingProxyType({key: found[key] for key in sorted(found)}))


def _spelled(name: str) -> str:
    """Return a name as QMK writes it today."""
    wanted = name.strip().lower()
    return _QMK_SPELLINGS.get(wanted, wanted)


def _is_for(bootloader: Bootloader, part: Part) -> bool:
    return bool({part.id, *part.twins} & set(bootloader.parts))


def _bootloader(stem: str, data: _BootloaderFile) -> Bootloader:
    section = None
    if data.section_start is not None and data.section_bytes is not None:
        section = Span(data.section_start, data.section_start + data.section_bytes)
    return Bootloader(
        id=stem,
        family=data.family,
        qmk=data.qmk,
        title=data.title,
        parts=tuple(data.parts),
        chips=tuple(data.chips),
        fuses=MappingProxyType(data.fuses),
        fuse_alternatives=MappingProxyType({kind: tuple(values) for kind, values in data.fuse_alternatives.items()}),
        lock=data.lock,
        section=section,
        application_max_bytes=data.application_max_bytes,
        tool_max_bytes=data.tool_max_bytes,
        application_start=data.application_start,
        usb=tuple(data.usb),
        usb_application=tuple(data.usb_application),
        usb_release=data.usb_release,
        usb_texts=tuple(data.usb_texts),
        shares_usb=data.shares_usb,
        is_any=data.is_any,
        dfu_alt=data.dfu_alt,
        entry=data.entry,
        by_hand=data.by_hand,
        image_file=data.image_file,
        image_is_combined=data.image_is_combined,
        image_sha256=data.image_sha256,
        sketch_file_bytes=data.sketch_file_bytes,
        note=data.note,
        unverified=tuple(data.unverified),
    )


def _check_usb(data: _BootloaderFile, _parts: Parts) -> Iterator[str]:
    for usb in (*data.usb, *data.usb_application):
        if not _USB_ID.fullmatch(usb):
            yield f"{usb!r} is not a USB id like 03EB:2FF4"


def _check_image(data: _BootloaderFile, _parts: Parts) -> Iterator[str]:
    if data.image_sha256 and not _SHA256.fullmatch(data.image_sha256):
        yield "image_sha256 is not 64 lower-case hex digits"


def _check_bytes(data: _BootloaderFile, _parts: Parts) -> Iterator[str]:
    values = [*(value for _, value in _fuse_values(data)), data.lock or 0]
    if any(not 0 <= value <= _BYTE for value in values):
        yield "a fuse or lock value is not a byte"
    if not set(data.fuse_alternatives) <= set(data.fuses):
        yield "fuse_alternatives names a fuse that fuses does not"


def _check_parts(data: _BootloaderFile, parts: Parts) -> Iterator[str]:
    for name in data.parts:
        part = _part(name, parts)
        if part is None:
            yield f"{name!r} is not a part id"
        elif data.fuses and set(data.fuses) != {fuse.memory for fuse in part.fuses}:
            yield f"fuses does not name each fuse byte of {part.name}"
    if (data.fuses or data.lock is not None) and not data.parts:
        yield "fuses or lock without a part that has them"


def _check_presets(data: _BootloaderFile, parts: Parts) -> Iterator[str]:
    """A preset is written without a question, so it must leave ISP alive and say nothing about bits that do not exist."""
    for part in filter(None, (_part(name, parts) for name in data.parts)):
        for memory, value in _fuse_values(data):
            absent = ~part.mask(memory) & _BYTE
            if value & absent not in (0, absent):
                yield f"{memory} 0x{value:02X} sets only some of the bits that {part.name} does not have"
            for group in part.bits.values():
                is_fatal = group.name in ("rstdisbl", "dwen") and group.is_programmed(value)
                is_spien_off = group.name == "spien" and not group.is_programmed(value)
                if group.memory is memory and (is_fatal or is_spien_off):
                    yield f"{memory} 0x{value:02X} shuts out ISP by {group.name.upper()} on {part.name}"


def _check_section(data: _BootloaderFile, parts: Parts) -> Iterator[str]:
    if (data.section_start is None) != (data.section_bytes is None):
        yield "section_start and section_bytes go together"
    if data.section_start is None or data.section_bytes is None:
        return
    section = Span(data.section_start, data.section_start + data.section_bytes)
    for part in filter(None, (_part(name, parts) for name in data.parts)):
        flash = part.flash.span
        if section.start == flash.start:
            application = Span(section.stop, flash.stop)
            if data.application_start != application.start:
                yield "application_start is not where the section ends"
        else:
            application = Span(flash.start, section.start)
            if section.stop != flash.stop:
                yield f"the section does not end with the flash of {part.name}"
        if data.application_max_bytes not in (None, len(application)):
            yield "application_max_bytes is not what lies beside the section"
        if isinstance(part, AvrPart) and part.boot is not None and part.boot.bits.memory in data.fuses:
            size_bytes = part.boot.size_bytes(data.fuses[part.boot.bits.memory])
            if size_bytes != data.section_bytes:
                yield f"the fuses of {part.name} make a section of {size_bytes} bytes"


def _part(name: str, parts: Parts) -> Part | None:
    return next((part for part in parts if part.id == name), None)


def _fuse_values(data: _BootloaderFile) -> Iterator[tuple[MemoryKind, int]]:
    """Yield every fuse byte that the file accepts."""
    for memory, value in data.fuses.items():
        yield memory, value
        yield from ((memory, other) for other in data.fuse_alternatives.get(memory, ()))


_CHECKS: Mapping[str, Callable[[_BootloaderFile, Parts], Iterator[str]]] = MappingProxyType(
    {
        "usb": _check_usb,
        "image": _check_image,
        "bytes": _check_bytes,
        "parts": _check_parts,
        "presets": _check_presets,
        "section": _check_section,
    }
)

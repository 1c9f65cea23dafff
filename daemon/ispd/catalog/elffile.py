"""ELF files of avr-gcc and of GCC for ARM: what each memory gets, by physical addresses. The only importer of pyelftools.

Layout of an AVR ELF file: avr-libc manual, "Memory Sections"; offsets of the EEPROM, fuse, lock and signature sections:
binutils, ``ld/scripttempl/avr.sc``. Header and table sizes: System V ABI, "Object Files", 32-bit classes.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import Interface, MemoryKind, Signature

__all__ = ["ELF_MAGIC", "ElfContent", "read_elf"]

ELF_MAGIC = b"\x7fELF"

_HEADER = struct.Struct("<4s4B8xHHIIIIIHHHHHH")  # e_ident, then e_type .. e_shstrndx of a 32-bit little-endian file
_PROGRAM_HEADER_BYTES = 32
_SECTION_HEADER_BYTES = 40
_MACHINE_AVR = 83
_MACHINE_ARM = 40
_TYPE_EXECUTABLE = 2
_ALLOCATED = 2  # SHF_ALLOC
_MAX_SEGMENTS = 64  # avr-gcc writes three to eight
_MAX_SECTIONS = 1024

_RAM = 0x800000
_EEPROM = 0x810000
_FUSES = 0x820000
_LOCK = 0x830000
_SIGNATURE = 0x840000
_USER_SIGNATURES = 0x850000
_FUSE_ORDER = (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE)  # <avr/fuse.h>: low, high, extended
_SIGNATURE_BYTES = 3
_NOTE_SECTION = ".note.gnu.avr.deviceinfo"
_NOTE_OWNER = b"AVR\x00"
_MAX_NOTE_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfContent:
    """What an ELF file wants in a part. ``built_for`` is the ``-mmcu`` it was linked with, empty where it does not say.

    :param interface: what speaks to the kind of chip that it is for.
    """

    flash: Image
    eeprom: Image | None
    fuses: Mapping[MemoryKind, int]
    lock: int | None
    signature: Signature | None
    built_for: str
    interface: Interface = Interface.ISP


def read_elf(name: str, content: bytes) -> ElfContent:
    """Read an executable for an AVR or an ARM.

    Raises ``RefusedError`` (image-invalid, image-overlap) naming what is wrong; nothing else, whatever ``content`` is.
    """
    machine = _check_header(name, content)
    try:
        file = ELFFile(BytesIO(content))
        loads = [segment.header for segment in file.iter_segments() if segment.header.p_type == "PT_LOAD"]
        built_for = _built_for(file, content)
        kept = _kept_by_objcopy(file, loads) if machine == _MACHINE_ARM else ()
    # what pyelftools lets through where tables point at one another wrongly
    except (ELFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _refused(name, f"its tables are damaged ({type(error).__name__})") from error
    if machine == _MACHINE_ARM:
        return _arm_content(name, list(_pieces(name, content, kept)))
    pieces = list(_pieces(name, content, [(load.p_paddr, load.p_offset, load.p_filesz) for load in loads]))
    parts = _sort(name, pieces)
    return ElfContent(
        flash=_image(name, parts[0]),
        eeprom=_image(name, parts[_EEPROM]) if parts[_EEPROM] else None,
        fuses=_fuses(name, parts[_FUSES]),
        lock=_lock(name, parts[_LOCK]),
        signature=_signature(name, parts[_SIGNATURE]),
        built_for=built_for,
    )


def _check_header(name: str, content: bytes) -> int:
    """Return the machine an executable is for."""
    if len(content) < _HEADER.size:
        raise _refused(name, "it ends within its header")
    fields = _HEADER.unpack_from(content)
    kind, data, version = fields[1:4]
    file_type, machine = fields[5:7]
    program_at, section_at = fields[9:11]
    program_bytes, programs, section_bytes, sections, names_in = fields[13:18]
    if (kind, data, version) != (1, 1, 1) or machine not in (_MACHINE_AVR, _MACHINE_ARM):
        raise _refused(name, "it is neither for an AVR nor for an ARM", hint="name the file that the linker made")
    if file_type != _TYPE_EXECUTABLE:
        raise _refused(
            name, "it is not linked: it has no addresses yet", hint="name the linked .elf, not an object file"
        )
    if program_bytes != _PROGRAM_HEADER_BYTES or not 1 <= programs <= _MAX_SEGMENTS:
        raise _refused(name, "it has no usable program headers")
    if sections and (section_bytes != _SECTION_HEADER_BYTES or sections > _MAX_SECTIONS or names_in >= sections):
        raise _refused(name, "it has no usable section headers")
    ends = (program_at + programs * program_bytes, section_at + sections * section_bytes if sections else 0)
    if max(ends) > len(content):
        raise _refused(name, f"it has {len(content)} bytes, its tables end at {max(ends)}")
    return int(machine)


def _pieces(name: str, content: bytes, loads: Iterable[tuple[int, int, int]]) -> Iterator[Segment]:
    """Yield what each loadable segment puts where. Segments without bytes (RAM that is cleared) put nothing."""
    total_bytes = 0
    for address, offset, size_bytes in loads:
        total_bytes += size_bytes
        # segments share no bytes in a real file; without this a small file could ask for gigabytes
        if offset + size_bytes > len(content) or total_bytes > len(content):
            raise _refused(name, f"the segment for 0x{address:04X} is longer than the file")
        if size_bytes:
            yield Segment(address, content[offset : offset + size_bytes])


def _kept_by_objcopy(file: ELFFile, loads: Sequence[Any]) -> tuple[tuple[int, int, int], ...]:
    """Return physical address, offset and length of what ``objcopy -O binary`` takes: the sections that are loaded, not what else lies in
    their segments, such as the file's own header. A stripped file has no sections; there it is the segments."""
    found: list[tuple[int, int, int]] = []
    for section in file.iter_sections():
        header = section.header
        if header.sh_flags & _ALLOCATED == 0 or header.sh_type == "SHT_NOBITS" or header.sh_size == 0:
            continue
        for load in loads:
            start = header.sh_offset - load.p_offset
            if start >= 0 and start + header.sh_size <= load.p_filesz:
                found.append((load.p_paddr + start, header.sh_offset, header.sh_size))
                break
    return tuple(found) or tuple((load.p_paddr, load.p_offset, load.p_filesz) for load in loads)


def _arm_content(name: str, pieces: list[Segment]) -> ElfContent:
    return ElfContent(
        flash=_image(name, pieces),
        eeprom=None,
        fuses=MappingProxyType({}),
        lock=None,
        signature=None,
        built_for="",
        interface=Interface.SWD,
    )


def _sort(name: str, pieces: list[Segment]) -> dict[int, list[Segment]]:
    """Return the pieces by the region they lie in, with addresses relative to it."""
    parts: dict[int, list[Segment]] = {0: [], _EEPROM: [], _FUSES: [], _LOCK: [], _SIGNATURE: [], _USER_SIGNATURES: []}
    ends = {0: _RAM, _EEPROM: _FUSES, _FUSES: _LOCK, _LOCK: _SIGNATURE, _SIGNATURE: _USER_SIGNATURES}
    for piece in pieces:
        region = max((start for start in parts if start <= piece.start), default=0)
        end = ends.get(region, _USER_SIGNATURES + 0x10000)
        if piece.span.stop > end:
            what = "RAM" if region == 0 and piece.span.stop <= _EEPROM else "no memory of an AVR"
            raise _refused(name, f"it wants bytes at {piece.span}, which is {what}")
        parts[region].append(Segment(piece.start - region, piece.data))
    return parts


def _image(name: str, pieces: list[Segment]) -> Image:
    try:
        return Image.of(pieces)
    except ValueError as error:
        raise RefusedError(
            ErrorCode.IMAGE_OVERLAP, f"{name}: {error}", hint="the linker script puts two sections in one place"
        ) from error


def _fuses(name: str, pieces: list[Segment]) -> Mapping[MemoryKind, int]:
    values = _image(name, pieces)
    # a gap would be filled with a byte that nobody asked for
    if len(values) > len(_FUSE_ORDER) or len(values) != values.span.stop:
        raise _refused(name, "its .fuse section is not low, high and extended byte")
    dense = values.bytes_in(values.span)
    return MappingProxyType(dict(zip(_FUSE_ORDER, dense, strict=False)))


def _lock(name: str, pieces: list[Segment]) -> int | None:
    values = _image(name, pieces)
    if len(values) > 1 or values.span.start > 0:
        raise _refused(name, "its .lock section is not one byte")
    return values.segments[0].data[0] if len(values) else None


def _signature(name: str, pieces: list[Segment]) -> Signature | None:
    values = _image(name, pieces)
    if not len(values):
        return None
    if len(values) != _SIGNATURE_BYTES or values.span.start > 0:
        raise _refused(name, "its .signature section is not three bytes")
    # <avr/signature.h> stores the byte of address 0 last
    return Signature(values.segments[0].data[::-1])


def _built_for(file: ELFFile, content: bytes) -> str:
    """Return the device name in the note that avr-libc's start-up code leaves: owner ``AVR``, the name as last string."""
    for section in file.iter_sections("SHT_NOTE"):
        if section.name == _NOTE_SECTION:
            # cut out by hand: the library would unpack a section that calls itself compressed
            start = section.header.sh_offset
            data = content[start : start + min(section.header.sh_size, _MAX_NOTE_BYTES)]
            name = data.rstrip(b"\x00").rpartition(b"\x00")[2]
            if data[12:16] == _NOTE_OWNER and name.isalnum() and name.isascii():
                return name.decode("ascii").lower()
    return ""


def _refused(name: str, problem: str, *, hint: str = "build the file again") -> RefusedError:
    return RefusedError(ErrorCode.IMAGE_INVALID, f"{name}: {problem}", hint=hint, facts=Facts(field="images"))

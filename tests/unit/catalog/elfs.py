"""ELF files written by hand for the tests: header, program headers, an optional note section, then the bytes."""

import struct


def elf(
    *segments: tuple[int, bytes],
    machine: int = 83,
    kind: int = 2,
    device: str = "",
    clear: tuple[int, int] = (0x800100, 0x90),
) -> bytes:
    """Return an executable: ``segments`` are physical address and bytes; ``clear`` is RAM that start-up code zeroes."""
    loads = [(address, data, len(data)) for address, data in segments] + [(clear[0], b"", clear[1])]
    at = 52 + 32 * len(loads)
    headers, body = b"", b""
    for address, data, memory_bytes in loads:
        headers += struct.pack("<8I", 1, at + len(body), address, address, len(data), memory_bytes, 5, 1)
        body += data
    name = device.encode() + b"\x00"
    desc = struct.pack("<8I", 0, 0x8000, 0x100, 0xA00, 0, 0x400, 8, 1) + b"\x00" + name
    desc += b"\x00" * (-len(desc) % 4)
    note = struct.pack("<3I", 4, len(desc), 1) + b"AVR\x00" + desc if device else b""
    names = b"\x00.note.gnu.avr.deviceinfo\x00.shstrtab\x00"
    note_at, names_at = at + len(body), at + len(body) + len(note)
    tables_at = names_at + len(names)
    sections = [
        (0,) * 10,
        (1, 7, 0, 0, note_at, len(note), 0, 0, 4, 0),
        (26, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, 0, 52, tables_at, 0x85, 52, 32, len(loads), 40, 3, 2)
    return header + headers + body + note + names + b"".join(struct.pack("<10I", *section) for section in sections)

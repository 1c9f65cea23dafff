"""Images out as Intel HEX, in the form every loader and programmer reads."""

from collections.abc import Iterator

from ispd.model.image import Image

__all__ = ["write_hex"]

_RECORD_BYTES = 16  # what avr-objcopy writes; some bootloader tools have line buffers made for it
_BANK_BYTES = 0x10000


def write_hex(image: Image) -> bytes:
    """Return ``image`` as Intel HEX.

    Each 64 KiB bank is opened by its base record (type 04), the first one too, so that the text stays right when it is
    appended to another. There are no start records, one end record, and a final newline, which dfu-programmer demands.
    """
    lines: list[str] = []
    bank = -1
    for start, data in _records(image):
        if start // _BANK_BYTES != bank:
            bank = start // _BANK_BYTES
            lines.append(_line(0, 4, bank.to_bytes(2, "big")))
        lines.append(_line(start % _BANK_BYTES, 0, data))
    lines.append(_line(0, 1, b""))
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def _records(image: Image) -> Iterator[tuple[int, bytes]]:
    for segment in image.segments:
        for block in segment.span.blocks(_RECORD_BYTES):
            yield block.start, segment.data[block.start - segment.start : block.stop - segment.start]


def _line(offset: int, kind: int, data: bytes) -> str:
    values = bytes([len(data), offset >> 8, offset & 0xFF, kind]) + data
    return f":{(values + bytes([-sum(values) & 0xFF])).hex().upper()}"

"""Files as dfu-util 0.11 takes them, and the bar it draws."""

import zlib
from dataclasses import dataclass

from vbench.tools.dfu_util_words import ExitCode, ExitError
from vbench.tools.machine import Process

__all__ = ["ANY_ID", "Bar", "DfuFile", "load_file"]

ANY_ID = 0xFFFF
_SUFFIX_BYTES = 16
_BAR_CELLS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class DfuFile:
    """A file without its suffix. ``content`` still has its prefix of ``prefix_bytes``.

    :param dfu_version: bcdDFU of the suffix, 0 without one.
    """

    content: bytes
    prefix_bytes: int = 0
    dfu_version: int = 0
    vendor_id: int = ANY_ID
    product_id: int = ANY_ID


def load_file(process: Process, name: str) -> DfuFile:
    """Read a file. Raises ``ExitError``."""
    content = b"" if name == "-" else process.file(name)
    if content is None:
        process.err(f"dfu-util: Could not open file {name} for reading: No such file or directory\n")
        raise ExitError(ExitCode.NO_INPUT)
    suffix = content[-_SUFFIX_BYTES:]
    reason = _missing(content, suffix)
    if reason:
        process.err(f"dfu-util: Warning: {reason}\n")
        process.err("dfu-util: A valid DFU suffix will be required in a future dfu-util release\n")
        return DfuFile(content=content, prefix_bytes=_prefix(content))
    length = suffix[11]
    if length < _SUFFIX_BYTES:
        process.err(f"dfu-util: Unsupported DFU suffix length {length}\n")
        raise ExitError(ExitCode.DATA)
    if length > len(content):
        process.err(f"dfu-util: Invalid DFU suffix length {length}\n")
        raise ExitError(ExitCode.DATA)
    body = content[:-length]
    return DfuFile(
        content=body,
        prefix_bytes=_prefix(body),
        dfu_version=int.from_bytes(suffix[6:8], "little"),
        vendor_id=int.from_bytes(suffix[4:6], "little"),
        product_id=int.from_bytes(suffix[2:4], "little"),
    )


def _missing(content: bytes, suffix: bytes) -> str:
    """Return why there is no suffix, empty where there is one."""
    if len(content) < _SUFFIX_BYTES:
        return "File too short for DFU suffix"
    if suffix[8:11] != b"UFD":
        return "Invalid DFU suffix signature"
    checksum = zlib.crc32(content[:-4]) ^ 0xFFFFFFFF  # DFU leaves out the last inversion
    return "" if int.from_bytes(suffix[12:], "little") == checksum else "DFU suffix CRC does not match"


def _prefix(body: bytes) -> int:
    """Return the size of what stands before the firmware: TI's 8 bytes, NXP's 16, or nothing."""
    if len(body) < 8:
        return 0
    if body[:2] == b"\x01\x00":
        return 8 if int.from_bytes(body[4:8], "little") == len(body) - 8 else 0
    is_nxp = (body[0] & 0x3F, body[1] & 0x3F) == (0x1A, 0x3F)
    return 16 if is_nxp and len(body) >= 16 else 0


class Bar:
    """The progress bar: drawn anew when a cell is filled, or when another second has begun."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._last: tuple[int, int] | None = None

    def draw(self, title: str, done: int, most: int) -> None:
        """Show how far it is; a most that is not known is 0."""
        if most < done:
            most = done + 1
        if most == 0 and done == 0:
            most = 1
        filled = min(_BAR_CELLS * done // most, _BAR_CELLS)
        now = (filled, int(self._process.bench.now()))
        if now == self._last:
            return
        self._last = now
        cells = "=" * filled + " " * (_BAR_CELLS - filled)
        self._process.out(f"\r{title}\t[{cells}] {100 * done // most:3d}% {done:12d} bytes")
        if filled == _BAR_CELLS:
            self._process.out(f"\n{title} done.\n")

"""Bytes read from a board, as files: Intel HEX or raw, by the file's ending."""

from pathlib import Path

from ispctl.errors import RefusedFileError

__all__ = ["check_ending", "encode_for", "intel_hex"]

_HEX_ENDINGS = (".hex", ".ihex", ".eep")
_RAW_ENDINGS = (".bin",)
_RECORD_BYTES = 16
_BANK_BYTES = 0x10000


def check_ending(path: Path, *, raw: bool = True) -> None:
    """Refuse a file name whose ending tells no format, before a board is bothered."""
    endings = _HEX_ENDINGS + (_RAW_ENDINGS if raw else ())
    if path.suffix.lower() not in endings:
        raise RefusedFileError(f"{path}: the ending must tell the format: {', '.join(endings)}")


def encode_for(path: Path, content: bytes, start: int = 0) -> bytes:
    """Return ``content``, from address ``start`` on, in the format of the file's ending; a raw file knows no addresses."""
    return content if path.suffix.lower() in _RAW_ENDINGS else intel_hex(content, start).encode("ascii")


def intel_hex(content: bytes, start: int = 0) -> str:
    """Return ``content``, from address ``start`` on, as Intel HEX (Intel, Hexadecimal Object File Format, 1988).

    :param start: a multiple of 16, so that no record crosses the end of a bank of 64 KiB.
    """
    lines = []
    bank = 0
    for offset in range(0, len(content), _RECORD_BYTES):
        address = start + offset
        if address // _BANK_BYTES != bank:
            bank = address // _BANK_BYTES
            lines.append(_record(0, 4, bank.to_bytes(2, "big")))
        lines.append(_record(address % _BANK_BYTES, 0, content[offset : offset + _RECORD_BYTES]))
    return "".join([*lines, _record(0, 1, b"")])


def _record(address: int, kind: int, data: bytes) -> str:
    body = bytes([len(data)]) + address.to_bytes(2, "big") + bytes([kind]) + data
    return f":{body.hex().upper()}{-sum(body) & 0xFF:02X}\n"

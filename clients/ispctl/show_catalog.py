"""What the catalog answers, as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from ispctl.text import address, byte, fuse_text, printable, table

__all__ = ["show_bootloaders", "show_image", "show_part", "show_parts"]

Record = Mapping[str, Any]


def show_parts(parts: Sequence[Record]) -> str:
    """List parts."""
    rows = (
        (p["id"], p["signature"], _flash(p), p["eeprom_bytes"], _factory(p["fuses"]), p["avrdude_id"]) for p in parts
    )
    return table(("PART", "SIGNATURE", "FLASH", "EEPROM", "FACTORY FUSES", "AVRDUDE"), rows)


def _flash(part: Record) -> str:
    """Return the size of a part's flash; those of the smallest and the largest chip where one part is several."""
    least, most = part["smallest_flash_bytes"], part["flash_bytes"]
    return f"{least}-{most}" if 0 < least < most else str(most)


def _factory(fuses: Mapping[str, int]) -> str | None:
    """Return factory values; in two words where an STM32's option bytes are all the same."""
    values = set(fuses.values())
    if "user" in fuses and len(values) == 1:
        return f"all {byte(values.pop())}"
    return fuse_text(fuses)


def show_part(explained: Record) -> str:
    """Describe a part and its fuse bytes bit by bit."""
    part, fuses = explained["part"], explained["fuses"]
    lines = [
        f"{part['name']}: {fuse_text(fuses['fuses']) or 'no fuses'}"
        + (f" (preset {fuses['preset']})" if fuses["preset"] else ""),
        *_told_by_fuses(explained),
        "",
        table(
            ("BYTE", "VALUE", "BITS THAT EXIST", "COUNTS AS", ""),
            (
                (
                    one["memory"],
                    byte(one["value"]),
                    byte(one["mask"]),
                    byte(one["effective"]),
                    "asked" if one["asked"] else "factory",
                )
                for one in fuses["bytes"]
            ),
        ),
        "",
        table(
            ("BYTE", "BITS", "VALUE", "MEANING"),
            ((bit["memory"], bit["name"].upper(), bit["value"], bit["meaning"]) for bit in fuses["bits"]),
        ),
        "",
        f"fuse guard: {_GUARD[fuses['verdict']]}",
    ]
    return "\n".join([*lines, *(f"{one['level']}: {one['memory']}: {one['message']}" for one in fuses["findings"])])


def _told_by_fuses(explained: Record) -> list[str]:
    """Return what an AVR's fuses decide; an STM32's option bytes decide none of it."""
    if explained["part"]["interface"] == "swd":
        return []
    fuses = explained["fuses"]
    return [
        f"clock: {fuses['clock']}",
        f"brown-out: {fuses['brown_out']}",
        f"boot section: {fuses['boot_section']}",
    ]


_GUARD = {
    None: "nothing to say",
    "check": "worth a second look",
    "confirm": "asks before this is written (--yes accepts it)",
    "refuse": "refuses to write this (--force-fuses writes it anyway)",
}


def show_bootloaders(bootloaders: Sequence[Record]) -> str:
    """List bootloaders."""
    rows = (
        (
            b["id"],
            b["qmk"],
            _few(b["parts"] or b["chips"]),
            fuse_text(b["fuses"], b["lock"]),
            ",".join(b["usb"]),
            b["tool"] or "by hand",
        )
        for b in bootloaders
    )
    return table(("BOOTLOADER", "QMK", "PARTS", "FUSES", "USB", "TOOL"), rows)


def _few(names: Sequence[str]) -> str:
    """Return a list that fits into a column."""
    return ",".join(names if len(names) <= 3 else [*names[:2], f"and {len(names) - 2} more"])


def show_image(report: Record) -> str:
    """Describe an image file."""
    fits = report["parts_that_fit"]
    last = max(report["start"], report["end"] - 1)
    lines = [
        f"{printable(report['name'])}: {report['format']}, {printable(report['looks_like'])}",
        f"{report['size_bytes']} bytes from {address(report['start'])} to {address(last)}",
        f"file sha256 {report['sha256']}",
        f"image sha256 {report['image_sha256']}",
        *(f"segment {address(s['start'])}: {s['size_bytes']} bytes" for s in report["segments"]),
        f"kind: {report['kind']}" + (f" ({' or '.join(report['bootloaders'])})" if report["bootloaders"] else ""),
        f"fits: {', '.join(fits) if fits else 'no part of the catalog'}",
    ]
    return "\n".join([*lines, *(f"finding: {printable(finding)}" for finding in report["findings"])])

"""Each API result as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from ispctl.text import byte, duration, failure_lines, fuse_text, printable, table, verdict_text

__all__ = [
    "show_bootloaders",
    "show_image",
    "show_job",
    "show_jobs",
    "show_part",
    "show_parts",
    "show_probe",
    "show_programmers",
    "show_slot",
    "show_slots",
    "show_unit",
    "show_units",
]

Record = Mapping[str, Any]


def show_jobs(jobs: Sequence[Record]) -> str:
    """List jobs."""
    rows = (
        (job["id"], job["state"], _progress(job), job["part"], ",".join(job["slots"]), _files(job), job["created"][:19])
        for job in jobs
    )
    return table(("JOB", "STATE", "PASSED", "PART", "SLOTS", "FILES", "CREATED"), rows)


def show_job(job: Record) -> str:
    """Describe a job."""
    lines = [
        f"job {job['id']}: {job['state']}, passed {_progress(job)}, failed {job['failed']}, running {job['running']}",
        f"slots: {', '.join(job['slots'])}",
    ]
    if job["sources"]:
        lines.append(f"files: {_files(job)}")
    if job["part"] or job["bootloader"]:
        lines.append(f"part: {job['part'] or '-'}  bootloader: {job['bootloader'] or '-'}")
    if job["plan"] != "isp-only":
        lines.append(f"plan: {job['plan']}")
    lines += [f"warning: {printable(warning)}" for warning in job["warnings"]]
    lines += [f"{slot}: {printable(seen)}" for slot, seen in sorted(job["seen"].items())]
    return "\n".join(lines)


def _progress(job: Record) -> str:
    return str(job["passed"]) if job["count"] is None else f"{job['passed']}/{job['count']}"


def _files(record: Record) -> str:
    return printable(" + ".join(source["name"] for source in record["sources"]))


def show_units(units: Sequence[Record]) -> str:
    """List units."""
    rows = (
        (
            u["id"],
            u["job"],
            u["slot"],
            u["part"],
            verdict_text(u),
            duration(u["started"], u["finished"]),
            u["started"][:19],
        )
        for u in units
    )
    return table(("UNIT", "JOB", "SLOT", "PART", "VERDICT", "TIME", "STARTED"), rows)


def show_unit(unit: Record) -> str:
    """Describe a unit, with its attempts and their steps."""
    facts = {
        "part": unit["part"],
        "signature": unit["signature"],
        "SCK": None if unit["sck_hz"] is None else f"{unit['sck_hz']} Hz",
        "files": _files(unit),
        "image": unit["image_sha256"] and f"sha256 {unit['image_sha256']}",
        "plan": unit["plan"],
        "board": _board(unit),
        "before": fuse_text(unit["fuses_before"], unit["lock_before"]),
        "after": fuse_text(unit["fuses_after"], unit["lock"]),
        "time": duration(unit["started"], unit["finished"]),
    }
    lines = [f"unit {unit['id']} of job {unit['job']} on slot {unit['slot']}: {verdict_text(unit)}"]
    lines += failure_lines(unit["failure"])
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    lines += [f"warning: {printable(warning)}" for warning in unit["warnings"]]
    for attempt in unit["attempts"]:
        lines.append(f"attempt {attempt['number']}: {attempt['verdict'] or 'running'}")
        lines += [_step(step) for step in attempt["steps"]]
    return "\n".join(lines)


def _board(unit: Record) -> str | None:
    if unit["target_usb"] is None:
        return None
    runs = unit["application_usb"]
    return f"USB port {unit['target_usb']}" + (f", runs as {runs}" if runs else "")


def _step(step: Record) -> str:
    line = f"  {step['name']}: {step['seconds']:.2f} s, {step['bytes']} bytes"
    if step["note"]:
        line = f"{line} ({printable(step['note'])})"
    return "\n".join([line, *(f"    | {printable(said)}" for said in _lines(step["output"]))])


def _lines(output: str) -> list[str]:
    """Return what a tool printed, without what it wrote over itself with carriage returns."""
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.split("\n"))
    return [line for line in lines if line]


def show_slots(slots: Sequence[Record]) -> str:
    """List slots."""
    rows = (
        (
            s["name"],
            s["state"],
            s["programmer"],
            s["port"],
            s["target_usb"],
            s["part"],
            _doing(s),
            s["passed"],
            s["failed"],
        )
        for s in slots
    )
    headings = ("SLOT", "STATE", "PROGRAMMER", "PORT", "BOARD'S USB", "PART", "DOING", "PASSED", "FAILED")
    return table(headings, rows)


def _doing(slot: Record) -> str:
    if slot["step"]:
        doing = f"{slot['step']} {slot['progress'] * 100:.0f} %"
        return f"{doing}, {printable(slot['note'])}" if slot["note"] else doing
    if slot["failure"] is not None:
        return str(slot["failure"]["code"])
    return printable(slot["note"])


def show_slot(slot: Record) -> str:
    """Describe a slot."""
    lines = [
        f"slot {slot['name']}: {slot['state']}",
        f"programmer: {slot['programmer'] or '-'} on {slot['port'] or '-'}",
    ]
    if slot["target_usb"] is not None:
        lines.append(f"board's USB port: {slot['target_usb']}, now {slot['board_usb'] or 'nothing'} there")
    if slot["part"] or slot["signature"]:
        lines.append(f"target: {slot['part'] or '-'} ({slot['signature'] or '-'})")
    if slot["unit"] is not None and slot["job"] is not None:
        lines.append(f"unit {slot['unit']} of job {slot['job']}: {_doing(slot)}")
    elif slot["unit"] is not None:
        lines.append(f"last unit: {slot['unit']}")
    if slot["note"] and not slot["step"]:
        lines.append(printable(slot["note"]))
    lines += failure_lines(slot["failure"])
    lines.append(f"passed {slot['passed']}, failed {slot['failed']}")
    return "\n".join(lines)


def show_programmers(programmers: Sequence[Record]) -> str:
    """List programmers."""
    rows = ((p["slot"], p["kind"], p["port"], p["path"], p["usb_id"], p["firmware"]) for p in programmers)
    return table(("SLOT", "KIND", "PORT", "USB PATH", "USB ID", "FIRMWARE"), rows)


def show_probe(probe: Record) -> str:
    """Describe what a target answered."""
    facts = {
        "signature": probe["signature"],
        "part": " or ".join(probe["parts"]),
        "fuses": fuse_text(probe["fuses"], probe["lock"]),
        "calibration": byte(probe["calibration"]),
        "clock": probe["clock"],
        "SCK": None if probe["sck_hz"] is None else f"{probe['sck_hz']} Hz",
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    return "\n".join([f"slot {probe['slot']}", *lines, *failure_lines(probe["failure"])])


def show_parts(parts: Sequence[Record]) -> str:
    """List parts."""
    rows = (
        (p["id"], p["signature"], p["flash_bytes"], p["eeprom_bytes"], fuse_text(p["fuses"]), p["avrdude_id"])
        for p in parts
    )
    return table(("PART", "SIGNATURE", "FLASH", "EEPROM", "FACTORY FUSES", "AVRDUDE"), rows)


def show_part(explained: Record) -> str:
    """Describe a part and its fuse bytes bit by bit."""
    part, fuses = explained["part"], explained["fuses"]
    lines = [
        f"{part['name']}: {fuse_text(fuses['fuses']) or 'no fuses'}"
        + (f" (preset {fuses['preset']})" if fuses["preset"] else ""),
        f"clock: {fuses['clock']}",
        f"brown-out: {fuses['brown_out']}",
        f"boot section: {fuses['boot_section']}",
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
        f"{report['size_bytes']} bytes from 0x{report['start']:04X} to 0x{last:04X}",
        f"file sha256 {report['sha256']}",
        f"image sha256 {report['image_sha256']}",
        *(f"segment 0x{s['start']:04X}: {s['size_bytes']} bytes" for s in report["segments"]),
        f"kind: {report['kind']}" + (f" ({' or '.join(report['bootloaders'])})" if report["bootloaders"] else ""),
        f"fits: {', '.join(fits) if fits else 'no part of the catalog'}",
    ]
    return "\n".join([*lines, *(f"finding: {printable(finding)}" for finding in report["findings"])])

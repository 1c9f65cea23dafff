"""Each API result as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from ispctl.text import (
    byte,
    clock_name,
    duration,
    failure_lines,
    fuse_text,
    is_device_id,
    printable,
    protection,
    table,
    verdict_text,
)

__all__ = [
    "show_job",
    "show_jobs",
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
        "chip": printable(unit["chip"]),
        "unique id": unit["unique_id"],
        clock_name(unit["signature"]): None if unit["sck_hz"] is None else f"{unit['sck_hz']} Hz",
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
        lines.append(f"unit {slot['unit']} of job {slot['job']}: {_doing(slot) or slot['state']}")
    elif slot["unit"] is not None:
        lines.append(f"last unit: {slot['unit']}")
    if slot["note"] and not slot["step"]:
        lines.append(printable(slot["note"]))
    lines += failure_lines(slot["failure"])
    lines.append(f"passed {slot['passed']}, failed {slot['failed']}")
    return "\n".join(lines)


def show_programmers(programmers: Sequence[Record]) -> str:
    """List programmers; what they speak and their serial numbers only where one of them speaks SWD."""
    headings = ["SLOT", "KIND", "PORT", "USB PATH", "USB ID", "FIRMWARE"]
    fields = ["slot", "kind", "port", "path", "usb_id", "firmware"]
    if any(p["interface"] == "swd" for p in programmers):
        headings += ["SPEAKS", "SERIAL"]
        fields += ["interface", "serial"]
    return table(headings, ([p[field] for field in fields] for p in programmers))


def show_probe(probe: Record, notes: Mapping[str, str] | None = None) -> str:
    """Describe what a target answered, and who asked it.

    :param notes: what is to be known of its parts, by their ids.
    """
    notes = notes or {}
    bytes_known = fuse_text(probe["fuses"], probe["lock"])
    is_stm32 = is_device_id(probe["signature"])
    facts = {
        "programmer": probe["programmer"],
        "firmware": probe["firmware"],
        "serial": probe["serial"],
        "signature": probe["signature"],
        "part": " or ".join(f"{part}, {notes[part]}" if part in notes else part for part in probe["parts"]),
        "chip": probe["chip"],
        "flash": _flash(probe) if is_stm32 else None,
        "RAM": None if probe["ram_bytes"] is None else f"{probe['ram_bytes']} bytes",
        "unique id": probe["unique_id"],
        "supply": None if probe["voltage_mv"] is None else f"{probe['voltage_mv'] / 1000:.2f} V",
        "option bytes" if is_stm32 else "fuses": bytes_known,
        "protection": protection(probe["fuses"] or {}, probe["lock"]) if is_stm32 else None,
        "calibration": byte(probe["calibration"]),
        "clock": probe["clock"],
        clock_name(probe["signature"]): f"{probe['sck_hz']} Hz" if (probe["sck_hz"] or 0) > 0 else None,
    }
    lines = [f"{name}: {printable(value)}" for name, value in facts.items() if value]
    lines += [f"warning: {printable(warning)}" for warning in probe["warnings"]]
    return "\n".join([f"slot {probe['slot']}", *lines, *failure_lines(probe["failure"])])


def _flash(probe: Record) -> str | None:
    if probe["flash_bytes"] is None:
        return None
    page = probe["flash_page_bytes"]
    return f"{probe['flash_bytes']} bytes" + (f", pages of {page}" if page is not None else "")

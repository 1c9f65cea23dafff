"""Looking for what keeps programmers from working, without asking the daemon to do anything."""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ispctl.client import Client
from ispctl.errors import ClientError, NotAllowedError

__all__ = ["Finding", "Level", "Machine", "examine", "show_findings"]

_NODES = ("ttyACM*", "ttyUSB*")
_MEDDLERS = {
    "ModemManager": "it writes into every new serial port: `systemctl disable --now ModemManager`, or a udev rule with"
    ' ENV{ID_MM_DEVICE_IGNORE}="1"',
    "brltty": "it takes CH340 and CP2102 adapters for Braille displays: `systemctl mask brltty-udev.service`",
    "fwupd": "it opens bootloaders it knows: `systemctl mask fwupd.service` while flashing",
}
_TOOLS = {
    "avrdude": "only for comparing: `apt install avrdude`",
    "dfu-programmer": "for boards with the Atmel or QMK DFU bootloader: `apt install dfu-programmer`",
    "dfu-util": "for STM32 boards: `apt install dfu-util`",
}


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``cure`` is empty where nothing needs to be done."""

    check: str
    level: Level
    message: str
    cure: str = ""

    @property
    def is_bad(self) -> bool:
        """True where something certainly will not work."""
        return self.level is Level.BAD

    def as_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Machine:
    """What is looked at; a test gives another ``root``, user and search path."""

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = field(default_factory=lambda: frozenset({os.getegid(), *os.getgroups()}))
    which: Callable[[str], str | None] = shutil.which

    def nodes(self) -> list[Path]:
        """Return the serial device nodes of programmers."""
        return sorted(node for pattern in _NODES for node in (self.root / "dev").glob(pattern))

    def processes(self) -> Iterator[tuple[int, str, Path]]:
        """Yield number, name and /proc folder of each process."""
        for folder in (self.root / "proc").glob("[0-9]*"):
            try:
                yield int(folder.name), (folder / "comm").read_text().strip(), folder
            except OSError:
                continue  # it has ended meanwhile


def examine(machine: Machine, socket: Path) -> list[Finding]:
    """Return all findings, in the order to read them."""
    return [
        *_daemon(machine, socket),
        *_ports(machine),
        *_meddlers(machine),
        *_holders(machine),
        *_tools(machine),
    ]


def show_findings(findings: list[Finding]) -> str:
    """Return the findings for people."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.check}: {finding.message}")
        if finding.cure:
            lines.append(f"      {finding.cure}")
    return "\n".join(lines)


def _daemon(machine: Machine, socket: Path) -> Iterator[Finding]:
    try:
        with Client(socket) as client:
            station: dict[str, Any] = client.call("station.get")
    except NotAllowedError as error:
        group = _group_name(socket.stat().st_gid) if socket.exists() else "ispd"
        yield Finding(
            "daemon", Level.BAD, error.message, f"`usermod -aG {group} {_user_name(machine.uid)}`, then log in again"
        )
    except ClientError as error:
        yield Finding("daemon", Level.BAD, error.message, error.hint)
    else:
        bench = ", on a virtual bench" if station["bench"] else ""
        yield Finding("daemon", Level.OK, f"ispd {station['version']} with {station['slots']} slots answers{bench}")


def _ports(machine: Machine) -> Iterator[Finding]:
    nodes = machine.nodes()
    if not nodes:
        yield Finding("ports", Level.NOTE, "no serial programmer is connected", "plug one in; `dmesg` says what came")
    for node in nodes:
        facts = node.stat()
        group = _group_name(facts.st_gid)
        if _may_use(machine, facts):
            yield Finding(str(node), Level.OK, f"may be used, group {group}")
        else:
            cure = (
                f"install the udev rules of ispd, or `usermod -aG {group} {_user_name(machine.uid)}` and log in again"
            )
            yield Finding(str(node), Level.NOTE, f"may not be used by {_user_name(machine.uid)}, group {group}", cure)


def _may_use(machine: Machine, facts: os.stat_result) -> bool:
    if machine.uid == 0:
        return True
    if machine.uid == facts.st_uid:
        needed = stat.S_IRUSR | stat.S_IWUSR
    elif facts.st_gid in machine.groups:
        needed = stat.S_IRGRP | stat.S_IWGRP
    else:
        needed = stat.S_IROTH | stat.S_IWOTH
    return facts.st_mode & needed == needed


def _meddlers(machine: Machine) -> Iterator[Finding]:
    running = {name for _, name, _ in machine.processes()}
    for name, cure in _MEDDLERS.items():
        if name in running:
            yield Finding(name, Level.NOTE, "is running", cure)


def _holders(machine: Machine) -> Iterator[Finding]:
    """Name who has a programmer's port open. Other users' processes show themselves to root only."""
    nodes = {str(node) for node in machine.nodes()}
    for number, name, folder in machine.processes():
        if name == "ispd":
            continue
        for node in sorted(nodes & _open_files(folder)):
            yield Finding(node, Level.BAD, f"is held open by {name} (process {number})", "end that program")


def _open_files(process: Path) -> set[str]:
    found = set()
    try:
        for link in (process / "fd").iterdir():
            found.add(str(link.readlink()))
    except OSError:
        return found  # not ours to see, or ended
    return found


def _tools(machine: Machine) -> Iterator[Finding]:
    for tool, cure in _TOOLS.items():
        path = machine.which(tool)
        if path is None:
            yield Finding(tool, Level.NOTE, "is not installed", cure)
        else:
            yield Finding(tool, Level.OK, path)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

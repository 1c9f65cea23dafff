"""Whether the daemon answers, and if not, what keeps it: not started, dead, failed, or not for this user."""

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ispctl.client import Client
from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.machine import Machine, group_name, user_name
from ispctl.errors import ClientError, NotAllowedError, RpcError

__all__ = ["Answer", "ask_daemon"]

_ANSWER_S = 5.0  # what is asked for here stands in memory
_START = "start it: `systemctl start ispd`, or `ispd` for yourself; or name its socket with --socket"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking the daemon. ``programmers`` as ``programmer.list`` has them, none where it did not say."""

    findings: list[Finding]
    programmers: list[dict[str, Any]] = field(default_factory=list)


def ask_daemon(machine: Machine, socket: Path) -> Answer:
    """Ask the daemon for its facts and programmers."""
    try:
        with Client(socket) as client:
            client.deadline = time.monotonic() + _ANSWER_S
            station: dict[str, Any] = client.call("station.get")
            programmers: list[dict[str, Any]] = client.call("programmer.list")
    except NotAllowedError:
        return Answer([_not_allowed(machine, socket)])
    except RpcError as error:
        if error.code == "not-allowed":
            return Answer([_not_allowed(machine, socket)])
        return Answer([Finding("daemon", Level.BAD, error.message, error.hint)])
    except ClientError as error:
        return Answer(list(_not_running(machine, socket, error)))
    bench = ", on a virtual bench" if station["bench"] else ""
    message = f"ispd {station['version']} with {station['slots']} slots answers{bench}"
    # those of a bench are nowhere on this machine, though it may have devices at the same places
    return Answer([Finding("daemon", Level.OK, message)], [] if station["bench"] else programmers)


def _not_allowed(machine: Machine, socket: Path) -> Finding:
    """Tell why the socket is closed to this user: its group, an old login, its mode, or a folder above it."""
    user = user_name(machine.uid)
    try:
        facts = socket.stat()
    except OSError:
        folder = socket.parent
        message = f"{user} may not enter {folder}, where the socket is"
        return Finding("socket", Level.BAD, message, f"`chmod o+x {folder}`: the socket's own mode keeps others out")
    group = group_name(facts.st_gid)
    if facts.st_gid in machine.groups_of(machine.uid) and facts.st_gid not in machine.groups:
        message = f"{user} is in group {group}, but logged in before that"
        return Finding("group", Level.BAD, message, f"log out and in again; or, for one shell: `newgrp {group}`")
    if facts.st_gid in machine.groups and facts.st_mode & (stat.S_IRGRP | stat.S_IWGRP) != stat.S_IRGRP | stat.S_IWGRP:
        message = f"{socket} has mode {stat.S_IMODE(facts.st_mode):04o}, so that its group {group} may not use it"
        return Finding(
            "socket", Level.BAD, message, "SocketMode=0660 in ispd.socket; then `systemctl restart ispd.socket`"
        )
    message = f"{user} may not use {socket}: it is for group {group}"
    if facts.st_gid == 0:
        cure = "let ispd run as a service with a group of its own (scripts/install); or use sudo"
    else:
        cure = f"`usermod -aG {group} {user}`, then log in again"
    return Finding("socket", Level.BAD, message, cure)


def _not_running(machine: Machine, socket: Path, error: ClientError) -> Iterator[Finding]:
    try:
        mode = socket.lstat().st_mode
    except OSError:
        message = f"there is no socket at {socket}: ispd does not run, or has another"
    else:
        if stat.S_ISSOCK(mode):
            message = f"{error.message}; the socket is there, and no living daemon behind it"
        else:
            message = f"{socket} is no socket"
    cure = _START
    if machine.has_systemd:
        cure = _cure_by_service(machine) or _START
    yield Finding("daemon", Level.BAD, message, cure)


def _cure_by_service(machine: Machine) -> str:
    """Return what the service's state asks for; nothing where there is no such service."""
    shown = machine.run(["systemctl", "show", "ispd.service", "--property=LoadState,ActiveState,Result"])
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    match state.get("LoadState", ""), state.get("ActiveState", ""):
        case "masked", _:
            return "the service is masked: `systemctl unmask ispd.service ispd.socket`"
        case "loaded", "failed":
            return (
                f"the service has failed ({state.get('Result', 'unknown')}): `journalctl -u ispd -b -e` says why;"
                " then `systemctl restart ispd.socket ispd.service`"
            )
        case "loaded", "inactive":
            return "the service is stopped: `systemctl enable --now ispd.socket ispd.service`"
        case "loaded", _:
            return (
                "the service runs, but not here: `systemctl restart ispd.socket ispd.service`; `journalctl -u ispd -e`"
            )
    return ""

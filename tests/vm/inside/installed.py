"""The installed service, and how people and programs on its workstation use it."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "ENQUEUE_BY_DESCRIPTOR",
    "ISPCTL",
    "PYTHON",
    "ROOT",
    "bus_call",
    "command_of",
    "doctor",
    "files",
    "may_read",
    "must",
    "result",
    "run",
]

ROOT = Path(__file__).parents[3]
ISPCTL = "/usr/local/bin/ispctl"
_PLACES = {"/opt": 1, "/var/lib": 1, "/run": 1, "/etc": 4, "/usr/local": 4, "/usr/share/polkit-1": 2}
"""Where an installation could leave something, and how deep."""
_VOLATILE = re.compile(
    r"^/etc/(passwd|group|g?shadow|sub[ug]id)|^/var/lib/(systemd|dbus|private|polkit)|^/run/(?!ispd)|\.pyc$|__pycache__"
)
_COMMAND = re.compile(r"`([^`]+)`")


def run(*command: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command, as root or as somebody else with a login of just now."""
    words = command if user is None else ("runuser", "-u", user, "--", *command)
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)


def must(*command: str, user: str | None = None) -> str:
    """Run a command that has to succeed and return what it printed."""
    done = run(*command, user=user)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def result(*command: str, user: str | None = None) -> Any:
    """Run ``ispctl --json`` as a user."""
    return json.loads(must(ISPCTL, "--json", *command, user=user))


def doctor(user: str | None = None) -> list[dict[str, str]]:
    """Return what the doctor finds; whether that is good is no matter here."""
    found: list[dict[str, str]] = json.loads(run(ISPCTL, "--json", "doctor", user=user).stdout)
    return found


def command_of(cure: str) -> str:
    """Return the first command that a cure names."""
    found = _COMMAND.search(cure)
    assert found is not None, cure
    return found[1]


def bus_call(user: str, *words: str) -> str:
    """Call a method of the Manager with ``busctl`` and return its answer, or the error's name or message."""
    manager = ("org.ispd.Station1", "/org/ispd/Station1", "org.ispd.Station1.Manager")
    done = run("busctl", "--system", "call", *manager, *words, user=user)
    return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"


def files() -> set[str]:
    """Return all files in the places where an installation could leave something."""
    found = {
        path
        for place, depth in _PLACES.items()
        for path in must("find", place, "-xdev", "-maxdepth", str(depth)).splitlines()
    }
    return {path for path in found if not _VOLATILE.search(path)}


@contextmanager
def may_read(content: bytes, name: str = "board.hex") -> Iterator[Path]:
    """Put a file where every user reads it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / name
        file.write_bytes(content)
        file.chmod(0o644)
        yield file


ENQUEUE_BY_DESCRIPTOR = """
import asyncio, json, sys
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

async def call(bus, member, signature, *body, fds=()):
    reply = await bus.call(Message(
        destination="org.ispd.Station1", path="/org/ispd/Station1", interface="org.ispd.Station1.Manager", member=member,
        signature=signature, body=list(body), unix_fds=list(fds)))
    assert reply.message_type is MessageType.METHOD_RETURN, (reply.error_name, reply.body)
    return reply.body[0]

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    with open(sys.argv[1], "rb") as image:
        file = {"name": Variant("s", "board.hex"), "content": Variant("h", 0)}
        options = {"images": Variant("aa{sv}", [file]), "slots": Variant("as", [sys.argv[2]])}
        job = (await call(bus, "JobEnqueue", "a{sv}", options, fds=[image.fileno()]))["id"].value
    while (await call(bus, "JobGet", "x", job))["state"].value != "done":
        await asyncio.sleep(0.2)
    units = await call(bus, "UnitList", "a{sv}", {"job": Variant("x", job)})
    print(json.dumps([unit["verdict"].value for unit in units]))

asyncio.run(main())
"""
"""Run by an outside interpreter with dbus-fast: enqueue a file by its descriptor, and print the verdicts."""

PYTHON = sys.executable

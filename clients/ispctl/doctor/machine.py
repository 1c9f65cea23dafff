"""The machine as the doctor sees it: files below a root, processes, accounts and tools. Nothing here changes anything."""

import grp
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Account", "Machine", "Process", "group_name", "user_name"]

_NODES = ("ttyACM*", "ttyUSB*")
_SERVICE_USER = "ispd"
_TOOL_S = 5.0  # a tool that only tells its version and takes longer hangs


@dataclass(frozen=True, slots=True)
class Account:
    """Whose rights are meant: a user with groups, as a process has them or as the databases give them."""

    uid: int
    groups: frozenset[int]

    def may_use(self, facts: os.stat_result) -> bool:
        """Tell whether it may read and write what has these facts."""
        if self.uid == 0:
            return True
        if self.uid == facts.st_uid:
            needed = stat.S_IRUSR | stat.S_IWUSR
        elif facts.st_gid in self.groups:
            needed = stat.S_IRGRP | stat.S_IWGRP
        else:
            needed = stat.S_IROTH | stat.S_IWOTH
        return facts.st_mode & needed == needed


@dataclass(frozen=True, slots=True)
class Process:
    """A running process by its folder under /proc; what may not be seen, or has ended, is empty."""

    pid: int
    name: str
    folder: Path

    @property
    def is_daemon(self) -> bool:
        """True for ispd, however it was started."""
        if self.name == "ispd":
            return True
        try:
            words = (self.folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return words[1:3] == [b"-m", b"ispd"] or (len(words) > 1 and words[1].rpartition(b"/")[2] == b"ispd")

    def account(self) -> Account | None:
        """Return whose rights it has (proc(5), status)."""
        try:
            lines = (self.folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        try:
            # each line: real, effective, saved, file system
            uid, gid = int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1])
            return Account(uid, frozenset({gid, *map(int, fields.get("Groups", "").split())}))
        except (KeyError, ValueError, IndexError):
            return None

    def open_files(self) -> set[str] | None:
        """Return what it has open; None where that is not ours to see."""
        found = set()
        try:
            for link in (self.folder / "fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    found.add(str(link.readlink()))
        except FileNotFoundError:
            return found  # ended meanwhile
        except OSError:
            return None
        return found


def _groups_of(uid: int) -> frozenset[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TOOL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is looked at; a test gives another root, user, search path and databases.

    :param groups: groups of this process.
    :param groups_of: groups of a user id by the databases, which a login older than them does not have.
    :param uid_of: user id of a name.
    :param run: runs a command and returns what it says on both outputs; nothing where it fails.
    """

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = field(default_factory=lambda: frozenset({os.getegid(), *os.getgroups()}))
    which: Callable[[str], str | None] = shutil.which
    run: Callable[[Sequence[str]], str] = _run
    groups_of: Callable[[int], frozenset[int]] = _groups_of
    uid_of: Callable[[str], int | None] = _uid_of

    def nodes(self) -> list[Path]:
        """Return the serial device nodes of USB devices."""
        return sorted(node for pattern in _NODES for node in (self.root / "dev").glob(pattern))

    def shown(self, path: Path) -> str:
        """Return a path as a user knows it."""
        return f"/{path.relative_to(self.root)}"

    def text(self, *parts: str) -> str:
        """Return the stripped content of a small file below the root; nothing where it can not be read."""
        try:
            return self.root.joinpath(*parts).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def processes(self) -> Iterator[Process]:
        """Yield all processes."""
        for folder in (self.root / "proc").glob("[0-9]*"):
            name = self.text("proc", folder.name, "comm")
            if name:
                yield Process(int(folder.name), name, folder)

    def udev_properties(self, number: str) -> dict[str, str] | None:
        """Return what udev knows of a character device, by its number as ``166:0``; None where it knows nothing.

        The form of the files is that of systemd's sd-device (device-private.c).
        """
        text = self.text("run/udev/data", f"c{number}")
        lines = (line.removeprefix("E:") for line in text.splitlines() if line.startswith("E:"))
        return dict(line.split("=", 1) for line in lines if "=" in line) if text else None

    @property
    def has_systemd(self) -> bool:
        """True where systemd is the service manager (sd_booted(3))."""
        return (self.root / "run/systemd/system").is_dir() and self.which("systemctl") is not None

    def daemon_account(self) -> Account:
        """Return whose rights count for devices: the running daemon's, the service's, or whoever asks."""
        for process in self.processes():
            if process.is_daemon and (account := process.account()) is not None:
                return account
        service = self.uid_of(_SERVICE_USER) if self.has_systemd else None
        if service is not None:
            return Account(service, self.groups_of(service))
        return Account(self.uid, self.groups)


def group_name(gid: int) -> str:
    """Return a group's name, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_name(uid: int) -> str:
    """Return a user's name, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

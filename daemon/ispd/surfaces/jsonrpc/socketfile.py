"""The socket's place in the file system: there when the daemon is ready, never two daemons on one."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ispd.errors import ConfigError

__all__ = ["SOCKET_MODE", "listen"]

SOCKET_MODE = 0o660
"""Owner and group may connect: whoever is in the daemon's group operates the station."""

_BACKLOG = 64

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link planted in its place is not followed, and a pipe not waited for."""


@contextmanager
def listen(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket at ``path`` inside the context; the socket does not block.

    It is made under another name, given its mode, and moved into place, so that whoever sees it can use it. A dead
    daemon's socket is replaced; that of a living one raises ``ConfigError``.
    """
    with _alone(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        _refuse_living(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.unlink(missing_ok=True)
            listener.bind(str(draft))
            draft.chmod(SOCKET_MODE)
            listener.listen(_BACKLOG)
            inode = draft.stat().st_ino
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _unusable(path, error) from error
        try:
            yield listener
        finally:
            _remove(path, inode)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file beside the socket, so that of two daemons started at once only one goes on."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), _LOCK_FLAGS, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(path) from error
        yield
    finally:
        os.close(lock)


def _refuse_living(path: Path) -> None:
    """Raise where ``path`` is something other than a socket that nobody serves."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket", hint="remove it, or name another daemon.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        failure = probe.connect_ex(str(path))
    if failure in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise _in_use(path)


def _remove(path: Path, inode: int) -> None:
    """Remove the socket, unless something else stands at its place by now."""
    with suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _in_use(path: Path) -> ConfigError:
    return ConfigError(f"another ispd is running on {path}", hint="stop it first, or name another daemon.socket")


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"no socket can be made at {path}: {error.strerror or error}",
        hint="the directory must exist and be writable, and the path be shorter than 90 bytes",
    )

"""Files that callers pass as open descriptors: read once, from the beginning, within a size and a time.

Only regular files and pipes are read. A pipe is emptied through a pipe of our own by splice(2), which never waits, so a
caller that writes nothing, or reads against us, costs the time allowed and no more.
"""

import os
import select
import stat
import threading
import time
from contextlib import suppress

import anyio
from anyio import to_thread

from ispd.catalog.imagefile import MAX_FILE_BYTES
from ispd.errors import ErrorCode, RefusedError

__all__ = ["Reader", "close_all"]

_CHUNK_BYTES = 64 * 1024
_PATIENCE_S = 10.0
"""How long a file may take; the largest that is accepted comes from a slow USB stick in less."""

_AT_ONCE = 8


class Reader:
    """Reads descriptors in threads. One that never returns (a file system that hangs) occupies a place, no more."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._limiter = anyio.CapacityLimiter(2 * _AT_ONCE)
        self._patience_s = patience_s

    async def read(self, fd: int) -> bytes:
        """Return what ``fd`` holds and close it, whatever happens. Raises ``RefusedError`` where it is no file of ours."""
        if not self._places.acquire(blocking=False):
            os.close(fd)
            raise _refused("too many files are being read at once", hint="try again in a moment")
        with anyio.move_on_after(self._patience_s + 1):
            return await to_thread.run_sync(self._read, fd, limiter=self._limiter, abandon_on_cancel=True)
        raise _too_slow(self._patience_s)

    def _read(self, fd: int) -> bytes:
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode):
                return _read_file(fd)
            if stat.S_ISFIFO(mode):
                return _read_pipe(fd, self._patience_s)
        except OSError as error:
            raise _refused(
                f"the descriptor cannot be read: {error.strerror}", hint="open the file for reading"
            ) from None
        finally:
            os.close(fd)
            self._places.release()
        raise _refused("the descriptor is neither a file nor a pipe", hint="pass the opened image file")


def close_all(descriptors: list[int]) -> None:
    """Close what nobody will read."""
    for fd in descriptors:
        with suppress(OSError):
            os.close(fd)


def _read_file(fd: int) -> bytes:
    if os.fstat(fd).st_size > MAX_FILE_BYTES:
        raise _too_large()
    content = bytearray()
    while chunk := os.pread(fd, _CHUNK_BYTES, len(content)):
        content += chunk
        if len(content) > MAX_FILE_BYTES:
            raise _too_large()
    return bytes(content)


def _read_pipe(fd: int, patience_s: float) -> bytes:
    deadline = time.monotonic() + patience_s
    content = bytearray()
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    ours, entrance = os.pipe2(os.O_CLOEXEC)
    try:
        while (rest_s := deadline - time.monotonic()) > 0:
            if not waiting.poll(rest_s * 1000):
                break
            try:
                count = os.splice(fd, entrance, _CHUNK_BYTES, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
            except BlockingIOError:  # somebody else took it
                continue
            if count == 0:
                return bytes(content)
            while count:
                piece = os.read(ours, count)
                content += piece
                count -= len(piece)
            if len(content) > MAX_FILE_BYTES:
                raise _too_large()
    finally:
        os.close(ours)
        os.close(entrance)
    raise _too_slow(patience_s)


def _refused(message: str, *, hint: str) -> RefusedError:
    return RefusedError(ErrorCode.INVALID_PARAMETER, message, hint=hint)


def _too_slow(patience_s: float) -> RefusedError:
    return _refused(f"the file did not end within {patience_s:g} seconds", hint="close the pipe after the last byte")


def _too_large() -> RefusedError:
    return RefusedError(ErrorCode.IMAGE_TOO_LARGE, f"a file has more than the {MAX_FILE_BYTES} bytes that are taken")

"""Outside programs: each in a scratch folder and a process group of its own, gone when it is done or told to stop.

A program that has ended is left a zombie until its whole group was killed: only as long is the group's number sure to be
its own. Programs find a home that is empty and inherit nothing but the search path, so that nobody's settings change them.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import anyio

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import ToolOutcome, ToolRun

__all__ = ["run_tool"]

_KEPT_BYTES = 4 << 20
"""Most that is kept of one stream or file: eight times the flash of the largest keyboard chip. What comes after is lost."""

_PIECE_BYTES = 1 << 16
_LAST_WORDS_S = 0.5
"""How long the pipes of an ended program are read on: a child that left its group may hold them open for ever."""

_SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
_NOTHING: Mapping[str, str] = MappingProxyType({})


async def run_tool(
    run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None, *, environment: Mapping[str, str] = _NOTHING
) -> ToolOutcome:
    """Run a program to its end; see ``Tooling.run_tool``.

    :param environment: variables it gets besides; where tests put emulated devices before it.
    """
    with tempfile.TemporaryDirectory(prefix="ispd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for file, content in run.inputs.items():
            (folder / file).write_bytes(content)
        program = _Program(_start(run.words, folder, environment), on_output, is_data=run.output_is_data)
        try:
            with anyio.move_on_after(run.deadline_s):
                await program.follow()
        finally:
            exit_code = await program.end()
        files = {file: _content(folder / file) for file in run.outputs if (folder / file).is_file()}
    return ToolOutcome(
        exit_code=exit_code if program.has_ended else None,
        output=bytes(program.output),
        errors=bytes(program.errors),
        files=files,
    )


class _Program:
    """A running program and what it has said."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", on_output: Callable[[bytes], object], *, is_data: bool
    ) -> None:
        self._process = process
        self._is_data = is_data
        self._pipes = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
        self._on_output = on_output
        self.output, self.errors = bytearray(), bytearray()
        self.has_ended = False
        """It ended by itself, before anything killed it."""

    async def follow(self) -> None:
        """Read until it ends, and what its pipes still hold then."""
        async with anyio.create_task_group() as tasks:
            for pipe, kept in zip(self._pipes, (self.output, self.errors), strict=True):
                os.set_blocking(pipe.fileno(), False)
                tasks.start_soon(self._collect, pipe.fileno(), kept)
            await self._ended()
            self.has_ended = True
            self._kill_group()
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_S

    async def end(self) -> int:
        """Kill whatever is left of its group, and return its exit code when it is dead: no zombie stays."""
        self._kill_group()
        for pipe in self._pipes:
            pipe.close()
        with anyio.CancelScope(shield=True):
            await self._ended()  # the kernel lets a USB transfer that is under way time out first
        return self._process.wait()

    async def _ended(self) -> None:
        """Return once it has ended, without asking for its exit code yet."""
        handle = os.pidfd_open(self._process.pid)
        try:
            await anyio.wait_readable(handle)
        finally:
            os.close(handle)

    def _kill_group(self) -> None:
        with suppress(PermissionError):  # nothing left of it that we may kill
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _collect(self, pipe: int, kept: bytearray) -> None:
        while True:
            await anyio.wait_readable(pipe)
            try:
                piece = os.read(pipe, _PIECE_BYTES)
            except BlockingIOError:
                continue
            if not piece:
                return
            kept += piece[: _KEPT_BYTES - len(kept)]
            if kept is self.errors or not self._is_data:
                self._on_output(piece)


def _start(words: tuple[str, ...], folder: Path, more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    search_path = more.get("PATH", os.environ.get("PATH", _SEARCH_PATH))
    program = shutil.which(words[0], path=search_path) or shutil.which(words[0], mode=os.F_OK, path=search_path)
    if program is None:
        raise _missing(words[0])
    try:
        return subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env={"PATH": search_path, "HOME": str(folder), "LC_ALL": "C.UTF-8", **more},
            start_new_session=True,
        )
    except FileNotFoundError as error:  # a script without its interpreter
        raise _missing(words[0]) from error
    except PermissionError as error:
        raise TransportError(
            ErrorCode.PERMISSION_DENIED,
            f"{words[0]} may not be run by this user",
            hint=f"see the file mode of {program}",
        ) from error
    except OSError as error:
        raise TransportError(
            ErrorCode.TOOL_MISSING, f"{words[0]} cannot be run: {error.strerror}", hint=f"see what {program} is"
        ) from error


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_KEPT_BYTES)


def _missing(program: str) -> TransportError:
    return TransportError(
        ErrorCode.TOOL_MISSING,
        f"there is no program {program}",
        hint=f"install it (Debian package {program.replace('_', '-')}); `ispctl doctor` names what is missing",
    )

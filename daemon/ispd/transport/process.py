"""Outside programs: each in a scratch folder and a process group of its own, gone when it is done or told to stop."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import ToolOutcome, ToolRun

__all__ = ["run_tool"]

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""What a program inherits; its language is fixed, since its words are read."""


async def run_tool(run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None) -> ToolOutcome:
    """Run a program to its end; see ``Tooling.run_tool``."""
    with tempfile.TemporaryDirectory(prefix="ispd-") as name:
        folder = Path(name)
        for file, content in run.inputs.items():
            (folder / file).write_bytes(content)
        output, errors = bytearray(), bytearray()
        process = await _start(run.words, folder)
        exit_code: int | None = None
        try:
            with anyio.move_on_after(run.deadline_s):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_collect, process.stdout, output, on_output)
                    tasks.start_soon(_collect, process.stderr, errors, on_output)
                exit_code = await process.wait()
        finally:
            await _end(process)
        files = {file: (folder / file).read_bytes() for file in run.outputs if (folder / file).is_file()}
    return ToolOutcome(exit_code=exit_code, output=bytes(output), errors=bytes(errors), files=files)


async def _start(words: tuple[str, ...], folder: Path) -> Process:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        return await anyio.open_process(
            words,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**environment, "LC_ALL": "C.UTF-8", "HOME": str(folder)},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise TransportError(
            ErrorCode.TOOL_MISSING,
            f"there is no program {words[0]}",
            hint=f"install it (Debian package {words[0].replace('_', '-')}); `ispctl doctor` names what is missing",
        ) from error
    except PermissionError as error:
        raise TransportError(
            ErrorCode.PERMISSION_DENIED, f"{words[0]} may not be run by this user", hint="see its file mode"
        ) from error


async def _collect(stream: ByteReceiveStream | None, kept: bytearray, on_output: Callable[[bytes], object]) -> None:
    if stream is not None:
        async for piece in stream:
            kept += piece
            on_output(piece)


async def _end(process: Process) -> None:
    """Kill what is left of the group, children of the program too, and wait for the program itself."""
    with anyio.CancelScope(shield=True):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.aclose()

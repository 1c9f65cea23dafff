"""Outside programs as the bench has them: the same command line, words, streams and exit codes, the true ones and the others.

The bench runs in virtual time and inside one process, so real programs cannot see its boards. These stand in for them; they
hold the same conversations with the emulated bootloaders. The real ones are proof elsewhere: the same boards, other doors.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import ToolOutcome, ToolRun
from vbench.tools import avrdude, dfu_programmer, dfu_util, teensy_loader
from vbench.tools.machine import Process, ToolBench, UnemulatedError

__all__ = ["PROGRAMS", "Program", "ToolBench", "UnemulatedError", "check_versions", "run_emulated"]

_START_S = 0.01
"""From ``exec`` to ``main``, about."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be on a bench.

    :param versions: those that are emulated; the first is Debian 12's and what a bench has unless it is told otherwise.
    :param run: the program: returns what its ``main`` returns.
    """

    versions: tuple[str, ...]
    run: Callable[[Process, str], Awaitable[int]]


PROGRAMS: Mapping[str, Program] = {
    "avrdude": Program(avrdude.VERSIONS, avrdude.run),
    "dfu-programmer": Program(dfu_programmer.VERSIONS, dfu_programmer.run),
    "dfu-util": Program(dfu_util.VERSIONS, dfu_util.run),
    "teensy_loader_cli": Program(teensy_loader.VERSIONS, teensy_loader.run),
}


def check_versions(tools: Mapping[str, str]) -> None:
    """Raise ``ValueError`` where a bench wants a program, or a version of it, that is not emulated."""
    for name, version in tools.items():
        if name not in PROGRAMS:
            raise ValueError(f"there is no program {name} for a bench, only {', '.join(sorted(PROGRAMS))}")
        if version and version not in PROGRAMS[name].versions:
            versions = ", ".join(PROGRAMS[name].versions)
            raise ValueError(f"there is no {name} {version} for a bench, only {versions}")


async def run_emulated(run: ToolRun, on_output: Callable[[bytes], object], bench: ToolBench) -> ToolOutcome:
    """Run a program of the bench to its end; see ``Tooling.run_tool``.

    Raises ``TransportError`` (tool-missing) where the bench does not have it, ``UnemulatedError`` where it is asked for something
    that the emulation leaves out.
    """
    name = run.words[0]
    program = PROGRAMS.get(name)
    version = "" if program is None else bench.tools.get(name, program.versions[0])
    if program is None or not version:
        raise TransportError(
            ErrorCode.TOOL_MISSING, f"there is no program {name}", hint="the bench says which programs are installed"
        )
    process = Process(run, on_output, bench)
    exit_code: int | None = None
    with anyio.move_on_after(run.deadline_s):
        await bench.sleep(_START_S)
        exit_code = await program.run(process, version) & 0xFF
        process.flush()
    files = {file: process.files[file] for file in run.outputs if file in process.files}
    return ToolOutcome(exit_code=exit_code, output=process.output, errors=process.errors, files=files)

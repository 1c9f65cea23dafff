"""Where the chain stage takes place, who is told, and how it can end."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio

from ispd.chain.contract import ChainTool
from ispd.errors import IspdError, JobError
from ispd.flashing.desk import BoardPort
from ispd.flashing.pace import UsbPace
from ispd.flashing.verdict import verdict_after
from ispd.model.bootloader import Bootloader
from ispd.model.image import Segment
from ispd.model.job import Failure, StepRecord, Verdict
from ispd.transport.clock import Clock
from ispd.transport.contract import Hardware, UsbDeviceAt

__all__ = [
    "ChainBench",
    "ChainObserver",
    "ChainOutcome",
    "ToolTurns",
    "unless_stopped",
    "verdict_of",
]

T = TypeVar("T")


class ChainObserver(Protocol):
    """Told what happens to the unit over USB. What a coroutine raises ends the attempt."""

    async def step_started(self, name: str) -> None:
        """A step begins."""

    async def step_finished(self, record: StepRecord) -> None:
        """A step ended, well or not (its note says so); the next one begins when this returns."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Bytes of the firmware that are through."""

    async def checkpoint(self) -> None:
        """Between steps: wait while paused; raise ``JobError`` (cancelled, interrupted) to stop."""

    async def stopped(self) -> JobError:
        """Return, once the unit must be given up in the middle of a step, why."""


class ToolTurns(Protocol):
    """Who may use a tool that takes whatever board it finds: one unit of the station at a time."""

    async def take(self, tool: ChainTool) -> None:
        """Wait for the turn of this task."""

    def give(self, tool: ChainTool) -> None:
        """End the turn of this task."""

    async def wait_until_alone(self, bootloader: Bootloader, path: str) -> None:
        """Wait until the board at ``path`` is the only one on the machine in this bootloader.

        Raises ``TargetError`` (tool-failed) naming the port of another one that does not leave.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBench:
    """Where the chain stage takes place. ``port`` is the board's, the rest is the station's.

    :param prove: waits for the bootloader of the slot's board, and of no other; raises ``TargetError`` (bootloader-not-seen,
        board-unexpected), and what concerns the programmer. None where there is nothing to prove it by.
    :param read_flash: reads all of flash by the slot's programmer while the board runs; None where that would stop the board (ISP), or
        there is none. It is asked where the bootloader cannot be read.
    """

    port: BoardPort
    hardware: Hardware
    clock: Clock
    tools: Sequence[ChainTool]
    turns: ToolTurns
    prove: Callable[[], Awaitable[UsbDeviceAt]] | None = None
    read_flash: Callable[[], Awaitable[Sequence[Segment]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOutcome:
    """How the chain stage ended. ``needs-rescue``: the board is ill, and its bootloader will not cure it.

    :param application_usb: what showed up on the port at last, None where nothing did.
    """

    verdict: Verdict
    failure: Failure | None = None
    application_usb: str | None = None
    warnings: tuple[str, ...] = ()
    pace: UsbPace | None = None


def verdict_of(error: IspdError, *, is_ill: bool = False) -> Verdict:
    """Return the verdict of an attempt that an error ended; ``is_ill``: the board is to blame."""
    return Verdict.NEEDS_RESCUE if is_ill and not isinstance(error, JobError) else verdict_after(error)


async def unless_stopped(observer: ChainObserver, work: Callable[[], Awaitable[T]]) -> T:
    """Carry out ``work``; where the unit has to be given up meanwhile, cancel it and raise the ``JobError`` that says why."""
    reasons: list[JobError] = []
    results: list[T] = []
    failures: list[IspdError] = []

    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            reasons.append(await observer.stopped())
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            results.append(await work())
        except IspdError as error:
            failures.append(error)
        tasks.cancel_scope.cancel()
    if results:
        return results[0]
    raise (reasons or failures)[0]

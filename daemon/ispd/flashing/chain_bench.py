"""Where the chain stage takes place, who is told, and how it can end."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio

from ispd.chain.contract import ChainTool
from ispd.errors import ErrorCode, IspdError, JobError
from ispd.flashing.desk import BoardPort
from ispd.flashing.pace import UsbPace
from ispd.model.bootloader import Bootloader
from ispd.model.image import Segment
from ispd.model.job import Failure, StepRecord, Verdict
from ispd.transport.clock import Clock
from ispd.transport.contract import Hardware, UsbDeviceAt

__all__ = [
    "ChainBench",
    "ChainObserver",
    "ChainOutcome",
    "Company",
    "ToolTurns",
    "UntilLoader",
    "unless_stopped",
    "verdict_of",
]

T = TypeVar("T")
UntilLoader = Callable[[], Awaitable[UsbDeviceAt]]


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


class Company(Protocol):
    """The other units of the station that wait for their boards on USB: cables may be exchanged among them."""

    @property
    def has_others(self) -> bool:
        """True once another unit was on its way at the same time as this one."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Restart a board for as long as the context lasts, while nobody else of the company does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBench:
    """Where the chain stage takes place. ``port`` is the board's, the rest is the station's.

    :param company: None for a slot without a programmer, which could not restart a board.
    :param prove: given what waits for the bootloader, returns the one that is the slot's board for sure; raises ``TargetError``
        (board-unexpected) where another board is on the port. None where there is nothing to prove it by.
    :param read_flash: reads all of flash by the slot's programmer while the board runs; None where that would stop the board (ISP), or
        there is none. It is asked where the bootloader cannot be read.
    """

    port: BoardPort
    hardware: Hardware
    clock: Clock
    tools: Sequence[ChainTool]
    turns: ToolTurns
    company: Company | None = None
    prove: Callable[[UntilLoader], Awaitable[UsbDeviceAt]] | None = None
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
    match error:
        case JobError(code=ErrorCode.INTERRUPTED):
            return Verdict.INTERRUPTED
        case JobError(code=ErrorCode.CANCELLED):
            return Verdict.CANCELLED
        case _:
            return Verdict.NEEDS_RESCUE if is_ill else Verdict.FAILED


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

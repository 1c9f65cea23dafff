"""Flashes one STM32F1 behind an SWD programmer: connect, identify, plan, carry out, verify, run, say how it ended."""

from dataclasses import dataclass, replace
from typing import Final, Protocol

import anyio

from ispd.errors import ErrorCode, Facts, IspdError, LinkClosedError, LinkTimeoutError, TargetError
from ispd.flashing.cortex_core import CortexCore
from ispd.flashing.session import failure_of, verdict_after
from ispd.flashing.stm32f1_flash import Stm32Flash
from ispd.flashing.stm32f1_identify import Stm32Facts, identify
from ispd.flashing.stm32f1_plan import (
    EraseAll,
    ErasePages,
    OpenProtection,
    RunTarget,
    Stm32Plan,
    Stm32Step,
    Stm32Wish,
    VerifyFlash,
    WriteFlash,
    WriteOptions,
    plan_opening,
    plan_stm32f1,
)
from ispd.model.image import BLANK, Segment
from ispd.model.job import Failure, StepRecord, Verdict
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdConnection, SwdProgrammer
from ispd.transport.clock import Clock
from ispd.wire.stm32f1 import FLASH_BASE, FLASH_OBR, FLASH_WRPR, OptionBytes

__all__ = ["Stm32Observer", "Stm32Outcome", "flash_stm32f1"]

_RELEASE_S: Final = 10.0
"""For a reset and what a programmer needs to let go, each with its own limits."""
_IN_FLIGHT_S: Final = 0.2
"""A page, or a block that the loader has, is done by then: a reset in its midst would leave cells half written."""
_NRST_S: Final = 0.01


class Stm32Observer(Protocol):
    """Told what happens to the unit. What a coroutine raises ends the attempt, with the target let go."""

    async def identified(self, facts: Stm32Facts, connection: SwdConnection) -> None:
        """The chip told who it is."""

    async def about_to_write(self, plan: Stm32Plan, warnings: tuple[str, ...]) -> None:
        """Everything was checked and nothing was changed yet: commit the intent now. Twice where a protection is removed."""

    async def step_started(self, name: str) -> None:
        """A step begins."""

    async def step_finished(self, record: StepRecord) -> None:
        """A step succeeded; the next one begins when this returns."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Bytes written and read back so far."""

    async def checkpoint(self) -> None:
        """Between steps, pages and blocks: wait while paused; raise ``JobError`` to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32Outcome:
    """How the attempt ended. ``facts`` as read at last, None where it did not come to that, like ``connection``."""

    verdict: Verdict
    failure: Failure | None = None
    facts: Stm32Facts | None = None
    connection: SwdConnection | None = None
    warnings: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    seconds: float = 0.0


async def flash_stm32f1(
    programmer: SwdProgrammer, wish: Stm32Wish, *, clock: Clock, observer: Stm32Observer
) -> Stm32Outcome:
    """Carry out what is wanted on the chip behind ``programmer`` and return how it ended.

    Passed means: every page that was written was read back after the last write and is right, option bytes that were asked
    for are in force, and the chip was reset and let go. Every declared error becomes an outcome; only cancellation and what
    the observer raises besides ``IspdError`` come out. Whatever happens the target is reset, released and runs.
    """
    started_s = clock.monotonic()
    run = _Run(programmer, wish, clock, observer)
    failed: IspdError | None = None
    try:
        await run.carry_out()
    except IspdError as error:
        failed = error
    finally:
        stuck = await run.release()
    if stuck is not None and not isinstance(stuck, LinkClosedError):
        run.warnings.append(f"the target may still be halted: {stuck.message}")
    return replace(
        run.outcome,
        verdict=Verdict.PASSED if failed is None else verdict_after(failed),
        failure=None if failed is None else failure_of(failed),
        warnings=tuple(dict.fromkeys(run.warnings)),
        steps=tuple(run.records),
        seconds=clock.monotonic() - started_s,
    )


class _Tally:
    """Counts bytes for the observer."""

    stop_requested = False

    def __init__(self, observer: Stm32Observer) -> None:
        self._observer = observer
        self._done = 0
        self.total = 0

    def advance(self, done_bytes: int) -> None:
        """Take note that more bytes are finished."""
        self._done = min(self.total, self._done + done_bytes)
        self._observer.progress(self._done, self.total)


class _Run:
    """State of one attempt."""

    def __init__(self, programmer: SwdProgrammer, wish: Stm32Wish, clock: Clock, observer: Stm32Observer) -> None:
        self.outcome = Stm32Outcome(verdict=Verdict.FAILED)
        self.warnings: list[str] = []
        self.records: list[StepRecord] = []
        self._programmer = programmer
        self._wish = wish
        self._clock = clock
        self._observer = observer
        self._core = CortexCore(programmer, clock)
        self._flash = Stm32Flash(programmer, self._core, clock)
        self._tally = _Tally(observer)
        self._is_held = False
        """The target may be halted, or worse."""

    async def carry_out(self) -> None:
        self._is_held = True
        connection = await self._programmer.connect(self._wish.settings)
        self.warnings += connection.warnings
        self.outcome = replace(self.outcome, connection=connection)
        facts = await self._identify()
        await self._observer.identified(facts, connection)
        opening = plan_opening(self._wish, facts)
        if opening.steps:
            await self._execute(opening)
            facts = await self._identify()
        await self._execute(plan_stm32f1(self._wish, facts))

    async def release(self) -> IspdError | None:
        """Reset the target and let it go, whatever happened before, cancellation included; return why that failed."""
        if not self._is_held:
            return None
        failure: IspdError | None = None
        with anyio.move_on_after(_RELEASE_S, shield=True) as scope:
            try:
                if self._flash.is_busy:
                    await self._clock.sleep(_IN_FLIGHT_S)
                if self.outcome.facts is not None:
                    await self._core.reset_and_run()
            except IspdError as error:
                failure = error
            try:
                await self._programmer.disconnect()
            except IspdError as error:
                failure = failure or error
        if scope.cancelled_caught:
            return LinkTimeoutError(self._programmer.identity.port, _RELEASE_S)
        return failure

    async def _identify(self) -> Stm32Facts:
        facts = await identify(self._programmer, self._wish.settings.clones)
        self.warnings += facts.warnings
        self.outcome = replace(self.outcome, facts=facts)
        return facts

    async def _execute(self, plan: Stm32Plan) -> None:
        self.warnings += plan.warnings
        self._tally.total += plan.total_bytes
        await self._observer.checkpoint()
        await self._observer.about_to_write(plan, tuple(self.warnings))
        await self._core.reset_and_halt()
        await self._flash.open()
        for step in plan.steps:
            await self._observer.checkpoint()
            await self._observer.step_started(step.name)
            started, started_s = self._clock.wall(), self._clock.monotonic()
            note = await self._do(step)
            record = StepRecord(
                name=step.name,
                started=started.isoformat(timespec="milliseconds"),
                seconds=self._clock.monotonic() - started_s,
                bytes=step.bytes,
                note=note,
            )
            self.records.append(record)
            await self._observer.step_finished(record)

    async def _do(self, step: Stm32Step) -> str:
        """Carry out one step and return what it found out, for the record."""
        match step:
            case OpenProtection():
                await self._open_protection(step)
                return "flash was erased" if step.expects_blank else ""
            case ErasePages():
                await self._erase_pages(step.pages)
                return f"{len(step.pages)} pages"
            case EraseAll():
                await self._flash.erase_all()
            case WriteFlash():
                await self._write(step.blocks)
            case VerifyFlash():
                await self._verify(step.expected)
            case WriteOptions():
                await self._flash.write_options(step.options, self._tally)
                await self._reload_options(step.options)
            case RunTarget():
                await self._run_target()
        return ""

    async def _erase_pages(self, pages: tuple[int, ...]) -> None:
        for page in pages:
            await self._observer.checkpoint()
            await self._flash.erase_page(page)

    async def _write(self, blocks: tuple[Segment, ...]) -> None:
        for block in blocks:
            await self._observer.checkpoint()
            await self._flash.program(block.start, block.data)
            self._tally.advance(len(block.data))

    async def _run_target(self) -> None:
        if not await self._core.reset_and_run():
            self.warnings.append("the program crashes as soon as it is started")
        await self._programmer.disconnect()
        self._is_held = False

    async def _verify(self, expected: tuple[Segment, ...]) -> None:
        await self._flash.close()
        for segment in expected:
            await self._compare(segment)

    async def _compare(self, expected: Segment) -> None:
        found = await self._programmer.read(expected.span, self._tally)
        if found == expected.data:
            return
        if len(found) != len(expected.data):
            raise TargetError(
                ErrorCode.TARGET_LOST, f"only {len(found)} of {len(expected.data)} bytes could be read back"
            )
        wrong = [at for at, (want, got) in enumerate(zip(expected.data, found, strict=True)) if want != got]
        at = wrong[0]
        raise TargetError(
            ErrorCode.VERIFY_MISMATCH,
            f"flash at 0x{expected.start + at:08X} reads 0x{found[at]:02X} instead of 0x{expected.data[at]:02X} "
            f"({len(wrong)} bytes differ)",
            hint="flash the board again; if it fails at the same address replace the chip",
            facts=Facts(
                memory=MemoryKind.FLASH.value,
                address=expected.start + at,
                expected=expected.data[at],
                actual=found[at],
            ),
        )

    async def _open_protection(self, step: OpenProtection) -> None:
        await self._flash.write_options(step.options, self._tally)
        await self._reload_options(step.options)
        if not step.expects_blank:
            return
        # only a chip that really erased itself is trusted to have opened
        first = Span(FLASH_BASE, FLASH_BASE + 256)
        found = await self._programmer.read(first, self._tally)
        if found != bytes([BLANK]) * len(first):
            raise TargetError(
                ErrorCode.ERASE_FAILED,
                "flash is not blank after its read protection was removed",
                hint="flash the board again; replace the chip if it stays so",
                facts=Facts(memory=MemoryKind.FLASH.value, address=FLASH_BASE),
            )

    async def _reload_options(self, options: OptionBytes) -> None:
        """Reset, and make sure that the option bytes are in force: by the core first, by NRST where that is not enough."""
        await self._core.reset_and_halt()
        if await self._options() != options.as_registers():
            await self._programmer.hold_reset(is_held=True)
            await self._clock.sleep(_NRST_S)
            await self._programmer.hold_reset(is_held=False)
            await self._clock.sleep(_NRST_S)
            await self._core.reset_and_halt()
        if await self._options() != options.as_registers():
            raise TargetError(
                ErrorCode.LOCK_MISMATCH,
                "the new option bytes are not in force after a reset",
                hint="unplug the board's supply for a second, then flash it again",
                facts=Facts(memory="options"),
            )

    async def _options(self) -> OptionBytes:
        obr = await self._programmer.read_word(FLASH_OBR)
        return OptionBytes.of_registers(obr, await self._programmer.read_word(FLASH_WRPR))

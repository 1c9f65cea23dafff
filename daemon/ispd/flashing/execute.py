"""Runs the recipe on one unit: identify, plan, carry out step by step, verify, release the target, say how it ended.

What is retried and what is not: a read that differs is repeated twice, and counts as a read error (a warning) only
when both repetitions are right; nothing that was *written* is ever written again within an attempt, since a cell that
needs two writes is damaged and would be hidden by them.
"""

from collections.abc import Sequence
from functools import partial

from ispd.catalog.admission import admit
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, LocalProtocolError, TargetError
from ispd.flashing.erased import check_erased
from ispd.flashing.observer import Identified, UnitObserver, UnitOutcome
from ispd.flashing.plan import plan_unit
from ispd.flashing.readback import Readback, Tally
from ispd.flashing.reentry import reenter
from ispd.flashing.sck import SckStart, entry_rungs, found_again
from ispd.flashing.session import TargetSession
from ispd.flashing.signature import blame_fixed_sck
from ispd.flashing.steps import (
    CheckWritable,
    EraseChip,
    Leave,
    Plan,
    Reenter,
    Step,
    VerifyBits,
    VerifyCells,
    WriteCells,
    WriteFuse,
    WriteLock,
)
from ispd.flashing.unit_work import UnitWork, conclude
from ispd.flashing.verdict import check_spoken, unknown_part, wrong_part
from ispd.flashing.verify import bits_note
from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind, Signature
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer
from ispd.transport.clock import Clock

__all__ = ["flash_unit"]

_IDLE_ROUNDS = 100
"""So many stopped writes in a row without a page finished are no pause but a driver that does nothing."""


_NOTHING_KNOWN = SckStart()


async def flash_unit(
    programmer: IspProgrammer,
    recipe: Recipe,
    *,
    parts: Parts,
    bootloaders: Bootloaders,
    clock: Clock,
    observer: UnitObserver,
    sck: SckStart = _NOTHING_KNOWN,
) -> UnitOutcome:
    """Carry out ``recipe`` on the target behind ``programmer`` and return how it ended.

    :param sck: what the slot knows about SCK: the rung where the board was seen, and what worked on earlier ones.

    Passed means: everything the recipe names, and every fuse byte, was read back after its last write and compared
    under its mask, and the target was released. Every declared error becomes an outcome; only cancellation and what
    the observer raises besides ``IspdError`` come out. Whatever happens the target is released from reset.
    """
    run = _UnitRun(TargetSession(programmer, clock), programmer, recipe, UnitWork(clock, observer), sck)
    return await conclude(
        run.work,
        lambda: run.carry_out(parts, bootloaders),
        run.session.release,
        stuck_words="the target may still be held in reset",
    )


class _UnitRun:
    """State of one attempt on an AVR."""

    def __init__(
        self, session: TargetSession, programmer: IspProgrammer, recipe: Recipe, work: UnitWork, sck: SckStart
    ) -> None:
        self.session = session
        self.work = work
        self._programmer = programmer
        self._recipe = recipe
        self._observer = work.observer
        self._sck = sck
        self._stepped_back = False
        self._signature = Signature(bytes(3))

    async def carry_out(self, parts: Parts, bootloaders: Bootloaders) -> None:
        part = await self._identify(parts)
        before = await self.session.read_state(part)
        self.work.learn(fuses_before=before.fuses, lock_before=before.lock)
        warnings = self.work.warnings
        warnings += admit(self._recipe, part, bootloaders, before.bits)
        entry_hz = self.work.outcome.sck_hz
        capabilities = self._programmer.capabilities
        plan = plan_unit(self._recipe, part, capabilities, before, entry_hz=entry_hz, sck=self._sck)
        await self._observer.checkpoint()
        await self._observer.about_to_write(before, tuple(warnings))
        tally = Tally(self._observer, plan.total_bytes)
        readback = Readback(
            partial(self.session.read, part),
            partial(self.session.read_state, part),
            part,
            self._observer.checkpoint,
            tally,
            warnings,
        )
        await self.work.carry_out(plan.steps, lambda step: self._do(step, part, readback, tally))
        self._learn(plan)

    def _learn(self, plan: Plan) -> None:
        """Keep what a board that passed showed about SCK."""
        sck_hz = self.work.outcome.sck_hz
        if plan.sck_key is not None and sck_hz is not None:
            is_limit = plan.is_bold or self._stepped_back
            self.work.learn(found_sck=found_again(plan.sck_key, plan.found, sck_hz, is_limit=is_limit))

    async def _identify(self, parts: Parts) -> AvrPart:
        """Enter, read the signature twice, find the part, and have the driver know it."""
        wanted = None
        if self._recipe.part is not None:
            check_spoken(parts.get(self._recipe.part), Interface.ISP)
            wanted = parts.avr(self._recipe.part)
        sck_hz = await self._enter_first(wanted)
        found = parts.by_signature(self._signature, AvrPart)
        self.work.learn(signature=str(self._signature), sck_hz=sck_hz)
        if not found:
            raise unknown_part(self._signature)
        if wanted is not None and wanted.signature != self._signature:
            raise wrong_part(wanted, found, self._signature)
        part = wanted or found[0]
        if wanted is None:
            sck_hz = await self.session.enter(part, sck_hz)
            self._expect_signature(await self.session.confirm_signature())
        await self.work.identified(Identified(signature=self._signature, part=part, clock_hz=sck_hz))
        return part

    async def _enter_first(self, part: AvrPart | None) -> int:
        wrong: TargetError | None = None
        fixed_hz = self._recipe.sck_hz
        for wanted_hz in entry_rungs(self._programmer.capabilities, fixed_hz=fixed_hz, first_hz=self._sck.rung_hz):
            try:
                sck_hz = await self.session.enter(part, wanted_hz)
                self._signature = await self.session.confirm_signature()
            except TargetError as error:
                wrong = wrong or error
            else:
                return sck_hz
        if wrong is None:
            raise LocalProtocolError("the programmer names no SCK")
        raise wrong if fixed_hz is None else blame_fixed_sck(wrong, fixed_hz)

    def _expect_signature(self, signature: Signature) -> None:
        if signature != self._signature:
            raise TargetError(
                ErrorCode.SIGNATURE_UNSTABLE,
                f"the signature read {self._signature}, then {signature}",
                hint="was the board exchanged? keep it in place until the verdict",
            )

    async def _do(self, step: Step, part: AvrPart, readback: Readback, tally: Tally) -> str:
        """Carry out one step and return what it found out, for the record."""
        match step:
            case CheckWritable():
                await readback.check_writable(step)
            case EraseChip():
                await self.session.erase_chip(part)
                await check_erased(self.session, part, step)
            case WriteFuse():
                await self.session.write_fuse(part, step.memory, step.value)
            case Reenter():
                return await self._reenter(step, part, readback)
            case WriteCells():
                await self._write(step.memory, step.pages, part, tally)
            case VerifyCells():
                await readback.verify_cells(step)
            case WriteLock():
                await self.session.write_lock(part, step.value)
            case VerifyBits():
                after = await readback.verify_bits(step.expected)
                self.work.learn(fuses_after=after.fuses, lock_after=after.lock)
                asked = {memory: step.expected[memory] for memory in step.asked}
                return bits_note(part, asked, after.bits)
            case Leave():
                await self.session.leave()
        return ""

    async def _reenter(self, step: Reenter, part: AvrPart, readback: Readback) -> str:
        entry_hz = self.work.outcome.sck_hz
        entered = await reenter(self.session, part, step, signature=self._signature, readback=readback)
        sck_hz, promised_hz = entered.sck_hz, step.promised_hz
        self._stepped_back = bool(entered.refused_hz)
        self.work.learn(sck_hz=sck_hz)
        if promised_hz is not None and sck_hz < promised_hz:
            self.work.warnings.append(
                f"the target does not follow SCK at {promised_hz} Hz, which its clock allows; {sck_hz} Hz is used: "
                "shorten the wires"
            )
        note = f"SCK {entry_hz} Hz, then {sck_hz} Hz" if entry_hz != sck_hz else f"SCK {sck_hz} Hz as before"
        if entered.refused_hz:
            note += f"; {', '.join(map(str, entered.refused_hz))} Hz did not hold"
        return note

    async def _write(self, memory: MemoryKind, pages: Sequence[Segment], part: AvrPart, tally: Tally) -> None:
        remaining = list(pages)
        idle_rounds = 0
        while remaining:
            done = await self.session.write(part, memory, remaining, tally)
            tally.settle(sum(len(page.data) for page in remaining[:done]))
            idle_rounds = 0 if done else idle_rounds + 1
            if idle_rounds >= _IDLE_ROUNDS:
                raise LocalProtocolError(f"writing {memory} makes no progress")
            remaining = remaining[done:]
            if remaining:
                await self._observer.checkpoint()

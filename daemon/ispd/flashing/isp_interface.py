"""The target behind an ISP programmer: looked at, probed, read, flashed. Each visit releases reset in the end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.fuses import clock_of
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, Facts, ProgrammerError, TargetError
from ispd.flashing.execute import flash_unit
from ispd.flashing.interface import ProbeFacts, Sighting
from ispd.flashing.observer import UnitObserver, UnitOutcome
from ispd.flashing.sck import SckStart, entry_rungs
from ispd.flashing.session import TargetSession, is_read_locked
from ispd.flashing.target_state import TargetState
from ispd.flashing.verdict import failure_of, unknown_part
from ispd.model.part import AvrPart, Interface, MemoryKind, Signature
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer, Monitor, ProgrammerIdentity
from ispd.transport.clock import Clock, SystemClock

__all__ = ["IspInterface"]

_IDENTIFY_BLINKS = 5
_BLINK_S = 0.25


class IspInterface:
    """See :class:`~ispd.flashing.interface.TargetInterface`."""

    kind = Interface.ISP
    meets_anew = False
    """A rung takes longer, and a board's clock is raised once its fuses are known."""
    reads_running = False

    def __init__(self, programmer: IspProgrammer) -> None:
        self._programmer = programmer

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""
        return self._programmer.identity

    def rungs(self, fixed_hz: int | None = None) -> tuple[int | None, ...]:
        """Return the ladder: an AVR's own clock is not known before it answers."""
        return entry_rungs(self._programmer.capabilities, fixed_hz=fixed_hz)

    async def look(self, rungs: Sequence[int | None] | None = None) -> Sighting:
        """Look once what is there; the target is reset."""
        return await _look(self._programmer, rungs)

    async def probe(self, parts: Parts) -> ProbeFacts:
        """Ask the target for everything it tells."""
        return await _probe(self._programmer, parts)

    async def read(self, parts: Parts, memory: MemoryKind, monitor: Monitor) -> bytes:
        """Return a whole memory."""
        return await _read(self._programmer, parts, memory, monitor)

    async def flash(
        self,
        recipe: Recipe,
        *,
        parts: Parts,
        bootloaders: Bootloaders,
        clock: Clock,
        observer: UnitObserver,
        start: SckStart,
    ) -> UnitOutcome:
        """Carry out ``recipe``."""
        return await flash_unit(
            self._programmer,
            recipe,
            parts=parts,
            bootloaders=bootloaders,
            clock=clock,
            observer=observer,
            sck=start,
        )

    async def identify(self, clock: Clock) -> None:
        """Blink: a programmer's light is on while its target is held in reset."""
        for _ in range(_IDENTIFY_BLINKS):
            async with self.held():
                await clock.sleep(_BLINK_S)
            await clock.sleep(_BLINK_S)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the target in reset."""
        try:
            await self._programmer.enter(None, None)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._programmer.leave()

    async def aclose(self) -> None:
        """Close the programmer."""
        await self._programmer.aclose()


@asynccontextmanager
async def _visit(programmer: IspProgrammer) -> AsyncIterator[TargetSession]:
    """Lend a session whose target is always released; a release that fails is an error of the visit."""
    session = TargetSession(programmer, SystemClock())
    try:
        yield session
    finally:
        stuck = await session.release()
    if stuck is not None:
        raise stuck


async def _look(programmer: IspProgrammer, rungs: Sequence[int | None] | None = None) -> Sighting:
    """Look once what is on the slot; the target runs again afterwards.

    :param rungs: SCKs to try, in order; None: all down the ladder, which takes its time where nobody answers.

    A silent target is an answer: what it showed at the first rung. Raises only what concerns the programmer or its link.
    """
    failed: Sighting | None = None
    async with _visit(programmer) as session:
        for rung_hz in rungs or entry_rungs(programmer.capabilities):
            raw = b""
            try:
                await session.enter(None, rung_hz)
                raw = await session.read_signature()
                wrong = await session.complaint(raw)
            except TargetError as error:
                wrong = error
            if wrong is None:
                return Sighting(words=_words(raw), signature=Signature(raw), failure=None, rung_hz=rung_hz)
            failed = failed or Sighting(words=_words(raw), signature=None, failure=failure_of(wrong))
    return failed or Sighting(words="", signature=None, failure=None)


def _words(raw: bytes) -> str:
    return f"signature reads {raw.hex(' ').upper()}"


async def _probe(programmer: IspProgrammer, parts: Parts) -> ProbeFacts:
    """Ask a target for everything it tells; it runs again afterwards.

    A silent or unknown target is an answer. Raises only what concerns the programmer or its link.
    """
    failed: ProbeFacts | None = None
    async with _visit(programmer) as session:
        for wanted_hz in entry_rungs(programmer.capabilities):
            sck_hz = 0
            try:
                sck_hz = await session.enter(None, wanted_hz)
                signature = await session.confirm_signature()
            except TargetError as error:
                failed = failed or ProbeFacts(sck_hz=sck_hz, failure=failure_of(error))
                continue
            return await _probe_known(session, signature, parts, sck_hz)
    return failed or ProbeFacts(sck_hz=0)


async def _probe_known(session: TargetSession, signature: Signature, parts: Parts, sck_hz: int) -> ProbeFacts:
    found = parts.by_signature(signature, AvrPart)
    if not found:
        return ProbeFacts(sck_hz=sck_hz, signature=signature, failure=failure_of(unknown_part(signature)))
    state = await session.read_state(found[0])
    return ProbeFacts(
        sck_hz=sck_hz,
        signature=signature,
        parts=found,
        fuses=state.fuses,
        lock=state.lock,
        calibration=await session.read_calibration(),
        clock=clock_of(found[0], state.fuses).words,
        flash_bytes=found[0].flash.size_bytes,
        flash_page_bytes=found[0].flash.page_bytes,
    )


async def _read(programmer: IspProgrammer, parts: Parts, memory: MemoryKind, monitor: Monitor) -> bytes:
    """Return a whole memory of the target on the slot, which runs again afterwards.

    Shorter only when ``monitor`` stopped it. Raises ``TargetError`` (what is wrong with the signature; target-locked
    where reading is forbidden), ``ProgrammerError`` (programmer-cannot), and what concerns the link.
    """
    async with _visit(programmer) as session:
        signature, sck_hz = await _first_signature(session, programmer)
        found = parts.by_signature(signature, AvrPart)
        if not found:
            raise unknown_part(signature)
        part = found[0]
        state = await session.read_state(part)
        match memory:
            case MemoryKind.SIGNATURE:
                return signature.value
            case MemoryKind.LOCK:
                return bytes((state.lock,))
            case MemoryKind.CALIBRATION:
                return bytes((await session.read_calibration(),))
            case MemoryKind.FLASH | MemoryKind.EEPROM:
                _check_readable(programmer, part, memory, state)
                await session.enter(part, sck_hz)  # now the driver knows how to address this part
                return await session.read(part, memory, part.memory(memory).span, monitor)
            case _ if memory in state.fuses:
                return bytes((state.fuses[memory],))
            case _:
                raise ProgrammerError(ErrorCode.PROGRAMMER_CANNOT, f"{part.name} has no {memory}")


async def _first_signature(session: TargetSession, programmer: IspProgrammer) -> tuple[Signature, int]:
    wrong: TargetError | None = None
    for wanted_hz in entry_rungs(programmer.capabilities):
        try:
            sck_hz = await session.enter(None, wanted_hz)
            return await session.confirm_signature(), sck_hz
        except TargetError as error:
            wrong = wrong or error
    raise wrong or TargetError(ErrorCode.TARGET_NOT_RESPONDING, "the programmer has no SCK to try")


def _check_readable(programmer: IspProgrammer, part: AvrPart, memory: MemoryKind, state: TargetState) -> None:
    limit_bytes = programmer.capabilities.max_flash_bytes
    if memory is MemoryKind.FLASH and limit_bytes is not None and part.flash.size_bytes > limit_bytes:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"the programmer reaches {limit_bytes} bytes of flash, {part.name} has {part.flash.size_bytes}",
            hint="use another programmer for this part",
        )
    if is_read_locked(state.lock):
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the lock bits (0x{state.lock:02X}) forbid reading {memory}",
            hint="only a chip erase unlocks the part; its contents are lost then",
            facts=Facts(part=part.id, memory=memory.value),
        )

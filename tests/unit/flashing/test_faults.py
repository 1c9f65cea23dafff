"""What must hold whatever goes wrong and whenever: no false pass, no target left in reset, no rule broken."""

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.flashing.bench_unit import PARTS, check_honest, check_left_alone, flash, image, pattern, soil
from tests.unit.flashing.direct_programmer import DirectProgrammer, out_of_step, silent, unplugged
from tests.unit.flashing.recording_observer import RecordingObserver

from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe
from vbench.faults import Fault, GoesSilent, LostPage, NoisyReplies, ReadFlips, StuckBits
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

NONE = frozenset[MemoryKind]()
BULK = frozenset({MemoryKind.FLASH, MemoryKind.EEPROM})
PART = PARTS.avr("attiny85")
JOB = Recipe(
    flash=image((0, pattern(150)), (0x1FC0, pattern(20, 3))),
    eeprom=image((1, b"\x10\x20\xff\x30\x40")),
    fuses={MemoryKind.LFUSE: 0xE2, MemoryKind.HFUSE: 0xD7},
    lock=0xFE,
    accept_fuses=True,
)


def board(*faults: Fault) -> AvrTarget:
    return soil(AvrTarget(PART, faults=faults, lock=0xFC))


async def healthy_calls(bulk: frozenset[MemoryKind]) -> int:
    programmer = DirectProgrammer(board(), bulk=bulk)
    assert (await flash(programmer, JOB)).verdict is Verdict.PASSED
    return programmer.calls


@pytest.mark.parametrize("bulk", [NONE, BULK], ids=["instructions", "bulk"])
@pytest.mark.parametrize(
    ("fault", "verdict", "code"),
    [
        pytest.param(unplugged, Verdict.INTERRUPTED, "link-closed", id="unplugged"),
        pytest.param(silent, Verdict.FAILED, "link-timeout", id="silent"),
        pytest.param(out_of_step, Verdict.FAILED, "protocol-remote", id="out-of-step"),
    ],
)
@virtual
async def test_link_breaks_at_every_call(
    fault: Callable[[], Exception], verdict: Verdict, code: str, bulk: frozenset[MemoryKind]
) -> None:
    """At each single call the link breaks once: the unit does not pass, and the target is released."""
    for number in range(await healthy_calls(bulk)):
        target = board()
        outcome = await flash(DirectProgrammer(target, bulk=bulk, faults={number: fault}), JOB)
        assert outcome.failure is not None, number
        assert (outcome.verdict, outcome.failure.code) == (verdict, code), number
        check_left_alone(target)


@virtual
async def test_release_is_tried_twice_and_its_failure_is_told() -> None:
    """A pass needs the release too: silence at the very end fails the unit, with its own code."""
    last = await healthy_calls(BULK) - 1
    target = board()
    programmer = DirectProgrammer(target, faults=dict.fromkeys(range(last, last + 9), silent))
    outcome = await flash(programmer, JOB)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, "link-timeout")
    assert programmer.calls == last + 3
    assert any("held in reset" in warning for warning in outcome.warnings)


@pytest.mark.parametrize("bulk", [NONE, BULK], ids=["instructions", "bulk"])
@virtual
async def test_cancel_at_every_checkpoint(bulk: frozenset[MemoryKind]) -> None:
    """Between any two pages and steps a job can be cancelled; the target is idle, released and never passed."""
    observer = RecordingObserver(every_page=True)
    assert (await flash(DirectProgrammer(board(), bulk=bulk), JOB, observer)).verdict is Verdict.PASSED
    for number in range(observer.checkpoints):
        target = board()
        outcome = await flash(
            DirectProgrammer(target, bulk=bulk), JOB, RecordingObserver(every_page=True, stop_at=number)
        )
        assert outcome.failure is not None
        assert (outcome.verdict, outcome.failure.code) == (Verdict.CANCELLED, "cancelled")
        check_left_alone(target)


@pytest.mark.parametrize("bulk", [NONE, BULK], ids=["instructions", "bulk"])
@virtual
async def test_task_cancelled_at_any_time(bulk: frozenset[MemoryKind]) -> None:
    """Cancelling the task itself, also in the middle of a write: the write ends, then reset is released."""
    target = board()
    started = anyio.current_time()
    await flash(DirectProgrammer(target, bulk=bulk), JOB)
    total_s = anyio.current_time() - started
    steps = 150
    for number in range(steps):
        target = board()
        programmer = DirectProgrammer(target, bulk=bulk)
        with anyio.move_on_after(total_s * number / steps) as scope:
            await flash(programmer, JOB)
        assert scope.cancelled_caught
        check_left_alone(target)
        assert programmer.log[-1:] in ([], ["leave"])


@virtual
async def test_observer_that_breaks_leaves_no_target_in_reset() -> None:
    """An error that is none of ours comes out, after the release."""

    class BrokenJournalError(RuntimeError):
        """Stands for any bug above."""

    async def break_down(step: str) -> None:
        if step == "write flash":
            raise BrokenJournalError

    target = board()
    with pytest.raises(BrokenJournalError):
        await flash(DirectProgrammer(target), JOB, RecordingObserver(on_step=break_down))
    check_left_alone(target)


@virtual
async def test_driver_that_does_nothing_is_no_endless_loop() -> None:
    """Writes that finish nothing although nobody stopped them end the unit."""

    class Lazy(DirectProgrammer):
        async def write(self, *_: object) -> int:
            await anyio.lowlevel.checkpoint()
            return 0

    target = board()
    outcome = await flash(Lazy(target), JOB)
    assert outcome.failure is not None
    assert outcome.failure.code == "protocol-local"
    check_left_alone(target)


# any recipe, any board, any fault

_NAMES = ("attiny25", "atmega8", "atmega32u4", "at90usb82")


@st.composite
def images(draw: st.DrawFn, size_bytes: int, longest: int) -> Image:
    segments: list[Segment] = []
    start = draw(st.integers(0, 40))
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.binary(min_size=1, max_size=longest))
        data = data if draw(st.booleans()) else b"\xff" * len(data)
        if start + len(data) > size_bytes:
            break
        segments.append(Segment(start, data))
        start += len(data) + draw(st.integers(0, 100))
    return Image.of(segments)


@st.composite
def recipes(draw: st.DrawFn, part: AvrPart) -> Recipe:
    free = {MemoryKind.LFUSE: 0x40, MemoryKind.HFUSE: 0x08, MemoryKind.EFUSE: 0x00}  # CKOUT and EESAVE do no harm here
    fuses = {
        fuse.memory: fuse.default & ~draw(st.sampled_from([0, free[fuse.memory]]))
        | draw(st.sampled_from([0, ~fuse.mask & 0xFF]))
        for fuse in part.fuses
        if draw(st.booleans())
    }
    flash_image = draw(st.one_of(st.just(Image(())), images(part.flash.size_bytes, 300)))
    return Recipe(
        flash=flash_image,
        eeprom=draw(st.one_of(st.none(), images(part.eeprom.size_bytes, 12))),
        fuses=fuses,
        lock=draw(st.one_of(st.none(), st.sampled_from([0xFF, 0xFE, 0xFC, 0x3F]))),
        erase=draw(st.booleans()),
        accept_fuses=True,
        force_fuses=True,
    )


def faults(part: AvrPart) -> st.SearchStrategy[tuple[Fault, ...]]:
    flash_address = st.integers(0, 600)
    one = st.one_of(
        st.builds(
            StuckBits,
            memory=st.just(MemoryKind.FLASH),
            address=flash_address,
            mask=st.sampled_from([1, 128]),
            level=st.sampled_from([0, 1]),
        ),
        st.builds(
            StuckBits,
            memory=st.just(MemoryKind.EEPROM),
            address=st.integers(0, 60),
            mask=st.just(4),
            level=st.sampled_from([0, 1]),
        ),
        st.builds(StuckBits, memory=st.just(MemoryKind.HFUSE), address=st.just(0), mask=st.just(8), level=st.just(1)),
        st.builds(LostPage, flash_address),
        st.builds(GoesSilent, st.integers(1, 3000)),
        st.builds(NoisyReplies, st.sampled_from([0.001, 0.01])),
        st.builds(ReadFlips, reads=st.tuples(st.integers(0, 500), st.integers(0, 500))),
    )
    return st.one_of(st.just(()), st.tuples(one), st.tuples(one, one))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_pass_is_never_wrong(data: st.DataObject) -> None:
    """Whatever recipe meets whatever board: passed means that all cells hold it; otherwise a failure says why."""
    part = PARTS.avr(data.draw(st.sampled_from(_NAMES)))
    recipe = data.draw(recipes(part))
    chosen = data.draw(faults(part))
    used = data.draw(st.booleans())
    target = AvrTarget(part, lock=data.draw(st.sampled_from([0xFF, 0xFE, 0xFC])), faults=chosen, unimplemented=0x00)
    if used:
        soil(target)
    bulk = data.draw(st.sampled_from([NONE, BULK]))
    observer = RecordingObserver(every_page=data.draw(st.booleans()))

    async def run() -> None:
        outcome = await flash(DirectProgrammer(target, bulk=bulk), recipe, observer)
        check_honest(target, recipe, outcome)
        assert not target.in_reset
        if not any(isinstance(fault, NoisyReplies) for fault in chosen):  # noise makes the busy bit lie
            check_left_alone(target)

    run_virtual(run)

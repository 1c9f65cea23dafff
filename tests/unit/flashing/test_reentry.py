"""SCK on an emulated target: what is proved before it is trusted, what steps back, and what the record says."""

from collections.abc import Sequence

import pytest
from tests.unit.flashing.bench_unit import PARTS, check_honest, check_left_alone, holds, image, pattern, soil
from tests.unit.flashing.bench_unit import flash as flash_board
from tests.unit.flashing.direct_programmer import DirectProgrammer
from tests.unit.flashing.test_sck import BUS_PIRATE, USBASP, USBTINY

from ispd.errors import ErrorCode
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.sck import FoundSck, SckKey, SckStart
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from vbench.faults import Fault, SckCeiling, Silent, StuckBits
from vbench.target import AvrTarget, Circuit
from vbench.virtual_time import virtual

L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
CRYSTAL_DIVIDED = SckKey("atmega32u4", "crystal or resonator, divided by 8")


class Shaky(DirectProgrammer):
    """Above ``above_hz`` each ``period``-th reply byte has a flipped bit: the target listens, the answer is spoilt."""

    def __init__(self, target: AvrTarget, *, above_hz: int, period: int) -> None:
        super().__init__(target, sck_hz=USBASP.sck_hz)
        self._above_hz = above_hz
        self._period = period
        self._replies = 0

    async def _send(self, instructions: Sequence[bytes]) -> bytes:
        replies = bytearray(await super()._send(instructions))
        for at in range(len(replies)):
            self._replies += 1
            if self._sck_hz > self._above_hz and self._replies % self._period == 0:
                replies[at] ^= 0x20
        return bytes(replies)


def board(*faults: Fault, name: str = "atmega32u4", **options: object) -> AvrTarget:
    return soil(AvrTarget(PARTS.avr(name), faults=faults, **options))  # type: ignore[arg-type]  # options of AvrTarget


def recipe(**changes: object) -> Recipe:
    default: dict[str, object] = {"flash": image((0, pattern(700))), "accept_fuses": True}
    return Recipe(**{**default, **changes})  # type: ignore[arg-type]  # fields of Recipe


async def flash(target: AvrTarget, job: Recipe, **start: object) -> tuple[UnitOutcome, DirectProgrammer]:
    programmer = DirectProgrammer(target, sck_hz=USBASP.sck_hz)
    outcome = await flash_board(programmer, job, sck=SckStart(**start))  # type: ignore[arg-type]  # fields of SckStart
    check_honest(target, job, outcome)
    check_left_alone(target)
    return outcome, programmer


def note(outcome: UnitOutcome) -> str:
    return next((record.note for record in outcome.steps if record.name in ("raise sck", "enter with new clock")), "")


@pytest.mark.parametrize(
    ("options", "fuses", "sck_hz", "said", "warned"),
    [
        pytest.param({}, {}, 375_000, "SCK 187500 Hz, then 375000 Hz", False, id="factory-16-MHz-crystal-divided"),
        pytest.param(
            {"circuit": Circuit(crystal_hz=8e6)},
            {},
            187_500,
            "SCK 187500 Hz as before; 375000 Hz did not hold",
            False,
            id="factory-8-MHz-crystal-divided",
        ),
        pytest.param({}, {L: 0xDE}, 1_500_000, "SCK 187500 Hz, then 1500000 Hz", False, id="crystal-undivided"),
        pytest.param({"fuses": {L: 0x52}}, {}, 187_500, "", False, id="rc-divided-is-what-it-is"),
        pytest.param({"fuses": {L: 0xE2}}, {}, 1_500_000, "SCK 187500 Hz, then 1500000 Hz", False, id="rc-8-MHz"),
        pytest.param(
            {"faults": [SckCeiling(hz=800_000)]},
            {L: 0xDE},
            750_000,
            "SCK 187500 Hz, then 750000 Hz; 1500000 Hz did not hold",
            True,
            id="wires-up-to-800-kHz",
        ),
        pytest.param(
            {"faults": [SckCeiling(hz=100_000)]},
            {L: 0xDE},
            93_750,
            "SCK 93750 Hz as before; 1500000, 750000, 375000, 187500 Hz did not hold",
            True,
            id="wires-up-to-100-kHz",
        ),
        pytest.param(
            {"faults": [SckCeiling(hz=300_000)]},
            {},
            187_500,
            "SCK 187500 Hz as before; 375000 Hz did not hold",
            False,
            id="ceiling-between-safe-and-best",
        ),
    ],
)
@virtual
async def test_fastest_that_holds(
    options: dict[str, object], fuses: dict[MemoryKind, int], sck_hz: int, said: str, warned: bool
) -> None:
    """The fastest clock that target and wires follow is used; only a broken promise is worth a warning."""
    faults = options.pop("faults", [])
    assert isinstance(faults, list)
    target = board(*faults, **options)  # type: ignore[arg-type]  # options of AvrTarget
    outcome, _ = await flash(target, recipe(fuses=fuses))
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, sck_hz)
    assert note(outcome) == said
    assert any("does not follow SCK" in warning for warning in outcome.warnings) is warned


@pytest.mark.parametrize(
    ("lfuse", "entry_hz"), [(0xE4, 16_000), (0x64, 2000)], ids=["128-kHz-oscillator", "16-kHz-oscillator-divided"]
)
@virtual
async def test_slow_parts_are_met_and_stay_slow(lfuse: int, entry_hz: int) -> None:
    """Down the ladder to what they follow; with a faster clock fused in they are worked on as fast as others."""
    outcome, _ = await flash(board(name="attiny85", fuses={L: lfuse}), recipe(flash=image((0, pattern(8)))))
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, entry_hz)
    freed, _ = await flash(board(name="attiny85", fuses={L: lfuse}), recipe(fuses={L: 0xE2}))
    assert (freed.verdict, freed.sck_hz) == (Verdict.PASSED, 1_500_000)


@virtual
async def test_slowed_down_by_its_fuses() -> None:
    """A part whose new clock is slow is entered again slowly, verified, and only then called passed."""
    target = board(name="attiny85")
    outcome, _ = await flash(target, recipe(flash=image((0, pattern(16))), fuses={L: 0xE4}))
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, 16_000)
    assert target.clock_hz == 128e3


@pytest.mark.parametrize("period", [2, 5, 11, 20])
@virtual
async def test_clock_that_spoils_replies_is_not_trusted(period: int) -> None:
    """Signature, fuses and lock bits must read right three times: one bad byte in twenty is found out."""
    target = board(fuses={L: 0xDE})
    job = recipe()
    outcome = await flash_board(Shaky(target, above_hz=400_000, period=period), job)
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, 375_000)
    assert holds(target, job)
    check_left_alone(target)


@virtual
async def test_proof_is_no_verdict() -> None:
    """Errors too rare for the proof make the verification fail: a faster clock never buys a false pass."""
    for period in (300, 301, 307):
        target = board(fuses={L: 0xDE})
        job = recipe()
        outcome = await flash_board(Shaky(target, above_hz=400_000, period=period), job)
        assert outcome.sck_hz == 1_500_000
        assert outcome.failure is not None
        assert outcome.failure.code in (ErrorCode.VERIFY_MISMATCH, ErrorCode.ERASE_FAILED)
        assert "slower SCK" in outcome.failure.hint


@virtual
async def test_fuse_that_did_not_take_is_blamed_not_the_clock() -> None:
    """The clock fuse is stuck: said so at once, before the pages, and not as a lost target."""
    target = board(StuckBits(memory=L, address=0, mask=0x80, level=0))
    outcome, programmer = await flash(target, recipe(fuses={L: 0xDE}))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.memory) == (ErrorCode.FUSE_MISMATCH, "lfuse")
    assert not [call for call in programmer.log if call.startswith("write")]


# what was found before


@virtual
async def test_found_sck_is_where_the_next_board_begins() -> None:
    """What failed on one board is not tried on the next; other clock words are another matter."""
    bad_wires = SckCeiling(hz=300_000)
    first, _ = await flash(board(bad_wires), recipe())
    assert first.found_sck == FoundSck(CRYSTAL_DIVIDED, 187_500, 1)
    known = {CRYSTAL_DIVIDED: first.found_sck}
    second, programmer = await flash(board(bad_wires), recipe(), rung_hz=187_500, found=known)
    assert (second.verdict, note(second)) == (Verdict.PASSED, "")
    assert second.found_sck == FoundSck(CRYSTAL_DIVIDED, 187_500, 2)
    assert programmer.log.count("enter") == 2  # met, and once more with the part known
    other, _ = await flash(board(bad_wires), recipe(fuses={L: 0xDE}), rung_hz=187_500, found=known)
    assert "1500000" in note(other)
    worse, _ = await flash(board(SckCeiling(hz=100_000)), recipe(), found=known)
    assert (worse.verdict, worse.found_sck) == (Verdict.PASSED, FoundSck(CRYSTAL_DIVIDED, 93_750, 2))
    stale = {CRYSTAL_DIVIDED: FoundSck(CRYSTAL_DIVIDED, 93_750, 50)}
    better, _ = await flash(board(), recipe(), found=stale)
    assert (better.sck_hz, better.found_sck) == (375_000, FoundSck(CRYSTAL_DIVIDED, 375_000, 1))


@virtual
async def test_nothing_is_learned_where_nothing_was_looked_for() -> None:
    """Fuses alone, a fixed clock, EEPROM that must survive, a failed board."""
    fuses_only, _ = await flash(board(), recipe(flash=image(), fuses={H: 0xD9}))
    fixed, _ = await flash(board(), recipe(sck_hz=93_750))
    kept, _ = await flash(board(fuses={H: 0x91}), recipe())
    failed, _ = await flash(board(StuckBits(memory=MemoryKind.FLASH, address=3, mask=1, level=1)), recipe())
    assert [one.found_sck for one in (fuses_only, fixed, kept, failed)] == [None] * 4
    assert kept.sck_hz == 187_500


@virtual
async def test_begins_at_the_rung_where_the_board_was_seen() -> None:
    """No second search from the top; further down where even that rung fails now."""
    outcome, programmer = await flash(board(SckCeiling(hz=40_000)), recipe(), rung_hz=32_000)
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, 32_000)
    assert note(outcome) == "SCK 32000 Hz as before; 375000, 187500, 93750 Hz did not hold"
    assert programmer.log[:2] == ["enter", "transfer"]
    lower, _ = await flash(board(SckCeiling(hz=10_000)), recipe(flash=image((0, pattern(40)))), rung_hz=32_000)
    assert (lower.verdict, lower.sck_hz) == (Verdict.PASSED, 8000)


# a fixed clock


@virtual
async def test_fixed_sck_is_used_as_it_is() -> None:
    """Neither up nor down; where nobody answers at it the hint names it."""
    slow, _ = await flash(board(fuses={L: 0xDE}), recipe(sck_hz=93_750))
    assert (slow.verdict, slow.sck_hz, note(slow)) == (Verdict.PASSED, 93_750, "")
    for changes in ({"sck_hz": 750_000}, {"sck_hz": 750_000, "fuses": {L: 0xDE}}):
        deaf, programmer = await flash(board(), recipe(**changes))
        assert deaf.failure is not None
        assert deaf.failure.hint.startswith("the recipe fixes SCK at 750000 Hz and nothing else was tried")
        assert programmer.log.count("enter") == 1
    wrong, _ = await flash(
        board(circuit=Circuit(crystal_hz=None), fuses={L: 0x52}), recipe(sck_hz=93_750, fuses={L: 0xDE})
    )
    assert wrong.failure is not None
    assert wrong.failure.code == ErrorCode.TARGET_LOST
    assert "93750 Hz" in wrong.failure.hint
    assert "check the crystal" in wrong.failure.hint


@pytest.mark.parametrize("capabilities", [USBASP, USBTINY, BUS_PIRATE], ids=["usbasp", "usbtiny", "buspirate"])
@virtual
async def test_every_programmer_finds_its_clock(capabilities: object) -> None:
    """The same factory board behind programmers with other clocks: never faster than the target, never without reason slow."""
    sck_hz = capabilities.sck_hz  # type: ignore[attr-defined]  # Capabilities, untyped by parametrize
    target = board()
    outcome = await flash_board(DirectProgrammer(target, sck_hz=sck_hz), recipe(fuses={L: 0xDE}))
    assert outcome.verdict is Verdict.PASSED
    assert outcome.sck_hz == max(hz for hz in sck_hz if hz <= 16_000_000 // 6)
    silent = await flash_board(DirectProgrammer(board(Silent()), sck_hz=sck_hz), recipe())
    assert silent.failure is not None
    assert silent.failure.code == ErrorCode.TARGET_NOT_RESPONDING


# reading all of flash back


@virtual
async def test_full_verification_reads_what_nobody_wrote() -> None:
    """A cell outside the image that is not blank fails `full` and is no business of `written`."""
    dirt = StuckBits(memory=MemoryKind.FLASH, address=0x5A5A, mask=0x10, level=0)
    written, _ = await flash(board(dirt), recipe())
    assert written.verdict is Verdict.PASSED
    full, _ = await flash(board(dirt), recipe(verify=VerifyScope.FULL))
    assert full.failure is not None
    assert (full.failure.code, full.failure.address) == (ErrorCode.VERIFY_MISMATCH, 0x5A5A)
    assert (full.failure.expected, full.failure.actual) == (0xFF, 0xEF)
    clean, _ = await flash(board(), recipe(verify=VerifyScope.FULL))
    assert clean.verdict is Verdict.PASSED
    read = next(record for record in clean.steps if record.name == "verify flash")
    assert read.bytes == 0x8000


@virtual
async def test_bits_that_do_not_exist_are_told() -> None:
    """Both values stand in the record where they differ; the board passes."""
    outcome, _ = await flash(board(unimplemented=0x00), recipe(fuses={E: 0xF3}, lock=0xEF))
    assert outcome.verdict is Verdict.PASSED
    notes = {record.name: record.note for record in outcome.steps}
    assert notes["verify fuses"] == "efuse: 0xF3 asked, 0x03 read, equal in the bits 0x0F that exist"
    assert "lock: 0xEF asked, 0x2F read, equal in the bits 0x3F that exist" in notes["verify lock"]

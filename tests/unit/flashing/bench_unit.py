"""A board, its programmer, and one run of a recipe on virtual time."""

from collections.abc import Mapping

from tests.unit.flashing.recording_observer import RecordingObserver

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.flashing.execute import flash_unit
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.sck import SckStart
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer
from vbench.target import AvrTarget
from vbench.virtual_time import VirtualClock

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)


def image(*segments: tuple[int, bytes]) -> Image:
    return Image.of(Segment(start, data) for start, data in segments)


def pattern(count: int, seed: int = 1) -> bytes:
    """Bytes without 0xFF, so that none of them looks erased."""
    return bytes((seed * 31 + i * 7 + (i >> 5)) % 251 for i in range(count))


async def flash(
    programmer: IspProgrammer,
    recipe: Recipe,
    observer: RecordingObserver | None = None,
    *,
    sck: SckStart | None = None,
) -> UnitOutcome:
    return await flash_unit(
        programmer,
        recipe,
        parts=PARTS,
        bootloaders=BOOTLOADERS,
        clock=VirtualClock(),
        observer=observer or RecordingObserver(),
        sck=sck or SckStart(),
    )


def holds(target: AvrTarget, recipe: Recipe) -> bool:
    """Tell whether the board holds everything the recipe names, under the masks."""
    part = target.part
    return (
        all(target.flash[s.span.start : s.span.stop] == s.data for s in recipe.flash.segments)
        and all(target.eeprom[s.span.start : s.span.stop] == s.data for s in (recipe.eeprom or Image(())).segments)
        and all((target.fuses[m] ^ value) & part.mask(m) == 0 for m, value in recipe.fuses.items())
        and (recipe.lock is None or (target.lock ^ recipe.lock) & part.lock_mask == 0)
    )


def soil(target: AvrTarget) -> AvrTarget:
    """Fill a board with an earlier firmware and settings."""
    target.flash[:] = bytes(i * 5 & 0xFF for i in range(len(target.flash)))
    target.eeprom[:] = bytes(i & 0xFF for i in range(len(target.eeprom)))
    return target


def check_left_alone(target: AvrTarget) -> None:
    """Whatever happened: reset is released and no rule was broken."""
    assert not target.in_reset
    assert not target.violations, [str(violation) for violation in target.violations]


def check_honest(target: AvrTarget, recipe: Recipe, outcome: UnitOutcome) -> None:
    """A pass is never wrong, and everything else says why."""
    if outcome.verdict is Verdict.PASSED:
        assert outcome.failure is None
        assert holds(target, recipe)
    else:
        assert outcome.failure is not None
        assert outcome.failure.message


def factory(part: AvrPart, **changes: int) -> Mapping[MemoryKind, int]:
    return {fuse.memory: changes.get(fuse.memory.value, fuse.default) for fuse in part.fuses}

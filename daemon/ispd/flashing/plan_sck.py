"""The part of a plan that concerns SCK: which clocks are to be proved once the fuses are known. Pure."""

from dataclasses import dataclass

from ispd.catalog.fuses import clock_of, is_programmed
from ispd.flashing.sck import (
    ClockRange,
    FoundSck,
    SckKey,
    SckStart,
    candidates,
    clock_range,
    entry_rungs,
    fastest_within,
)
from ispd.flashing.steps import Reenter
from ispd.flashing.target_state import TargetState
from ispd.model.part import AvrPart
from ispd.model.recipe import Recipe
from ispd.programmers.contract import Capabilities

__all__ = ["SckPlan", "plan_sck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SckPlan:
    """What is known about SCK once the fuses that will be in force are known.

    :param key: what the SCK that is found is remembered for; None where none is looked for.
    :param found: what was remembered for it and is relied on.
    :param is_bold: also clocks are tried that the fuses make possible but do not promise.
    :param in_force: what the target holds when it is entered again.
    :param entry_hz: SCK at which the target was met.
    :param fixed_hz: SCK that the recipe fixes.
    :param moves_bytes: whether there is enough to do for a faster SCK to pay.
    """

    key: SckKey | None
    found: FoundSck | None
    is_bold: bool
    part: AvrPart
    capabilities: Capabilities
    in_force: TargetState
    entry_hz: int
    fixed_hz: int | None
    moves_bytes: bool

    @property
    def _is_free(self) -> bool:
        return self.fixed_hz is None and len(self.capabilities.sck_hz) > 1

    def reenter(self, *, is_clock_new: bool) -> list[Reenter]:
        """Return the step that proves a new system clock, or a faster SCK, or nothing."""
        clocks = clock_range(self.part, self.in_force.fuses)
        choices: tuple[int | None, ...] = (self.fixed_hz,)
        promised_hz = None
        if self._is_free:
            choices = candidates(
                self.capabilities,
                clocks,
                entry_hz=self.entry_hz,
                is_clock_new=is_clock_new,
                is_bold=self.is_bold,
                found_hz=None if self.found is None else self.found.sck_hz,
            )
            promised_hz = self._promised_hz(clocks, choices)
        if not is_clock_new and not (self._is_free and self.moves_bytes and choices[0] != self.entry_hz):
            return []
        return [
            Reenter(
                name="enter with new clock" if is_clock_new else "raise sck",
                candidates=choices,
                known=self.in_force.bits,
                promised_hz=promised_hz,
                new_clock=clock_of(self.part, self.in_force.fuses).words if is_clock_new else None,
                fixed_hz=self.fixed_hz,
            )
        ]

    def _promised_hz(self, clocks: ClockRange | None, choices: tuple[int | None, ...]) -> int | None:
        """Return the fastest of the programmer's clocks that the fuses promise to follow, where it is to be tried."""
        if clocks is None or clocks.safe_sck_hz < min(self.capabilities.sck_hz):
            return None
        promised_hz = fastest_within(self.capabilities, clocks.safe_sck_hz)
        return promised_hz if promised_hz in choices else None


def plan_sck(
    recipe: Recipe,
    part: AvrPart,
    capabilities: Capabilities,
    in_force: TargetState,
    *,
    is_erased: bool,
    entry_hz: int | None,
    start: SckStart,
) -> SckPlan:
    """Return what can be said about SCK.

    :param in_force: what the target holds when it is entered again.
    :param is_erased: whether the chip is erased before that.
    :param entry_hz: SCK at which the target was met; None: the first rung of the ladder.
    """
    if entry_hz is None:
        entry_hz = entry_rungs(capabilities, fixed_hz=recipe.sck_hz)[0] or capabilities.sck_hz[0]
    moves_bytes = len(recipe.flash) > 0 or bool(recipe.eeprom)
    key = found = None
    if recipe.sck_hz is None and len(capabilities.sck_hz) > 1 and moves_bytes:
        key = SckKey(part.id, clock_of(part, in_force.fuses).words)
        found = start.found.get(key)
    return SckPlan(
        key=key,
        found=None if found is None or found.is_stale else found,
        # Beyond what the fuses promise only where the EEPROM is blank anyway: what a target understands of an instruction
        # that came too fast may be to write an EEPROM byte (C0), which nobody notices where EEPROM is not verified.
        is_bold=is_erased and not is_programmed(part, "eesave", in_force.fuses),
        part=part,
        capabilities=capabilities,
        in_force=in_force,
        entry_hz=entry_hz,
        fixed_hz=recipe.sck_hz,
        moves_bytes=moves_bytes,
    )

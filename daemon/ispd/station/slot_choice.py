"""Which slots a job is for: those that were named, or all that can do it. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ispd.catalog.split import VIA_BOOTLOADER
from ispd.errors import ErrorCode, JobError
from ispd.model.recipe import PlanKind
from ispd.model.station import SlotState
from ispd.station.fitting import MISFIT_HINT
from ispd.station.slot_runner import SlotRunner

__all__ = ["Choice", "choose_slots"]

_RESTING = (SlotState.IDLE, SlotState.PASSED, SlotState.FAILED, SlotState.VACANT)  # vacant: being opened


@dataclass(frozen=True, slots=True)
class Choice:
    """The names of a job's slots, what is worth a warning about the choice, and why slots that were not named cannot be used."""

    slots: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    misfits: Mapping[str, str] = field(default_factory=dict)


def choose_slots(
    runners: Mapping[str, SlotRunner],
    named: Sequence[str] | None,
    plan: PlanKind,
    *,
    is_free: Callable[[str], bool],
    misfit: Callable[[SlotRunner], str | None],
) -> Choice:
    """Return the slots of a job.

    :param named: slots that were asked for, known ones; None for all idle ones (all usable ones, where none is idle).
    :param is_free: tells whether no job wants a slot.
    :param misfit: tells why a slot's programmer is none for the job's part, None where it is, or where nobody knows.
    Raises ``JobError``: no-slot, not-paired, programmer-cannot.
    """
    if named:
        chosen = tuple(dict.fromkeys(named))
        _check_programmers([runners[name] for name in chosen], plan)
        _check_fit({name: misfit(runners[name]) for name in chosen})
        unpaired = _unpaired([runners[name] for name in chosen], plan)
        if unpaired:
            raise _not_paired(unpaired)
        return Choice(chosen)
    usable = [runner for runner in runners.values() if _is_able(runner, plan)]
    misfits = {runner.spec.name: why for runner in usable if (why := misfit(runner)) is not None}
    able = [runner for runner in usable if runner.spec.name not in misfits]
    unpaired = _unpaired(able, plan)
    paired = [runner for runner in able if runner.spec.name not in unpaired]
    idle = [runner for runner in paired if runner.view.state in _RESTING and is_free(runner.spec.name)]
    chosen = tuple(runner.spec.name for runner in idle or paired)
    if chosen:
        return Choice(chosen, tuple(_left_out(unpaired)), misfits)
    if unpaired:
        raise _not_paired(unpaired)
    raise _no_slot(plan, misfits)


def _no_slot(plan: PlanKind, misfits: Mapping[str, str]) -> JobError:
    if misfits:
        return JobError(
            ErrorCode.NO_SLOT, f"no slot has a programmer for this part; {_listed(misfits)}", hint="plug one in"
        )
    what = "USB port that belongs to it" if plan is PlanKind.CHAIN_ONLY else "programmer that answers"
    return JobError(
        ErrorCode.NO_SLOT,
        f"no slot has a {what}",
        hint="plug in a programmer, or see `ispctl slots` and `ispctl doctor`",
    )


def _listed(misfits: Mapping[str, str]) -> str:
    return "; ".join(f"slot {name}: {why}" for name, why in misfits.items())


def _is_able(runner: SlotRunner, plan: PlanKind) -> bool:
    if plan is PlanKind.CHAIN_ONLY:
        return runner.view.state is not SlotState.DISABLED and (
            runner.spec.target_usb is not None or runner.spec.has_programmer
        )
    return runner.spec.has_programmer and runner.is_usable


def _unpaired(runners: Sequence[SlotRunner], plan: PlanKind) -> list[str]:
    """Return the slots whose board's USB port is needed and not known."""
    return [runner.spec.name for runner in runners if plan in VIA_BOOTLOADER and runner.spec.target_usb is None]


def _left_out(unpaired: Sequence[str]) -> list[str]:
    return [f"slot {name} is left out: nobody knows which USB port its board is on" for name in unpaired]


def _check_programmers(runners: Sequence[SlotRunner], plan: PlanKind) -> None:
    without = [runner.spec.name for runner in runners if not runner.spec.has_programmer]
    if plan is not PlanKind.CHAIN_ONLY and without:
        raise JobError(
            ErrorCode.NO_SLOT,
            f"slot {', '.join(without)} has no programmer, only a USB port",
            hint="--chain-only brings a firmware there; for everything else use a slot with a programmer",
        )


def _check_fit(misfits: Mapping[str, str | None]) -> None:
    wrong = {name: why for name, why in misfits.items() if why is not None}
    if wrong:
        raise JobError(ErrorCode.PROGRAMMER_CANNOT, _listed(wrong), hint=MISFIT_HINT)


def _not_paired(names: Sequence[str]) -> JobError:
    return JobError(
        ErrorCode.NOT_PAIRED,
        f"nobody knows which USB port the board of slot {', '.join(names)} is on",
        hint=f'`ispctl slot {names[0]} learn` finds it; or write target_usb = "1-2.1" into its [[slot]]',
    )

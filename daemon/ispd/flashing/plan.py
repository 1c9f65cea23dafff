"""From a recipe, the part found and the state it was found in to ordered steps. Pure.

What decides the order:

- *erase* is for writing flash: a recipe without a flash image never erases, so that ``enqueue --lfuse ..`` or
  ``--eeprom`` on a finished board changes what was named and nothing else. A recipe that must open lock bits therefore
  needs an image.
- *fuses that change the clock* come before the pages, then the part is entered again: it proves that the board runs
  from its new clock, and allows a faster SCK. They wait for the other fuses where the new clock is too slow to be
  programmed with, or where the same byte would shut ISP out.
- *SCK is raised* before the pages, also without new fuses: candidates beyond what is certain are data here and are proved
  when the plan is carried out.
- *blank pages* are not written after an erase, but everything the image defines is read back, blank or not.
- *remaining fuses* follow the proof of flash and EEPROM; *lock bits* come last, since they close the rest.
- every fuse byte is read back, also those nobody asked to change.
"""

from ispd.errors import ErrorCode, Facts, ProgrammerError, RefusedError, TargetError
from ispd.flashing.plan_cells import cell_steps, check_writable_step, erase_step
from ispd.flashing.plan_sck import plan_sck
from ispd.flashing.sck import SckStart, can_follow, fastest_within
from ispd.flashing.session import is_write_locked
from ispd.flashing.steps import Leave, Plan, Step, VerifyBits, WriteFuse, WriteLock
from ispd.flashing.target_state import TargetState
from ispd.model.image import Image
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from ispd.programmers.contract import Capabilities

__all__ = ["plan_unit"]

_WRITE_ORDER = (MemoryKind.EFUSE, MemoryKind.HFUSE, MemoryKind.LFUSE)
"""The clock last: until then the part runs as it was found."""

_NOTHING_KNOWN = SckStart()

_CLOCK_BITS = ("cksel", "sut", "ckdiv8", "ckopt")
_ISP_BITS = ("rstdisbl", "dwen")


def plan_unit(
    recipe: Recipe,
    part: AvrPart,
    capabilities: Capabilities,
    before: TargetState,
    *,
    entry_hz: int | None = None,
    sck: SckStart = _NOTHING_KNOWN,
) -> Plan:
    """Return the steps that make a part found in state ``before`` what ``recipe`` wants.

    :param entry_hz: SCK at which the target was met and is talked to now; None: the first rung of the ladder.
    :param sck: what the slot found out on earlier boards.

    Raises, before anything is touched: ``RefusedError`` (recipe-invalid, image-does-not-fit), ``ProgrammerError``
    (programmer-cannot), ``TargetError`` (target-locked where only an erase could do what is asked).
    """
    _check_reach(recipe, part, capabilities)
    will_erase = _will_erase(recipe)
    early, late = _split_fuses(recipe, part, capabilities, before)
    in_force = TargetState(
        fuses={**before.fuses, **{step.memory: step.value for step in early}},
        lock=part.lock_mask if will_erase else before.lock,
    )
    sck_plan = plan_sck(recipe, part, capabilities, in_force, is_erased=will_erase, entry_hz=entry_hz, start=sck)
    steps: list[Step] = []
    if will_erase:
        steps.append(erase_step(part))
    elif len(recipe.flash):
        steps.append(check_writable_step(recipe.flash, part))
    steps += early
    steps += sck_plan.reenter(is_clock_new=bool(early))
    steps += cell_steps(recipe, part, before, will_erase=will_erase)
    steps += late
    steps += _bits(recipe, part, before, will_erase=will_erase)
    steps.append(Leave(name="leave"))
    plan = Plan(part.id, tuple(steps), sck_plan.key, sck_plan.found, sck_plan.is_bold)
    if plan.changes_target and is_write_locked(before.lock) and not will_erase:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the lock bits (0x{before.lock:02X}) forbid writing",
            hint="only a chip erase opens them: enqueue an image, with erase",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK.value, actual=before.lock & part.lock_mask),
        )
    return plan


def _will_erase(recipe: Recipe) -> bool:
    return recipe.erase and len(recipe.flash) > 0


def _check_reach(recipe: Recipe, part: AvrPart, capabilities: Capabilities) -> None:
    if not (len(recipe.flash) or recipe.eeprom or recipe.fuses or recipe.lock is not None):
        raise RefusedError(ErrorCode.RECIPE_INVALID, "the recipe changes nothing", hint="name an image or fuses")
    for kind, image in ((MemoryKind.FLASH, recipe.flash), (MemoryKind.EEPROM, recipe.eeprom or Image(()))):
        if image.span not in part.memory(kind).span:
            raise RefusedError(
                ErrorCode.IMAGE_DOES_NOT_FIT,
                f"the image ends at 0x{image.span.stop - 1:04X}, the {kind} of {part.name} at "
                f"0x{part.memory(kind).size_bytes - 1:04X}",
                facts=Facts(part=part.id, memory=kind.value, address=image.span.stop - 1),
            )
    missing = [memory for memory in recipe.fuses if part.fuse(memory) is None]
    if missing:
        raise RefusedError(ErrorCode.RECIPE_INVALID, f"{part.name} has no {', '.join(missing)}")
    is_full = recipe.verify is VerifyScope.FULL and len(recipe.flash) > 0
    if is_full and not recipe.erase:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "all of flash can only be verified after an erase: without it nobody knows what lies outside the image",
            hint="erase, or verify only what was written",
        )
    limit_bytes = capabilities.max_flash_bytes
    last = (part.flash.size_bytes if is_full else recipe.flash.span.stop) - 1
    if limit_bytes is not None and last >= limit_bytes:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"flash is needed up to 0x{last:05X}; this programmer reaches {limit_bytes} bytes of it",
            hint="use another programmer for this part",
            facts=Facts(part=part.id, memory=MemoryKind.FLASH.value, address=last),
        )


# fuses


def _split_fuses(
    recipe: Recipe, part: AvrPart, capabilities: Capabilities, before: TargetState
) -> tuple[list[WriteFuse], list[WriteFuse]]:
    """Return the fuse bytes to write before the pages, and after them. A byte that matches is not written again."""
    changed = {
        memory: recipe.fuses[memory]
        for memory in _WRITE_ORDER
        if memory in recipe.fuses and (recipe.fuses[memory] ^ before.fuses[memory]) & part.mask(memory)
    }
    early: list[WriteFuse] = []
    late: list[WriteFuse] = []
    slowest_hz = min(capabilities.sck_hz) if recipe.sck_hz is None else fastest_within(capabilities, recipe.sck_hz)
    reachable = can_follow(part, {**before.fuses, **changed}, slowest_hz)
    for memory, value in changed.items():
        step = WriteFuse(name=f"write {memory}", memory=memory, value=value)
        is_early = reachable and _changes_clock(part, memory, before.fuses[memory], value)
        (early if is_early and not _shuts_isp(part, memory, value) else late).append(step)
    if any(_shuts_isp(part, step.memory, step.value) for step in late):
        return [], [*early, *late]  # one entry less than with a reset that would already count
    return early, late


def _changes_clock(part: AvrPart, memory: MemoryKind, old: int, new: int) -> bool:
    groups = [part.bits[name] for name in _CLOCK_BITS if name in part.bits]
    return any(group.memory is memory and (old ^ new) & group.mask for group in groups)


def _shuts_isp(part: AvrPart, memory: MemoryKind, value: int) -> bool:
    groups = [part.bits[name] for name in _ISP_BITS if name in part.bits]
    return any(group.memory is memory and group.is_programmed(value) for group in groups)


# verifying fuses, and lock bits


def _bits(recipe: Recipe, part: AvrPart, before: TargetState, *, will_erase: bool) -> list[Step]:
    fuses = {fuse.memory: recipe.fuses.get(fuse.memory, before.fuses[fuse.memory]) for fuse in part.fuses}
    lock = part.lock_mask if will_erase else before.lock & part.lock_mask
    wanted = lock if recipe.lock is None else recipe.lock & part.lock_mask
    if wanted & ~lock:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the lock bits read 0x{lock:02X} and cannot be opened to 0x{wanted:02X}",
            hint="only a chip erase opens lock bits: enqueue an image, with erase",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK.value, expected=wanted, actual=lock),
        )
    asked = frozenset(recipe.fuses) | ({MemoryKind.LOCK} if recipe.lock is not None else frozenset())
    final = {**fuses, MemoryKind.LOCK: lock if recipe.lock is None else recipe.lock}
    if wanted == lock:
        return [VerifyBits(name="verify fuses", expected=final, asked=asked)]
    still_open = {**fuses, MemoryKind.LOCK: lock}
    return [
        VerifyBits(name="verify fuses", expected=still_open, asked=asked - {MemoryKind.LOCK}),
        WriteLock(name="write lock", value=wanted),
        VerifyBits(name="verify lock", expected=final, asked=asked),
    ]

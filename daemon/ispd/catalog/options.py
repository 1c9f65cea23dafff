"""What a client may ask of a job, before anything of it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ispd.model.part import MemoryKind
from ispd.model.recipe import ClonePolicy, PlanKind, VerifyScope

__all__ = ["NamedBytes", "RecipeOptions"]


@dataclass(frozen=True, slots=True)
class NamedBytes:
    """A file as a client handed it over. ``base`` is the byte address of a raw binary."""

    name: str
    content: bytes
    base: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """What a client may ask for. Fields mean what they mean in :class:`~ispd.model.recipe.Recipe`; None is "not said".

    :param files: flash images; several are joined by the merge rules.
    :param plan: which way the firmware takes; not said: everything goes on through the programmer.
    :param part: any name of a part.
    :param erase: erase first; it takes place only where flash is written.
    :param option_bytes: option bytes of an STM32 to write, which ``lock`` is one of.
    :param bootloader: bootloader id or QMK name; sets its fuse bytes, and its lock byte where its vendor has one. A fuse or
        lock option beside it wins, with a warning.
    :param strip_sketch: of a combined file (bootloader and sketch) that is in another's way, take the bootloader only.
    :param notes: what was noticed where the options come from, for the recipe's warnings.
    """

    files: tuple[NamedBytes, ...] = ()
    eeprom: NamedBytes | None = None
    plan: PlanKind | None = None
    part: str | None = None
    bootloader: str | None = None
    lfuse: int | None = None
    hfuse: int | None = None
    efuse: int | None = None
    lock: int | None = None
    option_bytes: Mapping[MemoryKind, int] = field(default_factory=dict)
    erase: bool = True
    keeps_rest: bool = False
    unlock: bool = False
    clones: ClonePolicy | None = None
    verify: VerifyScope | None = None
    strip_sketch: bool = False
    force_fuses: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None
    notes: tuple[str, ...] = ()

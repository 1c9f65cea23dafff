"""What a client may ask of a job, before anything of it was checked."""

from dataclasses import dataclass

from ispd.model.recipe import PlanKind, VerifyScope

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
    :param plan: which way the firmware takes; not said: everything goes on by ISP.
    :param part: part id, name or avrdude id.
    :param erase: chip erase first; it takes place only where flash is written.
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
    erase: bool = True
    verify: VerifyScope | None = None
    strip_sketch: bool = False
    force_fuses: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None
    notes: tuple[str, ...] = ()

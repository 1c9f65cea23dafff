"""The station as clients see it: programmers, slots and their states."""

from dataclasses import dataclass
from enum import StrEnum

from ispd.model.job import Failure
from ispd.model.part import Interface

__all__ = ["Probe", "Programmer", "Slot", "SlotAction", "SlotState", "Station"]


class SlotState(StrEnum):
    """State of a slot; the legal changes stand in ``station/slot_state.py``."""

    VACANT = "vacant"
    IDLE = "idle"
    WAITING = "waiting"
    BUSY = "busy"
    PASSED = "passed"
    FAILED = "failed"
    REMOVED = "removed"
    QUARANTINED = "quarantined"
    DISABLED = "disabled"


class SlotAction(StrEnum):
    """What may be done to a slot by hand. ``identify`` makes its programmer show itself, where it can."""

    ENABLE = "enable"
    DISABLE = "disable"
    IDENTIFY = "identify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programmer:
    """A programmer on the station. ``port`` is where it is reached now; ``path`` is its USB topology path, if any.

    ``serial`` is shown and never relied on: clones share them. ``interface`` is None while nobody knows what it is.
    """

    kind: str
    port: str
    slot: str
    path: str | None = None
    usb_id: str | None = None
    firmware: str | None = None
    serial: str | None = None
    interface: Interface | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What a slot shows now. ``progress`` runs 0..1 over the current unit; ``step`` names what it does.

    ``target_usb`` is the topology path of the board's own USB port, None while nobody knows it; ``board_usb`` is the USB id that shows there now.
    """

    name: str
    state: SlotState
    programmer: str | None = None
    port: str | None = None
    target_usb: str | None = None
    board_usb: str | None = None
    job: int | None = None
    unit: int | None = None
    part: str | None = None
    signature: str | None = None
    step: str | None = None
    progress: float = 0.0
    bytes_done: int = 0
    bytes_total: int = 0
    sck_hz: int | None = None
    failure: Failure | None = None
    note: str = ""
    passed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a slot's target answered, and who asked. ``signature`` None with a ``failure`` where nothing sensible answered.

    ``flash_bytes`` is what the chip says of its flash, right or not, where it says anything; else the part's. ``sck_hz`` is the clock of ISP or
    SWD. ``chip`` and ``unique_id`` as in a unit.
    """

    slot: str
    signature: str | None
    programmer: str | None = None
    firmware: str | None = None
    serial: str | None = None
    parts: tuple[str, ...] = ()
    chip: str = ""
    unique_id: str | None = None
    flash_bytes: int | None = None
    flash_page_bytes: int | None = None
    ram_bytes: int | None = None
    voltage_mv: int | None = None
    warnings: tuple[str, ...] = ()
    fuses: dict[str, int] | None = None
    lock: int | None = None
    calibration: int | None = None
    clock: str | None = None
    sck_hz: int | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """The daemon itself."""

    version: str
    started: str
    socket: str
    state_dir: str
    bench: bool
    slots: int = 0
    jobs_open: int = 0

"""Every method of the API, declared once. Surfaces, the command line, OpenRPC and the reference pages derive from here.

A parameter type's docstring is the method's help text; each field carries its meaning and its limits.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ispd.api.declare import Method, Params, Privilege
from ispd.api.values import (
    MAX_IMAGES,
    BinaryFile,
    Dump,
    ExplainedPart,
    Merged,
    Nothing,
    RecipeFile,
    Subscribed,
)
from ispd.errors import ErrorCode
from ispd.model.job import Job, Unit
from ispd.model.part import MemoryKind
from ispd.model.recipe import PlanKind, VerifyScope
from ispd.model.report import BootloaderReport, ImageReport, PartReport
from ispd.model.station import Probe, Programmer, Slot, SlotAction, Station

__all__ = [
    "MAX_ID",
    "MAX_IMAGES",
    "METHODS",
    "BinaryFile",
    "Dump",
    "ExplainedPart",
    "Merged",
    "Nothing",
    "RecipeFile",
    "Subscribed",
]

MAX_ID = (1 << 63) - 1
"""Largest number the journal can give."""

Byte = Annotated[int, Meta(ge=0, le=0xFF)]
PartId = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="part id, data sheet name or avrdude id: atmega32u4, m32u4"),
]
SlotName = Annotated[str, Meta(min_length=1, max_length=64)]
JobId = Annotated[int, Meta(ge=1, le=MAX_ID, description="number of the job")]
UnitId = Annotated[int, Meta(ge=1, le=MAX_ID, description="number of the unit")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="at most so many, newest first")]
Before = Annotated[int, Meta(ge=1, le=MAX_ID, description="only those with a smaller number, to page on")]
LowFuse = Annotated[Byte, Meta(description="low fuse byte")]
HighFuse = Annotated[Byte, Meta(description="high fuse byte")]
ExtendedFuse = Annotated[Byte, Meta(description="extended fuse byte")]
LockByte = Annotated[Byte, Meta(description="lock byte")]
BootloaderName = Annotated[
    str, Meta(max_length=64, description="bootloader id or QMK name: its fuse bytes, and its lock byte if it has one")
]
StripSketch = Annotated[
    bool,
    Meta(description="of a combined file, bootloader and sketch, that is in another's way take the bootloader only"),
]


Images = Annotated[list[BinaryFile], Meta(max_length=MAX_IMAGES)]

# -- parameters ------------------------------------------------------------------------------------------------------


class JobEnqueue(Params, frozen=True, kw_only=True):
    """Create a job: flash the image to every board on the chosen slots.

    What to do comes from the parameters, or from a recipe file; parameters win over the recipe, and the recipe wins
    over the keyboard's metadata. Without an image only the fuses, the lock byte or the EEPROM that were named are written,
    and nothing is erased. Everything that can be checked without a board is checked first: the image files, the fuse bytes, the bootloader.
    Without a count each board that is present now is flashed once; with a count the job goes on, board after board,
    until so many have passed. Without a part each board's signature decides.

    The plan says which way the firmware takes: everything by ISP (isp-only, where nothing is said); bootloader and firmware as one production
    image by ISP (merged); the bootloader by ISP and the firmware through it, over the board's own USB port (chained); whichever of these two is
    faster on each slot, as measured there (auto); or over USB alone, to boards whose bootloader runs (chain-only). What goes over USB needs
    slots whose board's USB port is known: from the configuration, or learnt. A board that turns out ill over USB is brought back by ISP in a
    further attempt where its slot has a programmer, and ends needs-rescue elsewhere.
    """

    images: Annotated[
        Images, Meta(description="image files (Intel HEX, ELF, raw), joined into one; overlaps are refused")
    ] = msgspec.field(default_factory=list)
    eeprom: Annotated[
        BinaryFile | None, Meta(description="image file for the EEPROM; of an ELF file its EEPROM section")
    ] = None
    plan: (
        Annotated[PlanKind, Meta(description="which way the firmware takes; isp-only where nothing is said")] | None
    ) = None
    part: PartId | None = None
    slots: (
        Annotated[list[SlotName], Meta(min_length=1, max_length=256, description="slots to use; all where left out")]
        | None
    ) = None
    count: Annotated[int, Meta(ge=1, le=1_000_000, description="go on until so many units passed")] | None = None
    recipe: Annotated[
        RecipeFile | None, Meta(description="recipe file; what is given beside it replaces what it says")
    ] = None
    bootloader: BootloaderName | None = None
    keyboard: Annotated[
        BinaryFile | None, Meta(description="QMK keyboard.json, info.json or rules.mk: part and bootloader")
    ] = None
    lfuse: LowFuse | None = None
    hfuse: HighFuse | None = None
    efuse: ExtendedFuse | None = None
    lock: LockByte | None = None
    erase: Annotated[bool, Meta(description="chip erase first")] = True
    verify: (
        Annotated[
            VerifyScope,
            Meta(description="what of flash is read back: written, or full (all of it, blank outside the image)"),
        ]
        | None
    ) = None
    sck_hz: (
        Annotated[
            int, Meta(ge=1, le=20_000_000, description="SPI clock limit in Hz; without it the job finds the best")
        ]
        | None
    ) = None
    strip_sketch: StripSketch = False
    force_fuses: Annotated[bool, Meta(description="accept what the fuse guard refuses")] = False
    accept_fuses: Annotated[bool, Meta(description="accept what the fuse guard would ask")] = False


class JobList(Params, frozen=True, kw_only=True):
    """List jobs, newest first."""

    limit: Limit = 50
    before: Before | None = None


class JobGet(Params, frozen=True, kw_only=True):
    """Show one job."""

    id: JobId


class JobCancel(Params, frozen=True, kw_only=True):
    """Cancel a job. Boards in work stop between two pages and are left running, with their record saying so."""

    id: JobId


class JobPause(Params, frozen=True, kw_only=True):
    """Pause a job: no further board is started, boards in work stop between two pages."""

    id: JobId


class JobResume(Params, frozen=True, kw_only=True):
    """Let a paused job go on."""

    id: JobId


class UnitList(Params, frozen=True, kw_only=True):
    """List units, the records of boards, newest first."""

    job: JobId | None = None
    limit: Limit = 100
    before: Before | None = None


class UnitGet(Params, frozen=True, kw_only=True):
    """Show one unit's complete record."""

    id: UnitId


class SlotList(Params, frozen=True, kw_only=True):
    """List the slots and what each is doing now."""


class SlotGet(Params, frozen=True, kw_only=True):
    """Show one slot."""

    name: Annotated[SlotName, Meta(description="name of the slot")]


class SlotSet(Params, frozen=True, kw_only=True):
    """Enable or disable a slot, or let its programmer show itself."""

    name: Annotated[SlotName, Meta(description="name of the slot")]
    action: Annotated[SlotAction, Meta(description="what to do")]


class SlotProbe(Params, frozen=True, kw_only=True):
    """Ask the board on a slot who it is: signature, fuses, lock byte, and what its clock seems to be."""

    name: Annotated[SlotName, Meta(description="name of the slot")]


class SlotRead(Params, frozen=True, kw_only=True):
    """Read a whole memory of the board on a slot."""

    name: Annotated[SlotName, Meta(description="name of the slot")]
    memory: Annotated[MemoryKind, Meta(description="which memory")]


class SlotLearn(Params, frozen=True, kw_only=True):
    """Find out which USB port of the machine the slot's board is on, and remember it.

    The board is held in reset through its programmer, twice, and the port that goes quiet and comes back both times is the one. So a board with
    a working bootloader or firmware has to be on the slot, its own USB cable plugged in, and nothing else plugged or flashed meanwhile. What is
    learnt is kept until it is learnt anew; a target_usb in the configuration goes before it, and is only compared then.
    """

    name: Annotated[SlotName, Meta(description="name of the slot")]


class SlotRescue(Params, frozen=True, kw_only=True):
    """Create a job that saves a board which ended needs-rescue: bootloader, fuses and lock byte by ISP, then its firmware over USB.

    Put the board on a slot with a programmer, and its own USB cable into that slot's port. The recipe is that of the unit that needs rescue;
    it has the bootloader's image, or that has to be given here.
    """

    name: Annotated[SlotName, Meta(description="name of the slot the board is on now")]
    unit: (
        Annotated[UnitId, Meta(description="which unit's recipe; the newest that ended needs-rescue where left out")]
        | None
    ) = None
    images: Annotated[Images, Meta(description="the bootloader's image file, where the unit's job had none")] = (
        msgspec.field(default_factory=list)
    )


class ProgrammerList(Params, frozen=True, kw_only=True):
    """List the programmers that are connected."""


class PartList(Params, frozen=True, kw_only=True):
    """List the parts in the catalog."""


class PartGet(Params, frozen=True, kw_only=True):
    """Explain a part: its memories, and fuse bytes bit by bit with the fuse guard's verdict.

    Fuse bytes that are not given are explained at the bootloader's value, or at their factory value.
    """

    id: PartId
    lfuse: LowFuse | None = None
    hfuse: HighFuse | None = None
    efuse: ExtendedFuse | None = None
    lock: LockByte | None = None
    bootloader: BootloaderName | None = None


class BootloaderList(Params, frozen=True, kw_only=True):
    """List the bootloaders in the catalog."""


class ImageInspect(Params, frozen=True, kw_only=True):
    """Tell what an image file is and holds, and what looks wrong with it; with a part, whether it suits that part."""

    image: Annotated[BinaryFile, Meta(description="the image file")]
    part: PartId | None = None
    memory: (
        Annotated[
            Literal["flash", "eeprom"],
            Meta(description="memory it is for: flash or eeprom; left out, eeprom for .eep files"),
        ]
        | None
    ) = None


class ImageMerge(Params, frozen=True, kw_only=True):
    """Join image files, bootloader and firmware, into one production file.

    Overlaps are refused. A bootloader file that carries a sketch at address 0 is in the firmware's way: it is refused too, or
    stripped of its sketch where that is asked for.
    """

    images: Annotated[list[BinaryFile], Meta(min_length=2, max_length=MAX_IMAGES, description="the image files")]
    part: PartId | None = None
    strip_sketch: StripSketch = False


class StationGet(Params, frozen=True, kw_only=True):
    """Tell about the daemon itself."""


class EventsSubscribe(Params, frozen=True, kw_only=True):
    """Send every change of the station over this connection, as ``event`` notifications with a sequence number.

    A reader that is too slow gets one event of kind ``resync`` in place of those it missed.
    """


class EventsUnsubscribe(Params, frozen=True, kw_only=True):
    """Send no more events over this connection."""


class RpcDiscover(Params, frozen=True, kw_only=True):
    """Describe this API as an OpenRPC document."""


# -- the table -------------------------------------------------------------------------------------------------------

_IMAGE_ERRORS = (
    ErrorCode.IMAGE_INVALID,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.IMAGE_OVERLAP,
    ErrorCode.IMAGE_DOES_NOT_FIT,
    ErrorCode.UNKNOWN_PART,
)
_BOARD_ERRORS = (
    ErrorCode.UNKNOWN_SLOT,
    ErrorCode.SLOT_BUSY,
    ErrorCode.LINK_CLOSED,
    ErrorCode.LINK_TIMEOUT,
    ErrorCode.PERMISSION_DENIED,
    ErrorCode.PORT_BUSY,
    ErrorCode.PORT_NOT_FOUND,
    ErrorCode.PROTOCOL_REMOTE,
    ErrorCode.PROGRAMMER_SILENT,
    ErrorCode.PROGRAMMER_IS_BOOTLOADER,
    ErrorCode.PROGRAMMER_CANNOT,
    ErrorCode.TARGET_NOT_RESPONDING,
    ErrorCode.SIGNATURE_UNKNOWN,
    ErrorCode.SIGNATURE_UNSTABLE,
    ErrorCode.TARGET_LOST,
)

JOB_ENQUEUE = Method(
    name="job.enqueue",
    params=JobEnqueue,
    result=Job,
    result_text="the new job",
    privilege=Privilege.OPERATE,
    errors=(
        *_IMAGE_ERRORS,
        ErrorCode.IMAGE_FUSE_MISMATCH,
        ErrorCode.RECIPE_INVALID,
        ErrorCode.CHECKSUM_MISMATCH,
        ErrorCode.UNKNOWN_BOOTLOADER,
        ErrorCode.FUSE_REFUSED,
        ErrorCode.FUSE_CONFIRM,
        ErrorCode.UNKNOWN_SLOT,
        ErrorCode.NO_SLOT,
        ErrorCode.NOT_PAIRED,
        ErrorCode.JOURNAL_FAILED,
    ),
)
JOB_LIST = Method(
    name="job.list", params=JobList, result=list[Job], result_text="jobs, newest first", privilege=Privilege.VIEW
)
JOB_GET = Method(
    name="job.get",
    params=JobGet,
    result=Job,
    result_text="the job",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_JOB,),
)
JOB_CANCEL = Method(
    name="job.cancel",
    params=JobCancel,
    result=Job,
    result_text="the job as it is now",
    privilege=Privilege.OPERATE,
    errors=(ErrorCode.UNKNOWN_JOB, ErrorCode.JOB_ENDED),
)
JOB_PAUSE = Method(
    name="job.pause",
    params=JobPause,
    result=Job,
    result_text="the job as it is now",
    privilege=Privilege.OPERATE,
    errors=(ErrorCode.UNKNOWN_JOB, ErrorCode.JOB_ENDED),
)
JOB_RESUME = Method(
    name="job.resume",
    params=JobResume,
    result=Job,
    result_text="the job as it is now",
    privilege=Privilege.OPERATE,
    errors=(ErrorCode.UNKNOWN_JOB, ErrorCode.JOB_ENDED),
)
UNIT_LIST = Method(
    name="unit.list",
    params=UnitList,
    result=list[Unit],
    result_text="units, newest first",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_JOB,),
)
UNIT_GET = Method(
    name="unit.get",
    params=UnitGet,
    result=Unit,
    result_text="the unit's record",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_UNIT,),
)
SLOT_LIST = Method(
    name="slot.list", params=SlotList, result=list[Slot], result_text="the slots, by name", privilege=Privilege.VIEW
)
SLOT_GET = Method(
    name="slot.get",
    params=SlotGet,
    result=Slot,
    result_text="the slot",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_SLOT,),
)
SLOT_SET = Method(
    name="slot.set",
    params=SlotSet,
    result=Slot,
    result_text="the slot as it is now",
    privilege=Privilege.OPERATE,
    errors=(ErrorCode.UNKNOWN_SLOT, ErrorCode.SLOT_BUSY, ErrorCode.PROGRAMMER_CANNOT),
)
SLOT_PROBE = Method(
    name="slot.probe",
    params=SlotProbe,
    result=Probe,
    result_text="what the board answered",
    privilege=Privilege.OPERATE,
    errors=_BOARD_ERRORS,
)
SLOT_READ = Method(
    name="slot.read",
    params=SlotRead,
    result=Dump,
    result_text="the memory's bytes",
    privilege=Privilege.OPERATE,
    errors=(*_BOARD_ERRORS, ErrorCode.TARGET_LOCKED),
)
SLOT_LEARN = Method(
    name="slot.learn",
    params=SlotLearn,
    result=Slot,
    result_text="the slot, with its board's USB port",
    privilege=Privilege.OPERATE,
    errors=(*_BOARD_ERRORS, ErrorCode.NOT_PAIRED, ErrorCode.JOURNAL_FAILED),
)
SLOT_RESCUE = Method(
    name="slot.rescue",
    params=SlotRescue,
    result=Job,
    result_text="the new job",
    privilege=Privilege.OPERATE,
    errors=(
        *_IMAGE_ERRORS,
        ErrorCode.IMAGE_FUSE_MISMATCH,
        ErrorCode.RECIPE_INVALID,
        ErrorCode.UNKNOWN_BOOTLOADER,
        ErrorCode.FUSE_REFUSED,
        ErrorCode.FUSE_CONFIRM,
        ErrorCode.UNKNOWN_SLOT,
        ErrorCode.UNKNOWN_UNIT,
        ErrorCode.NO_SLOT,
        ErrorCode.NOT_PAIRED,
        ErrorCode.NOTHING_TO_RESCUE,
        ErrorCode.JOURNAL_FAILED,
    ),
)
PROGRAMMER_LIST = Method(
    name="programmer.list",
    params=ProgrammerList,
    result=list[Programmer],
    result_text="the programmers",
    privilege=Privilege.VIEW,
)
PART_LIST = Method(
    name="part.list", params=PartList, result=list[PartReport], result_text="the parts", privilege=Privilege.VIEW
)
PART_GET = Method(
    name="part.get",
    params=PartGet,
    result=ExplainedPart,
    result_text="the part, explained",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_PART, ErrorCode.UNKNOWN_BOOTLOADER),
)
BOOTLOADER_LIST = Method(
    name="bootloader.list",
    params=BootloaderList,
    result=list[BootloaderReport],
    result_text="the bootloaders",
    privilege=Privilege.VIEW,
)
IMAGE_INSPECT = Method(
    name="image.inspect",
    params=ImageInspect,
    result=ImageReport,
    result_text="what the image holds",
    privilege=Privilege.VIEW,
    errors=_IMAGE_ERRORS,
)
IMAGE_MERGE = Method(
    name="image.merge",
    params=ImageMerge,
    result=Merged,
    result_text="the joined file",
    privilege=Privilege.VIEW,
    errors=_IMAGE_ERRORS,
)
STATION_GET = Method(
    name="station.get", params=StationGet, result=Station, result_text="the station", privilege=Privilege.VIEW
)
EVENTS_SUBSCRIBE = Method(
    name="events.subscribe",
    params=EventsSubscribe,
    result=Subscribed,
    result_text="where the events begin",
    privilege=Privilege.VIEW,
)
EVENTS_UNSUBSCRIBE = Method(
    name="events.unsubscribe", params=EventsUnsubscribe, result=Nothing, result_text="nothing", privilege=Privilege.VIEW
)
RPC_DISCOVER = Method(
    name="rpc.discover",
    params=RpcDiscover,
    result=dict[str, Any],
    result_text="an OpenRPC document",
    privilege=Privilege.VIEW,
)

METHODS: Mapping[str, Method[Any, Any]] = MappingProxyType(
    {method.name: method for method in list(globals().values()) if isinstance(method, Method)}
)
"""All methods by name, in the order of declaration."""

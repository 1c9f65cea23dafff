"""The queue: create, look at and steer jobs."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ispd.api.declare import Method, Params, Privilege
from ispd.api.methods.fields import (
    IMAGE_ERRORS,
    Before,
    BootloaderName,
    ExtendedFuse,
    HighFuse,
    Images,
    JobId,
    Limit,
    LockByte,
    LowFuse,
    NamedOptionBytes,
    PartId,
    SlotName,
    StripSketch,
    Unlock,
)
from ispd.api.values import BinaryFile, RecipeFile
from ispd.errors import ErrorCode
from ispd.model.job import Job
from ispd.model.recipe import ClonePolicy, PlanKind, VerifyScope

__all__ = [
    "JOB_CANCEL",
    "JOB_ENQUEUE",
    "JOB_GET",
    "JOB_LIST",
    "JOB_PAUSE",
    "JOB_RESUME",
    "JobCancel",
    "JobEnqueue",
    "JobGet",
    "JobList",
    "JobPause",
    "JobResume",
]


class JobEnqueue(Params, frozen=True, kw_only=True):
    """Create a job: flash the image to every board on the chosen slots.

    What to do comes from the parameters, or from a recipe file; parameters win over the recipe, and the recipe wins
    over the keyboard's metadata. Without an image only the fuses (an STM32's option bytes), the lock byte or the EEPROM that were
    named are written, and nothing is erased. Everything that can be checked without a board is checked first: the image files, the
    fuse bytes, the bootloader.
    Without a count each board that is present now is flashed once; with a count the job goes on, board after board,
    until so many have passed. Without a part each board's signature decides.

    The plan says which way the firmware takes: everything through the programmer, by ISP or SWD (isp-only, where nothing is said);
    the same, bootloader and firmware as one production image (merged); the bootloader through the programmer and the firmware through the
    bootloader, over the board's own USB port (chained); whichever of these two is faster on each slot, as measured there (auto); or over USB
    alone, to boards whose bootloader runs (chain-only). What goes over USB needs slots whose board's USB port is known: from the configuration,
    or learnt. A board that turns out ill over USB is brought back through its programmer in a further attempt where its slot has one, and
    ends needs-rescue elsewhere.
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
    option_bytes: NamedOptionBytes = None
    erase: Annotated[bool, Meta(description="chip erase first")] = True
    keep_rest: Annotated[
        bool,
        Meta(
            description="by SWD: erase only the pages that hold a byte of the image, and leave the rest of flash as it is"
        ),
    ] = False
    unlock: Unlock = False
    clones: (
        Annotated[
            ClonePolicy,
            Meta(
                description="what to do with a chip that only says it is an STM32; in the record it is in any case, warn where nothing is said"
            ),
        ]
        | None
    ) = None
    verify: (
        Annotated[
            VerifyScope,
            Meta(description="what of flash is read back: written, or full (all of it, blank outside the image)"),
        ]
        | None
    ) = None
    sck_hz: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=20_000_000,
                description="limit of the clock of ISP (SCK) or SWD in Hz; without it the job finds the best",
            ),
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


JOB_ENQUEUE = Method(
    name="job.enqueue",
    params=JobEnqueue,
    result=Job,
    result_text="the new job",
    privilege=Privilege.OPERATE,
    errors=(
        *IMAGE_ERRORS,
        ErrorCode.IMAGE_FUSE_MISMATCH,
        ErrorCode.RECIPE_INVALID,
        ErrorCode.CHECKSUM_MISMATCH,
        ErrorCode.UNKNOWN_BOOTLOADER,
        ErrorCode.FUSE_REFUSED,
        ErrorCode.FUSE_CONFIRM,
        ErrorCode.UNKNOWN_SLOT,
        ErrorCode.NO_SLOT,
        ErrorCode.NOT_PAIRED,
        ErrorCode.PROGRAMMER_CANNOT,
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

"""The slots, and the boards and programmers on them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ispd.api.declare import Method, Params, Privilege
from ispd.api.methods.fields import IMAGE_ERRORS, Images, SlotName, UnitId, Unlock
from ispd.api.values import Dump
from ispd.errors import ErrorCode
from ispd.model.job import Job
from ispd.model.part import MemoryKind
from ispd.model.station import Probe, Programmer, Slot, SlotAction

__all__ = [
    "PROGRAMMER_LIST",
    "SLOT_GET",
    "SLOT_LEARN",
    "SLOT_LIST",
    "SLOT_PROBE",
    "SLOT_READ",
    "SLOT_RESCUE",
    "SLOT_SET",
    "ProgrammerList",
    "SlotGet",
    "SlotLearn",
    "SlotList",
    "SlotProbe",
    "SlotRead",
    "SlotRescue",
    "SlotSet",
]


class SlotList(Params, frozen=True, kw_only=True):
    """List the slots and what each is doing now."""


class SlotGet(Params, frozen=True, kw_only=True):
    """Show one slot."""

    name: Annotated[SlotName, Meta(description="name of the slot")]


class SlotSet(Params, frozen=True, kw_only=True):
    """Enable or disable a slot, or let its programmer show itself.

    A disabled slot takes no board and lets go of its programmer, so that another program can have it.
    """

    name: Annotated[SlotName, Meta(description="name of the slot")]
    action: Annotated[SlotAction, Meta(description="what to do")]


class SlotProbe(Params, frozen=True, kw_only=True):
    """Ask the board on a slot who it is: signature, fuses or option bytes, lock byte, and what its clock seems to be.

    An STM32 runs on undisturbed, and tells its flash, revision and unique id as well. Beside that stands who asked: the programmer and its firmware.
    """

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
    """Create a job that saves a board which ended needs-rescue: bootloader, fuses and lock byte through a programmer, then its firmware over USB.

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
    unlock: Unlock = False


class ProgrammerList(Params, frozen=True, kw_only=True):
    """List the programmers that are connected."""


_PROGRAMMER_ERRORS = (
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
)
_BOARD_ERRORS = (
    *_PROGRAMMER_ERRORS,
    ErrorCode.TARGET_NOT_RESPONDING,
    ErrorCode.SIGNATURE_UNKNOWN,
    ErrorCode.SIGNATURE_UNSTABLE,
    ErrorCode.TARGET_LOST,
    ErrorCode.TARGET_BUSY,
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
    errors=_PROGRAMMER_ERRORS,
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
        *IMAGE_ERRORS,
        ErrorCode.IMAGE_FUSE_MISMATCH,
        ErrorCode.RECIPE_INVALID,
        ErrorCode.UNKNOWN_BOOTLOADER,
        ErrorCode.FUSE_REFUSED,
        ErrorCode.FUSE_CONFIRM,
        ErrorCode.UNKNOWN_SLOT,
        ErrorCode.UNKNOWN_UNIT,
        ErrorCode.NO_SLOT,
        ErrorCode.NOT_PAIRED,
        ErrorCode.PROGRAMMER_CANNOT,
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

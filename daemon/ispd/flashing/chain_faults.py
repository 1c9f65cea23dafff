"""What can go wrong over a board's own USB port, as errors: whose fault each is, and what to do next. Pure."""

from collections.abc import Sequence

from ispd.errors import ErrorCode, Facts, IspdError, JobError, RefusedError, TargetError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import UsbDeviceAt

__all__ = [
    "difference",
    "is_erase_at_fault",
    "is_proof",
    "may_be_board",
    "never_in_reset",
    "no_application",
    "no_bootloader",
    "no_tool",
    "no_tty",
    "of_board",
    "restless",
    "vanished",
]

_NOT_THE_BOARD = frozenset(
    {
        ErrorCode.TOOL_MISSING,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.PORT_BUSY,
        ErrorCode.PROTOCOL_LOCAL,
        ErrorCode.BOARD_UNEXPECTED,
        ErrorCode.JOURNAL_FAILED,
        ErrorCode.INTERNAL,
    }
)
"""What the machine, the operator or we did; a board is never taken to ISP for it."""

_CABLE_HINT = "keep the board and its USB cable in place until the verdict, then flash it again"


def may_be_board(error: IspdError) -> bool:
    """Tell whether an error of a tool can be the board's fault; where it is still on its port, it is.

    What a tool refuses (a firmware linked for another address) is the firmware's.
    """
    return not isinstance(error, JobError | RefusedError) and error.code not in _NOT_THE_BOARD


def is_proof(error: IspdError) -> bool:
    """Tell whether an error is about cells that were looked at: the board is ill, wherever it went meanwhile."""
    return error.code in (ErrorCode.NOT_BLANK, ErrorCode.ERASE_FAILED, ErrorCode.VERIFY_MISMATCH)


def is_erase_at_fault(error: IspdError) -> bool:
    """Tell whether erasing once more may help."""
    return error.code in (ErrorCode.NOT_BLANK, ErrorCode.ERASE_FAILED)


def of_board(error: IspdError) -> IspdError:
    """Return a tool's error in words about the board: what concerns a link speaks of programmers."""
    if isinstance(error, TargetError) and error.code is not ErrorCode.BOOTLOADER_NOT_SEEN:
        return error
    return TargetError(
        ErrorCode.TOOL_FAILED,
        f"the board's bootloader did not do what it was asked: {error.message}",
        hint="flash the board again; if it happens again its bootloader is broken",
    )


def vanished(path: str, error: IspdError) -> TargetError:
    """The board left its port while it was being worked on, and did not come back."""
    told = "" if error.code in (ErrorCode.BOOTLOADER_NOT_SEEN, ErrorCode.LINK_CLOSED) else f" ({error.message})"
    return TargetError(
        ErrorCode.BOOTLOADER_NOT_SEEN,
        f"the board left USB port {path} in the midst of its work{told}",
        hint=_CABLE_HINT,
    )


def never_in_reset(device: UsbDeviceAt) -> TargetError:
    """Somebody stayed on the board's port though its programmer reset the board: that is another board."""
    return TargetError(
        ErrorCode.BOARD_UNEXPECTED,
        f"{device.usb} stayed on USB port {device.path} when the slot's board was reset: it is another board's",
        hint="put the cable of this slot's board into its port; `ispctl slot NAME learn` finds which port that is",
    )


def restless(path: str) -> TargetError:
    """Somebody comes to the board's port and leaves it again and again."""
    return TargetError(
        ErrorCode.BOOTLOADER_NOT_SEEN,
        f"what is on USB port {path} comes and goes, so that nobody can tell whether it is the slot's board",
        hint="try another USB cable and another port of the hub",
    )


def no_bootloader(path: str, there: UsbDeviceAt | None, loader: Bootloader) -> TargetError:
    """No bootloader in time: nobody at all, or somebody else."""
    wanted = f"{loader.title} ({' or '.join(loader.usb)})"
    if there is None:
        return TargetError(
            ErrorCode.BOOTLOADER_NOT_SEEN,
            f"{wanted} did not appear on USB port {path}",
            hint=f"is the board's own USB cable in port {path}? `ispctl slot NAME learn` finds the port that belongs to the slot",
        )
    return TargetError(
        ErrorCode.BOARD_UNEXPECTED,
        f"{there.usb} is on USB port {path}, not {wanted}",
        hint="see whether the slot's target_usb is the board's port, and whether the bootloader image is the one that was named",
    )


def no_tty(path: str, waited_s: float) -> TargetError:
    """The bootloader is there, its serial port is not."""
    return TargetError(
        ErrorCode.BOOTLOADER_NOT_SEEN,
        f"the bootloader on USB port {path} had no serial port within {waited_s:.0f} s",
        hint="flash the board again; if it happens again see the kernel's log for the tty",
    )


def no_tool(loader: Bootloader) -> TargetError:
    """Nothing here speaks to this family of bootloaders."""
    return TargetError(
        ErrorCode.TOOL_MISSING,
        f"there is no tool for {loader.title}",
        hint=loader.by_hand or "use `--plan merged`: bootloader and firmware through the programmer",
    )


def no_application(path: str, there: UsbDeviceAt | None, waited_s: float) -> TargetError:
    """The firmware was started and nothing showed up."""
    found = "nothing showed up" if there is None else f"the bootloader ({there.usb}) stayed"
    return TargetError(
        ErrorCode.APPLICATION_NOT_SEEN,
        f"the firmware was started and {found} on USB port {path} within {waited_s:.0f} s",
        hint="is this firmware for this board, and has it USB? flash it again; then try it by hand",
    )


def difference(firmware: Image, found: Sequence[Segment]) -> TargetError | None:
    """Compare what was read back with the firmware: the first byte that differs or was not read, None where all is well."""
    for segment in firmware.segments:
        address = segment.start
        while address < segment.span.stop:
            piece = next((one for one in found if address in one.span), None)
            if piece is None:
                return _mismatch(address, segment.data[address - segment.start], None)
            common = piece.span.overlap(Span(address, segment.span.stop))
            expected, actual = _cut(segment, common), _cut(piece, common)
            if expected != actual:
                first = next(at for at, (one, other) in enumerate(zip(expected, actual, strict=True)) if one != other)
                return _mismatch(address + first, expected[first], actual[first])
            address = common.stop
    return None


def _cut(segment: Segment, span: Span) -> bytes:
    return segment.data[span.start - segment.start : span.stop - segment.start]


def _mismatch(address: int, expected: int, actual: int | None) -> TargetError:
    reads = "was not read back" if actual is None else f"reads 0x{actual:02X}"
    return TargetError(
        ErrorCode.VERIFY_MISMATCH,
        f"flash 0x{address:04X} {reads} after the firmware was written over USB, not 0x{expected:02X}",
        hint="flash the board again; if the same byte differs again, replace the chip",
        facts=Facts(memory=MemoryKind.FLASH.value, address=address, expected=expected, actual=actual),
    )

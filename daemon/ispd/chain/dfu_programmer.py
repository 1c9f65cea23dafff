"""dfu-programmer, for Atmel, LUFA and QMK DFU: Debian's 0.6.1, and 0.7 to 1.1, whose words and exit codes differ.

Facts are from the program's own sources (v0.6.1, v0.7.2, v1.1.0: ``commands.c``, ``atmel.c``, ``arguments.c``,
``intel_hex.c``). What is on the board is always read back; codes and success lines decide nothing:

- ``erase`` prints "Success" for any status the board answered; from 0.7 it ends with a blank check whose exit code is the
  low byte of the address found plus one (0 for 0x100). 0.6.1 checks too and says nothing: it ends with 1 whatever was wrong.
- ``reset`` ends with 1 (0.6.1) or 254 where the board was gone before the program had finished asking, as it should be.
- an interface that cannot be released turns any success of 0.6.1 into 1.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ispd.catalog.hexwriter import write_hex
from ispd.chain.claims import last_words, part_of, text_of, tool_failed
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.control import opened
from ispd.chain.progress import MarkBar
from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError, TransportError
from ispd.model.image import BLANK, Image, Segment
from ispd.transport.contract import ToolOutcome, ToolRun, UsbDeviceAt

__all__ = ["TOOL", "DfuProgrammer", "EraseClaim", "read_erase", "target_name"]

_PROGRAM = "dfu-programmer"
_VERSION = re.compile(rf"{_PROGRAM}\s+(\d+)\.(\d+)")
_FILE = "firmware.hex"

_NO_DEVICE = "no device present"
_RESET = "reset"

_FORCE_SINCE = (0, 7)
"""First version with ``--force``, ``read``, and a blank check that speaks (its 0.7.0 sources)."""

_TARGETS = frozenset(
    {
        *("atmega8u2", "atmega16u2", "atmega32u2", "atmega16u4", "atmega32u4", "atmega32u6"),
        *("at90usb82", "at90usb162", "at90usb646", "at90usb647", "at90usb1286", "at90usb1287"),
    }
)
"""AVRs with USB that every version knows, by its own names (``target_map``)."""

_SMALL_SECTION = frozenset({"at90usb1286", "at90usb1287"})
"""Targets with a ``-4k`` variant, for a bootloader section of 4 KiB instead of 8."""

_SMALL_SECTION_BYTES = 4096

_FACTORY = "atmel-dfu"
"""QMK's name of Atmel's own bootloader; the others of the family are LUFA's and QMK's rebuilds."""

_QUICK_S = 10.0
"""For what takes no work of the board."""

_ERASE_S = 45.0
"""0.7 asks a busy board for 20 s (``ERASE_SECONDS``), then checks."""

_BYTES_PER_S = 1000
"""A tenth of what the slowest board with 128-byte pages writes or reads."""

_LEAVES_WITHIN_S = 2.0
"""Watchdog reset of a LUFA bootloader (0.25 s) and the hub's notice of it."""

_LOOK_EVERY_S = 0.1

_BAR_MARKS = 32
"""Steps of the bar of 0.7 (``__print_progress``)."""


@dataclass(frozen=True, slots=True)
class EraseClaim:
    """What the output of ``erase`` amounts to.

    :param was_done: the board was told to erase, answered, and was found blank.
    :param not_blank_at: address of the first byte found written *after* the erase, None where none was reported.
    """

    was_done: bool
    not_blank_at: int | None = None


def read_erase(text: str) -> EraseClaim:
    """Judge the output of ``erase`` (0.7 and later) by position: what a check found before erasing means nothing.

    The printed address is the first written byte plus one (``atmel_blank_check`` returns ``blank_upto + 1``).
    """
    _, begun, after = text.rpartition("Erasing flash...")
    if not begun:
        return EraseClaim(was_done=False)
    found = re.search(r"Not blank at 0x([0-9A-Fa-f]+)", after)
    if found is not None:
        return EraseClaim(was_done=False, not_blank_at=max(0, int(found[1], 16) - 1))
    return EraseClaim(was_done="Empty." in after)


def target_name(work: ChainWork) -> str:
    """Return the program's name for a part. It does not take ``at90usb64`` and ``at90usb128``, which QMK passes.

    Raises ``LocalProtocolError`` for a part without such a bootloader.
    """
    part = part_of(work)
    if part.id not in _TARGETS:
        raise LocalProtocolError(f"{_PROGRAM} does not know {part.id}")
    section = work.bootloader.section
    is_small = part.id in _SMALL_SECTION and section is not None and len(section) <= _SMALL_SECTION_BYTES
    return f"{part.id}-4k" if is_small else part.id


class DfuProgrammer:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = _PROGRAM
    families = frozenset({"flip"})
    program: str | None = _PROGRAM
    is_exclusive = False
    needs_tty = False
    erase_is_separate = True

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Erase, always by force: an Atmel bootloader refuses everything until it really erased."""
        if await _version(desk) < _FORCE_SINCE:
            outcome = await _run(work, desk, ("erase",), _ERASE_S)
            if outcome.exit_code != 0:
                await _look_for_rest(work, desk, outcome)
            return
        outcome = await _run(work, desk, ("erase", "--force"), _ERASE_S)
        claim = read_erase(text_of(outcome.errors))
        if claim.not_blank_at is not None:
            raise _not_blank(work, _as_sent(work, claim.not_blank_at))
        if not claim.was_done:
            raise _erase_failed(work, outcome)

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write what is not blank, and read the whole application section.

        The program's own validation is left out: it reads the same bytes once more and keeps them to itself.
        """
        version = await _version(desk)
        force = ("--force",) if version >= _FORCE_SINCE else ()
        bar = MarkBar(" bytes...\n[", ">", marks=_BAR_MARKS, total_bytes=len(work.firmware))
        hex_file = write_hex(_written(work))
        written = await _run(
            work,
            desk,
            ("flash", "--suppress-validation", *force, _FILE),
            _QUICK_S + len(work.firmware) / _BYTES_PER_S,
            inputs={_FILE: hex_file},
            on_text=lambda text: desk.advance(bar.feed(text)),
        )
        if written.exit_code == 0:
            desk.advance(bar.rest())
        cells = await _read(work, desk, version)
        if isinstance(cells, ToolOutcome):
            raise tool_failed(self.name, *(("write", written) if written.exit_code else ("read back", cells)), work)
        if written.exit_code != 0 and not _holds(cells, work.firmware):
            raise tool_failed(self.name, "write", written, work)
        return [Segment(0, cells)]

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Let the watchdog reset the board, which starts the firmware from a clean state; asked for twice at most."""
        for is_last in (False, True):
            before = await _present(desk)
            if before is None:
                return
            outcome = await _run(work, desk, (_RESET,), _QUICK_S)
            if outcome.exit_code == 0 or await _has_left(desk, before):
                return
            if is_last:
                raise tool_failed(self.name, "start the firmware", outcome, work)


async def _version(desk: Desk) -> tuple[int, int]:
    """Ask the program; 0.6.1 tells it on standard error and fails, later ones do neither.

    No board is asked for it: who cannot answer is the program, and no board is ill for that (tool-missing).
    """
    try:
        outcome = await desk.run(ToolRun(words=(_PROGRAM, "--version"), deadline_s=_QUICK_S))
    except TargetError as error:  # killed at its deadline
        raise _unknown_version(error.message) from error
    found = _VERSION.search(text_of(outcome.errors) + "\n" + text_of(outcome.output))
    if found is None:
        raise _unknown_version(last_words(outcome))
    return int(found[1]), int(found[2])


def _unknown_version(told: str) -> TransportError:
    return TransportError(
        ErrorCode.TOOL_MISSING,
        f"{_PROGRAM} does not tell its version: {told}",
        hint=f"see what `{_PROGRAM} --version` says; install Debian's package {_PROGRAM}, or 0.7 or newer of its makers",
    )


async def _run(
    work: ChainWork,
    desk: Desk,
    words: tuple[str, ...],
    deadline_s: float,
    *,
    inputs: dict[str, bytes] | None = None,
    on_text: Callable[[str], object] = lambda _: None,
    output_is_data: bool = False,
) -> ToolOutcome:
    """Run a command on the very device that is at the board's port now; its address is new at each plug."""
    here = await desk.here()
    target = f"{target_name(work)}:{here.bus},{here.address}"
    run = ToolRun(
        words=(_PROGRAM, target, *words), deadline_s=deadline_s, inputs=inputs or {}, output_is_data=output_is_data
    )
    outcome = await desk.run(run, on_text)
    if _NO_DEVICE in text_of(outcome.errors) and _RESET not in words:
        await _check_access(desk)
    return outcome


async def _check_access(desk: Desk) -> None:
    """Find out what the program does not tell: whether this machine lets anybody use the board.

    "no device present" is all it says where the board left, where it may not be opened, and where another program has it
    (``dfu_device_init``). Raises what opening it here does: permission-denied, port-busy; nothing where the board is to blame.
    """
    async with opened(desk):
        pass


async def _read(work: ChainWork, desk: Desk, version: tuple[int, int]) -> bytes | ToolOutcome:
    """Return the cells from address 0 on; the outcome where it did not bring as many as the firmware has.

    Its code says nothing more: 0.6.1 ends a whole dump with 1 where it cannot release the interface.
    """
    words = ("read", "--force", "--bin") if version >= _FORCE_SINCE else ("dump",)
    size = part_of(work).flash.size_bytes
    outcome = await _run(work, desk, words, _QUICK_S + size / _BYTES_PER_S, output_is_data=True)
    is_whole = len(outcome.output) >= work.firmware.span.stop
    return outcome.output if is_whole else replace(outcome, output=b"")


async def _look_for_rest(work: ChainWork, desk: Desk, erase: ToolOutcome) -> None:
    """Find out what a silent failure of 0.6.1 was, by reading: nothing at all, bytes left behind, or no erase."""
    part = part_of(work)  # 0.6.1 gives up at once on a board that is not done yet: it gets the time for every page
    await desk.clock.sleep(part.flash.size_bytes / part.flash.page_bytes * part.times.flash_s)
    cells = await _read(work, desk, (0, 6))
    if isinstance(cells, ToolOutcome):
        raise _erase_failed(work, erase)
    address = next((address for address, cell in enumerate(cells) if cell != BLANK), None)
    if address is not None:
        raise _not_blank(work, address, cells[address])


def _as_sent(work: ChainWork, address: int) -> int:
    """Undo what the program makes of an address from LUFA's rebuild (and QMK's of that), which answers low byte first.

    ``BootloaderDFU.c`` hands over the address as the AVR holds it; ``atmel.c`` reads it high byte first, as Atmel sends it.
    """
    if work.bootloader.qmk == _FACTORY:
        return address
    return address & ~0xFFFF | (address & 0xFF) << 8 | address >> 8 & 0xFF


def _written(work: ChainWork) -> Image:
    """Return the firmware in whole flash pages, blank ones left out; each then begins at a multiple of 32.

    A LUFA bootloader discards as many bytes of a block as its start is above a multiple of 32, dfu-programmer sends none.
    """
    pages = list(work.firmware.pages(part_of(work).flash.page_bytes))
    return Image.of([page for page in pages if any(byte != BLANK for byte in page.data)] or pages)


def _holds(cells: bytes, firmware: Image) -> bool:
    return all(cells[part.span.start : part.span.stop] == part.data for part in firmware.segments)


async def _present(desk: Desk) -> UsbDeviceAt | None:
    try:
        return await desk.here()
    except TargetError:
        return None


async def _has_left(desk: Desk, before: UsbDeviceAt) -> bool:
    """Watch whether the bootloader leaves; one that came back has another address."""
    until = desk.clock.monotonic() + _LEAVES_WITHIN_S
    while True:
        now = await _present(desk)
        if now is None or (now.bus, now.address) != (before.bus, before.address):
            return True
        if desk.clock.monotonic() >= until:
            return False
        await desk.clock.sleep(_LOOK_EVERY_S)


def _not_blank(work: ChainWork, address: int, actual: int | None = None) -> TargetError:
    return TargetError(
        ErrorCode.NOT_BLANK,
        f"the flash is not blank at 0x{address:04X} after the bootloader erased it",
        hint="erase it again; if that does not help the chip needs an erase by ISP: `ispctl rescue SLOT`",
        facts=Facts(part=part_of(work).id, memory="flash", address=address, expected=BLANK, actual=actual),
    )


def _erase_failed(work: ChainWork, outcome: ToolOutcome) -> TargetError:
    return TargetError(
        ErrorCode.ERASE_FAILED,
        f"the bootloader did not erase the flash: {last_words(outcome)}",
        hint="check the board's USB cable and hub, then flash it again",
        facts=Facts(part=part_of(work).id, memory="flash"),
    )


TOOL = DfuProgrammer()

"""What outside programs say about themselves, made into errors. None of it is believed where the board can be asked."""

import re

from ispd.chain.contract import ChainWork
from ispd.errors import ErrorCode, Facts, IspdError, LocalProtocolError, TargetError, TransportError
from ispd.model.part import AvrPart
from ispd.transport.contract import ToolOutcome

__all__ = ["last_words", "part_of", "text_of", "tool_failed"]

_LONGEST_QUOTE = 240
_MOST_LINES = 2
_TROUBLE = re.compile(
    r"error(?! condition)|fail|\bno\b(?! error)|\bnot\b|cannot|can't|unable|denied|protected|mismatch", re.IGNORECASE
)
"""What tells a line about trouble from a goodbye (avrdude thanks also after failures)."""


_NOT_LET = (
    (
        re.compile(
            r"permission denied|LIBUSB_ERROR_ACCESS|check USB permissions|found device but unable", re.IGNORECASE
        ),
        ErrorCode.PERMISSION_DENIED,
    ),
    (re.compile(r"resource busy|LIBUSB_ERROR_BUSY|device is in use", re.IGNORECASE), ErrorCode.PORT_BUSY),
)
"""How programs say that this machine keeps them off the device (avrdude; dfu-util's libusb names; teensy_loader_cli)."""

_NOT_LET_HINTS = {
    ErrorCode.PERMISSION_DENIED: "install the udev rules of ispd; `ispctl doctor` tells what is missing",
    ErrorCode.PORT_BUSY: "close the other program (ModemManager, brltty, fwupd): `ispctl doctor` tells who it is",
}


def text_of(data: bytes) -> str:
    """Return a program's output as text, whatever bytes it holds."""
    return data.decode("utf-8", "replace")


def last_words(outcome: ToolOutcome) -> str:
    """Return what a program said about its failure: the first lines about trouble, else its last line, else how it ended."""
    streams = [_lines(stream) for stream in (outcome.errors, outcome.output)]
    for lines in streams:
        trouble = [line for line in lines if _TROUBLE.search(line)]
        if trouble:
            return "; ".join(dict.fromkeys(trouble[:_MOST_LINES]))[:_LONGEST_QUOTE]
    for lines in streams:
        if lines:
            return lines[-1][:_LONGEST_QUOTE]
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return f"ended by signal {-outcome.exit_code}"
    return f"exit code {outcome.exit_code}, without a word"


def _lines(stream: bytes) -> list[str]:
    """Return the lines with words in them, without what a terminal would act on."""
    lines = text_of(stream).replace("\r", "\n").split("\n")
    plain = ["".join(character for character in line if character.isprintable()).strip() for line in lines]
    return [line for line in plain if any(character.isalpha() for character in line)]


def tool_failed(tool: str, action: str, outcome: ToolOutcome, work: ChainWork) -> IspdError:
    """Return the error for a program that did not do its work, in its own words.

    A ``TransportError`` (permission-denied, port-busy) where the machine kept it off the board, which is not to blame then;
    else a ``TargetError`` (tool-failed).
    """
    message = f"{tool} could not {action}: {last_words(outcome)}"
    said = f"{text_of(outcome.errors)}\n{text_of(outcome.output)}"
    for pattern, code in _NOT_LET:
        if pattern.search(said):
            return TransportError(code, message, hint=_NOT_LET_HINTS[code])
    return TargetError(
        ErrorCode.TOOL_FAILED,
        message,
        hint="check the board's USB cable and hub; the whole output is in the record",
        facts=Facts(part=None if work.part is None else work.part.id, memory="flash"),
    )


def part_of(work: ChainWork) -> AvrPart:
    """Return the part of a work for a bootloader that only AVRs have. Raises ``LocalProtocolError`` where it names none."""
    if not isinstance(work.part, AvrPart):
        raise LocalProtocolError(f"{work.bootloader.id} was to be spoken to without naming its part")
    return work.part

"""What outside programs say about themselves, made into errors. None of it is believed where the board can be asked."""

from ispd.chain.contract import ChainWork
from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError
from ispd.model.part import Part
from ispd.transport.contract import ToolOutcome

__all__ = ["last_words", "part_of", "text_of", "tool_failed"]

_LONGEST_QUOTE = 160


def text_of(data: bytes) -> str:
    """Return a program's output as text, whatever bytes it holds."""
    return data.decode("utf-8", "replace")


def last_words(outcome: ToolOutcome) -> str:
    """Return the last line with words in it, of standard error if it has one, else of standard output; or how it ended."""
    for stream in (outcome.errors, outcome.output):
        lines = [line.strip() for line in text_of(stream).replace("\r", "\n").split("\n")]
        telling = [line for line in lines if any(character.isalpha() for character in line)]
        if telling:
            return "".join(character for character in telling[-1] if character.isprintable())[:_LONGEST_QUOTE]
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return f"ended by signal {-outcome.exit_code}"
    return f"exit code {outcome.exit_code}, without a word"


def tool_failed(tool: str, action: str, outcome: ToolOutcome, work: ChainWork) -> TargetError:
    """Return the error for a program that did not do its work, with its own last words."""
    return TargetError(
        ErrorCode.TOOL_FAILED,
        f"{tool} could not {action}: {last_words(outcome)}",
        hint="check the board's USB cable and hub; the whole output is in the record",
        facts=Facts(part=None if work.part is None else work.part.id, memory="flash"),
    )


def part_of(work: ChainWork) -> Part:
    """Return the part of a work for a bootloader that only AVRs have. Raises ``LocalProtocolError`` where it names none."""
    if work.part is None:
        raise LocalProtocolError(f"{work.bootloader.id} was to be spoken to without naming its part")
    return work.part

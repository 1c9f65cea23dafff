"""What a host did that a data sheet forbids: typed records, so that a test can fail on them."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Violation", "ViolationKind"]


class ViolationKind(StrEnum):
    """The rule that was broken."""

    WHILE_BUSY = "while-busy"
    RESET_WHILE_BUSY = "reset-while-busy"
    ENTRY_TOO_EARLY = "entry-too-early"
    WRITE_LOCKED = "write-locked"
    UNKNOWN_INSTRUCTION = "unknown-instruction"
    UNSUPPORTED_INSTRUCTION = "unsupported-instruction"
    HIGH_BYTE_FIRST = "high-byte-first"
    ADDRESS_RANGE = "address-range"
    FLASH_LOCKED = "flash-locked"
    """A flash controller was told to write or erase without its keys or outside of the mode for it."""
    WRONG_KEY = "wrong-key"
    NOT_BLANK = "not-blank"
    """A cell was programmed that had not been erased."""
    WRONG_WIDTH = "wrong-width"
    """Flash takes half-words only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule. ``at`` is bench seconds; ``instruction`` is empty where no instruction broke it."""

    kind: ViolationKind
    at: float
    instruction: bytes = b""

    def __str__(self) -> str:
        shown = f" [{self.instruction.hex(' ').upper()}]" if self.instruction else ""
        return f"{self.kind}{shown} at {self.at:.6f} s"

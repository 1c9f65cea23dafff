"""How avrdude 7.1 reads its command line, as far as AVR109 on a tty goes; anything else is refused loudly."""

from dataclasses import dataclass, field
from enum import StrEnum

from vbench.tools.machine import Process, UnemulatedError

__all__ = ["ExitError", "Operation", "Task", "Words", "read_words"]

_WITH = "bBcCElpPUxyY"
_WITHOUT = "ADeFnOqstuvV?"
_USAGE = "Usage: avrdude [options]\n"
_FORMATS = "asiIrembdho"
_EMULATED_FORMATS = "air"


class ExitError(Exception):
    """The program ends here, with exit code 1 and without its farewell."""


class Task(StrEnum):
    """What ``-U`` asks for."""

    READ = "r"
    WRITE = "w"
    VERIFY = "v"


@dataclass(frozen=True, slots=True)
class Operation:
    """One ``-U``; ``form`` is the letter of the file's format."""

    memory: str
    task: Task
    file: str
    form: str


@dataclass(slots=True)
class Words:
    """A command line that was understood."""

    part: str | None = None
    programmer: str = ""
    port: str = "/dev/ttyS0"
    """What Debian's configuration says, unless told."""
    baud: int = 19200
    operations: list[Operation] = field(default_factory=list)
    quiet: int = 0
    is_erased: bool = False
    is_auto_erased: bool = True
    is_verified: bool = True
    keeps_trailing_ff: bool = False
    ignores_signature: bool = False


def read_words(process: Process) -> Words | int:
    """Return what the command line asks for, or the exit code where there is none. Raises ``ExitError``."""
    words = Words()
    left = list(process.words[1:])
    if not left:
        process.err(_USAGE)
        return 0
    while left:
        letters = left.pop(0)
        if letters == "--":
            break
        if not letters.startswith("-"):
            continue  # getopt puts those last, where nobody looks
        letters = letters[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in _WITH + _WITHOUT:
                return _misused(process, f"invalid option -- '{letter}'")
            value = ""
            if letter in _WITH:
                if not letters and not left:
                    return _misused(process, f"option requires an argument -- '{letter}'")
                value, letters = letters or left.pop(0), ""
            _apply(process, words, letter, value)
    return words


def _misused(process: Process, what: str) -> int:
    """Complain as ``getopt`` does, and print how the program is used; return the exit code, which is 0."""
    process.err(f"{process.words[0]}: {what}\n{_USAGE}")
    return 0


_VALUES = {"p": "part", "c": "programmer", "P": "port"}
_FLAGS = {
    "A": {"keeps_trailing_ff": True},
    "D": {"keeps_trailing_ff": True, "is_auto_erased": False},
    "e": {"is_erased": True, "is_auto_erased": False},
    "F": {"ignores_signature": True},
    "V": {"is_verified": False},
}


def _apply(process: Process, words: Words, letter: str, value: str) -> None:
    if letter in _VALUES:
        setattr(words, _VALUES[letter], value)
    elif letter in _FLAGS:
        for name, state in _FLAGS[letter].items():
            setattr(words, name, state)
    elif letter == "q":
        words.quiet += 1
        if words.quiet > 2:
            raise UnemulatedError("avrdude -qqq, which hides warnings and worse")
    elif letter == "b":
        if not value.isdecimal():
            process.err(f"avrdude error: invalid baud rate specified '{value}'\n")
            raise ExitError
        words.baud = int(value)
    elif letter == "U":
        words.operations.append(_operation(process, value))
    else:
        raise UnemulatedError(f"avrdude -{letter}")


def _operation(process: Process, text: str) -> Operation:
    memory, colon, rest = text.partition(":")
    if not colon:
        return Operation("flash", Task.WRITE, text, "a")
    complaint = ""
    if rest[:1] not in ("r", "w", "v"):
        complaint = (
            f"avrdude error: invalid I/O mode '{rest[:1] or chr(0)}' in update specification\n"
            "  allowed values are:\n    r = read device\n    w = write device\n    v = verify device\n"
        )
    elif rest[1:2] != ":":
        complaint = "avrdude error: invalid update specification\n"
    file, colon, form = rest[2:].rpartition(":")
    if not colon:
        file, form = rest[2:], "r" if rest[:1] == "r" else "a"
    elif not complaint and (len(form) != 1 or form not in _FORMATS):
        complaint = f"avrdude error: invalid file format '{form}' in update specifier\n"
    if complaint:
        process.err(complaint + f"avrdude error: unable to parse update operation '{text}'\n")
        raise ExitError
    if memory != "flash" or form not in _EMULATED_FORMATS or file == "-":
        raise UnemulatedError(f"avrdude -U {text}")
    return Operation(memory, Task(rest[0]), file, form)

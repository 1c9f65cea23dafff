"""How dfu-util 0.11 reads its command line: ``getopt_long``, and what it makes of numbers and ids.

Its ``--wait`` wants an argument, which it then ignores: the next word is gone. ``-w`` does not.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from vbench.tools.machine import Process, UnemulatedError

__all__ = ["ANY", "IMPOSSIBLE", "ExitCode", "ExitError", "Ids", "Mode", "Words", "read_number", "read_words", "usage"]

_LONG = {
    "help": "h",
    "version": "V",
    "verbose": "v",
    "list": "l",
    "detach": "e",
    "detach-delay": "E",
    "device": "d",
    "path": "p",
    "configuration": "c",
    "cfg": "c",
    "interface": "i",
    "intf": "i",
    "altsetting": "a",
    "alt": "a",
    "serial": "S",
    "transfer-size": "t",
    "upload": "U",
    "upload-size": "Z",
    "download": "D",
    "reset": "R",
    "dfuse-address": "s",
    "devnum": "n",
    "wait": "w",
}
_LONG_WITHOUT = ("help", "version", "verbose", "list", "detach", "reset")
_SHORT_WITH = "EdpciaStUDsZn"
_SHORT_WITHOUT = "hVvleRw"
ANY = -1
IMPOSSIBLE = 0x10000


class ExitCode:
    """Exit codes (sysexits.h) the program uses."""

    USAGE, DATA, NO_INPUT, SOFTWARE, CANNOT_CREATE, IO, PROTOCOL = 64, 65, 66, 70, 73, 74, 76


class ExitError(Exception):
    """The program ends here."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Mode(StrEnum):
    """What it is to do."""

    NONE = "none"
    VERSION = "version"
    LIST = "list"
    DETACH = "detach"
    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(slots=True)
class Ids:
    """Vendor and product wanted, :data:`ANY` for any, :data:`IMPOSSIBLE` for none."""

    vendor: int = ANY
    product: int = ANY

    def fit(self, vendor: int, product: int) -> bool:
        """Whether a device is wanted."""
        return self.vendor in (ANY, vendor) and self.product in (ANY, product)


@dataclass(slots=True)
class Words:
    """A command line that was understood; ``runtime`` ids hold for devices in run-time mode, ``dfu`` ids for those in DFU mode."""

    mode: Mode = Mode.NONE
    runtime: Ids = field(default_factory=Ids)
    dfu: Ids = field(default_factory=Ids)
    path: str | None = None
    device_number: int = ANY
    configuration: int = ANY
    interface: int = ANY
    alternate: int = ANY
    alternate_name: str | None = None
    serial: str | None = None
    serial_dfu: str | None = None
    transfer_bytes: int = 0
    upload_bytes: int = 0
    file: str = ""
    dfuse: str | None = None
    detach_delay_s: int = 5
    is_reset_at_end: bool = False
    is_waiting: bool = False


def read_words(process: Process) -> Words:
    """Return what the command line asks for. Raises ``ExitError``."""
    words = Words()
    left = list(process.words[1:])
    others: list[str] = []
    while left:
        word = left.pop(0)
        if word == "--":
            others += left
            break
        if word.startswith("--"):
            _long(process, words, word[2:], left)
        elif word.startswith("-") and word != "-":
            _short(process, words, word[1:], left)
        else:
            others.append(word)
    if others:
        process.err(f"Error: Unexpected argument: {others[0]}\n\n")
        raise usage(process)
    return words


def read_number(text: str) -> tuple[int, str]:
    """Return a number as ``strtol`` with base 0 reads it, and what comes after it; 0 and all of it where there is none."""
    found = re.match(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", text)
    if found is None:
        return 0, text
    digits = found.group(2).lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    value = int(digits, base)
    return -value if found.group(1) == "-" else value, text[found.end() :]


def usage(process: Process, code: int = ExitCode.USAGE) -> ExitError:
    """Print how the program is used, only its first line; return the error that ends it."""
    process.err("Usage: dfu-util [options] ...\n")
    return ExitError(code)


def _long(process: Process, words: Words, option: str, left: list[str]) -> None:
    name, equals, value = option.partition("=")
    fits = [name] if name in _LONG else [known for known in _LONG if known.startswith(name)]
    program = process.words[0]
    if not fits:
        process.err(f"{program}: unrecognized option '--{option}'\n")
        raise usage(process)
    if len({(_LONG[fit], fit in _LONG_WITHOUT) for fit in fits}) > 1:
        possible = " ".join(f"'--{fit}'" for fit in fits)
        process.err(f"{program}: option '--{option}' is ambiguous; possibilities: {possible}\n")
        raise usage(process)
    name = fits[0]
    if name in _LONG_WITHOUT:
        if equals:
            process.err(f"{program}: option '--{name}' doesn't allow an argument\n")
            raise usage(process)
    elif not equals:
        if not left:
            process.err(f"{program}: option '--{name}' requires an argument\n")
            raise usage(process)
        value = left.pop(0)
    _apply(process, words, _LONG[name], value)


def _short(process: Process, words: Words, letters: str, left: list[str]) -> None:
    program = process.words[0]
    while letters:
        letter, letters = letters[0], letters[1:]
        value = ""
        if letter in _SHORT_WITH:
            if not letters and not left:
                process.err(f"{program}: option requires an argument -- '{letter}'\n")
                raise usage(process)
            value, letters = letters or left.pop(0), ""
        elif letter not in _SHORT_WITHOUT:
            process.err(f"{program}: invalid option -- '{letter}'\n")
            raise usage(process)
        _apply(process, words, letter, value)


_MODES = {"V": Mode.VERSION, "l": Mode.LIST, "e": Mode.DETACH, "U": Mode.UPLOAD, "D": Mode.DOWNLOAD}
_NUMBERS = {
    "E": ("detach_delay_s", "detach-delay"),
    "c": ("configuration", "cfg"),
    "i": ("interface", "intf"),
    "t": ("transfer_bytes", "transfer-size"),
    "Z": ("upload_bytes", "upload-size"),
}


def _apply(process: Process, words: Words, letter: str, value: str) -> None:
    """Take note of an option, in the order of the command line."""
    if letter in _MODES:
        words.mode = _MODES[letter]
        if letter in "UD":
            words.file = value
        return
    if letter in _NUMBERS:
        attribute, name = _NUMBERS[letter]
        setattr(words, attribute, _number(process, name, value))
        return
    _apply_other(process, words, letter, value)


def _apply_other(process: Process, words: Words, letter: str, value: str) -> None:
    match letter:
        case "h":
            raise usage(process, 0)
        case "v":
            raise UnemulatedError("dfu-util -v")
        case "d":
            words.runtime, words.dfu = _ids(value)
        case "p":
            words.path = value
        case "a":
            words.alternate, words.alternate_name = _alternate(value)
        case "n":
            words.device_number = int("0" + "".join(re.findall(r"^\s*\+?(\d+)", value)))
        case "S":
            first, comma, second = value.partition(",")
            words.serial, words.serial_dfu = first or None, (second if comma else first) or None
        case "R":
            words.is_reset_at_end = True
        case "s":
            words.dfuse = value
        case _:
            words.is_waiting = True


def _alternate(text: str) -> tuple[int, str | None]:
    """Return the number of a setting, or its name."""
    value, rest = read_number(text)
    return (ANY, text) if rest else (value, None)


def _number(process: Process, name: str, text: str) -> int:
    value, rest = read_number(text)
    if rest:
        process.err(f"dfu-util: Something went wrong with the argument of --{name}\n\n")
        raise ExitError(ExitCode.USAGE)
    if not text:
        process.err(f"dfu-util: No digits were found from the argument of --{name}\n\n")
        raise ExitError(ExitCode.USAGE)
    return value


def _ids(text: str) -> tuple[Ids, Ids]:
    """Return ids for run-time and for DFU mode. One pair alone says nothing about devices in DFU mode."""
    first, comma, second = text.partition(",")
    runtime, dfu = Ids(), Ids()
    if comma and not first:
        runtime = Ids(IMPOSSIBLE, IMPOSSIBLE)
    else:
        runtime = _pair(first, runtime)
        if comma:
            dfu = Ids(runtime.vendor, runtime.product)
    return runtime, _pair(second, dfu) if comma else dfu


def _pair(text: str, default: Ids) -> Ids:
    vendor, colon, product = text.partition(":")
    return Ids(_id(vendor, default.vendor), _id(product, default.product) if colon else default.product)


def _id(text: str, default: int) -> int:
    if text.startswith("*"):
        return ANY
    if text.startswith("-"):
        return IMPOSSIBLE
    found = re.match(r"\s*\+?(?:0[xX])?([0-9a-fA-F]+)", text)
    return int(found.group(1), 16) if found else default

"""How dfu-programmer reads its command line, by version: what it takes, what it tolerates, what it answers to the rest."""

import re
from dataclasses import dataclass
from enum import StrEnum

from vbench.tools.dfu_programmer_targets import Target, find_target, target_groups
from vbench.tools.machine import Process, UnemulatedError

__all__ = ["Memory", "Words", "read_words"]

_COMMANDS = [
    *(
        "configure",
        "dump",
        "dump-eeprom",
        "dump-user",
        "erase",
        "flash",
        "flash-user",
        "flash-eeprom",
        "get",
        "getfuse",
    ),
    *("setfuse", "setsecure", "reset", "start"),
]
_NUMBERS = [
    *("", "erase", "flash", "flash-user", "flash-eeprom", "configure", "get", "getfuse", "dump", "dump-eeprom"),
    *("dump-user", "setfuse", "setsecure", "start", "reset", "launch", "read"),
]
"""Commands by the number the program has for them, which it lets slip once; 0.6.1 has one more before ``reset``."""
_LATER_COMMANDS = ["read", "launch"]
_CONVERSIONS = ["bin2hex", "hex2bin"]
_FLASHES = ("flash", "flash-eeprom", "flash-user")
_GET = [
    *("bootloader-version", "ID1", "ID2", "BSB", "SBV", "SSB", "EB", "manufacturer", "family", "product-name"),
    *("product-revision", "HSB"),
]
_FUSES = ["LOCK", "EPFL", "BOOTPROT", "BODLEVEL", "BODHYST", "BODEN", "ISP_BOD_EN", "ISP_IO_COND_EN", "ISP_FORCE"]
_CONFIGURATION = ["BSB", "SBV", "SSB", "EB", "HSB"]
_OPTIONS: dict[str, tuple[str, ...]] = {
    "--suppress-validation": ("configure", "erase", *_FLASHES),
}
_LATER_OPTIONS = {
    "--bin": ("read", "dump", "dump-eeprom", "dump-user"),
    "--user": ("read", "dump-user", "flash", "flash-user"),
    "--eeprom": ("read", "dump-user", "flash", "flash-user"),
    "--force": (*_FLASHES, "read", "erase"),
    "--no-reset": ("launch",),
}
_LATEST_OPTIONS = {
    "--validate-first": _FLASHES,
    "--erase-first": ("flash",),
    "--ignore-outside": _FLASHES,
}
_HOMES = {"0.7.2": "https://github.com/dfu-programmer/dfu-programmer", "1.1.0": "https://dfu-programmer.github.io/"}
_COLUMNS = 4
_INTEGER = r"\s*[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)"
_PLACE = re.compile(f"({_INTEGER}),({_INTEGER})")
"""``%i,%i`` of scanf: what comes after the second number is not looked at."""


class Memory(StrEnum):
    """What a command is about."""

    FLASH = "flash"
    EEPROM = "eeprom"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A command line that was understood.

    :param place: bus and address of the device; bus 0 for whichever is found first.
    :param serial: bytes put over the image, and where.
    :param name: what ``get`` and its like are about, as the program spells it.
    """

    version: str
    target: Target
    place: tuple[int, int]
    command: str
    options: frozenset[str]
    memory: Memory
    serial: tuple[int, bytes] | None = None
    file: str = ""
    name: str = ""

    @property
    def is_quiet(self) -> bool:
        """Whether it was told to say little."""
        return "--quiet" in self.options


class _WrongError(Exception):
    """The command line makes no sense; what is to be said about it was said."""


def read_words(process: Process, version: str) -> Words | int:
    """Return what the command line asks for, or the exit code where it ends here."""
    words = process.words
    if len(words) == 2 and (code := _information(process, words[1].lower(), version)) is not None:
        return code
    wrong = 1 if version == "0.6.1" else 2
    if len(words) < 3:
        _basic_help(process, version)
        return wrong
    found = _target(words[1], version)
    if found is None:
        process.err(f"Unsupported target '{words[1]}'.\n")
        _targets(process, version)
        return wrong
    try:
        return _Reader(process, version, found).read()
    except _WrongError:
        _usage(process, version)
        return wrong


class _Reader:
    """Takes options out of the arguments one by one, wherever they stand, then the command's own."""

    def __init__(self, process: Process, version: str, found: tuple[Target, tuple[int, int]]) -> None:
        self._process = process
        self._version = version
        self._target, self._place = found
        self._left = list(process.words[3:])

    def read(self) -> Words:
        """Return the words. Raises ``_WrongError``."""
        known = list(_COMMANDS)
        if self._version != "0.6.1":
            known += _LATER_COMMANDS
        if self._version == "1.1.0":
            known += _CONVERSIONS
        command = _spelt(self._process.words[2], known)
        if command in _CONVERSIONS:
            raise UnemulatedError(f"dfu-programmer {command}")
        options = self._options(command)
        serial = self._serial(command)
        file, name = self._own(command, [word for word in self._left if word])
        memory = Memory.FLASH
        if command in ("flash-eeprom", "dump-eeprom", "dump-user") or "--eeprom" in options:
            memory = Memory.EEPROM  # of dump-user too, from 0.7 on
        elif command == "flash-user" or "--user" in options:
            memory = Memory.USER
        return Words(
            version=self._version,
            target=self._target,
            place=self._place,
            command=command,
            options=options,
            memory=memory,
            serial=serial,
            file=file,
            name=name,
        )

    def _options(self, command: str) -> frozenset[str]:
        given = {name for name in ("--quiet", "--suppress-bootloader-mem") if self._take(name)}
        table = dict(_OPTIONS)
        if self._version != "0.6.1":
            table |= _LATER_OPTIONS
        if self._version == "1.1.0":
            table |= _LATEST_OPTIONS
        for name, commands in table.items():
            if self._take(name):
                if command not in commands:
                    raise _WrongError
                given.add(name)
        if any(word.startswith("--debug") for word in self._left):
            raise UnemulatedError("dfu-programmer --debug")
        return frozenset(given)

    def _take(self, name: str) -> bool:
        """Remove an option where it stands first; a second one is an argument like any other."""
        if name in self._left:
            self._left[self._left.index(name)] = ""
            return True
        return False

    def _serial(self, command: str) -> tuple[int, bytes] | None:
        word = next((word for word in self._left if word.startswith("--serial=")), None)
        if word is None:
            return None
        self._left[self._left.index(word)] = ""
        if command not in _FLASHES:
            mine = _NUMBERS.index(command) + (command == "reset" and self._version == "0.6.1")
            self._process.err(f"command did not match: {mine}    flash: {_NUMBERS.index('flash')}\n")
            raise _WrongError
        digits, colon, offset = word.removeprefix("--serial=").partition(":")
        if other := re.search("[^0-9a-fA-F]", digits):
            self._process.err(f"other character: '{other.group()}'\n")
            raise _WrongError
        if not colon:
            raise _WrongError
        if len(digits) % 2:
            self._process.err("There must be an even number of hexdigits in the serial data\n")
            raise _WrongError
        number = re.match(r"\s*[+-]?\d+", offset)
        if number is None:
            self._process.err("sscanf failed\n")
            raise _WrongError
        self._process.err("Success getting serial number\n")
        return int(number.group()), bytes.fromhex(digits)

    def _own(self, command: str, left: list[str]) -> tuple[str, str]:
        """Return file and name; where nothing at all is given, what is missing is the first of its kind."""
        if command in _FLASHES:
            if not left:
                self._process.err("flash filename is missing\n")
            _demand(len(left) == 1)
            return left[0], ""
        if command in ("get", "getfuse"):
            _demand(len(left) <= 1)
            names = _GET if command == "get" else _FUSES
            return "", _spelt(left[0], names) if left else names[0]
        if command in ("configure", "setfuse") and left:
            _demand(len(left) == 2)
            _spelt(left[0], _CONFIGURATION if command == "configure" else _FUSES)
            _demand(re.match(_INTEGER, left[1]) is not None and not left[1].lstrip().startswith("-"))
            return "", ""
        _demand(not left)
        return "", ""


def _demand(is_so: bool) -> None:
    """Raise ``_WrongError`` where something is not so."""
    if not is_so:
        raise _WrongError


def _spelt(word: str, names: list[str]) -> str:
    """Return a name as the program spells it. Raises ``_WrongError``."""
    spelt = next((name for name in names if name.lower() == word.lower()), None)
    if spelt is None:
        raise _WrongError
    return spelt


def _target(word: str, version: str) -> tuple[Target, tuple[int, int]] | None:
    """Return the chip and its device's bus and address (0, 0 for any), None for what is neither."""
    name, colon, place = word.partition(":")
    target = find_target(name, version)
    if target is None or not colon:
        return None if target is None else (target, (0, 0))
    numbers = _PLACE.match(place)
    if numbers is None:
        return None
    bus, address = (_integer(number) for number in numbers.groups())
    least = 0 if version == "1.1.0" else 1
    return (target, (bus, address)) if bus > 0 and address >= least else None


def _integer(text: str) -> int:
    """Return a number as ``%i`` reads it: 0x is hexadecimal, a leading 0 octal."""
    digits = text.strip().lower()
    base = 16 if "0x" in digits else 8 if digits.lstrip("+-").startswith("0") else 10
    return int(digits, base)


def _information(process: Process, word: str, version: str) -> int | None:
    """Answer what needs no device; return the exit code, None where it is nothing of the kind."""
    failed = 1 if version == "0.6.1" else 0
    helps = ("--help",) if version == "0.6.1" else ("--help", "-h", "--h")
    if word == "--version":
        process.err(f"dfu-programmer {version}\n")
    elif word == "--targets":
        _targets(process, version)
    elif word in helps:
        _usage(process, version)
    else:
        return None
    return failed


def _banner(process: Process, version: str) -> None:
    if version != "0.6.1":
        process.err(f"dfu-programmer {version}\n{_HOMES[version]}\n")


def _basic_help(process: Process, version: str) -> None:
    _banner(process, version)
    process.err("Type 'dfu-programmer --help'    for a list of commands\n")
    process.err("     'dfu-programmer --targets' to list supported target devices\n")
    if version == "0.6.1":
        process.err("     'dfu-programmer --version' to show version information\n")


def _usage(process: Process, version: str) -> None:
    """Print how the program is used; only the line that everybody looks for."""
    _banner(process, version)
    process.err("Usage: dfu-programmer target[:usb-bus,usb-addr] command [options] [global-options] [file|data]\n\n")


def _targets(process: Process, version: str) -> None:
    groups = target_groups(version)
    if version == "0.6.1":
        process.err("targets:\n" + _table([name for _, names in groups for name in names]))
        return
    for family, names in groups:
        process.out(f"{family} based controllers:\n" + _table(names))


def _table(names: list[str]) -> str:
    rows = (names[start : start + _COLUMNS] for start in range(0, len(names), _COLUMNS))
    return "".join(" " + "".join(f"   {name:<16}" for name in row) + "\n" for row in rows)

"""Files from this machine, to be sent to the daemon: it never opens a path of ours."""

import base64
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from ispctl.errors import RefusedFileError

__all__ = ["attach", "attach_image", "attach_recipe", "write_output"]

MAX_FILE_BYTES = 1 << 20  # what the daemon's image gate takes; more would only be carried there to be refused
MAX_RECIPE_BYTES = 1 << 16  # what the daemon takes as a recipe
MAX_RECIPE_LINE_BYTES = 2000  # likewise; reading a key of n dots costs n * n
MAX_RECIPE_FILES = 16  # likewise


def attach(path: Path) -> dict[str, str]:
    """Return a file as the API takes it. Raises ``RefusedFileError``."""
    return {"name": path.name, "content": base64.b64encode(_read(path)).decode("ascii")}


def attach_image(path: Path) -> dict[str, Any]:
    """Return an image file as the API takes it; ``board.bin@0x7000`` is the file ``board.bin`` with a byte address.

    Raises ``RefusedFileError``.
    """
    name, separator, address = path.name.rpartition("@")
    if not separator or not name or path.exists():
        return dict(attach(path))
    try:
        base = int(address, 0)
    except ValueError:
        raise RefusedFileError(f"{path}: {address!r} is not an address like 0x7000") from None
    return {**attach(path.with_name(name)), "base": base}


def attach_recipe(path: Path) -> dict[str, Any]:
    """Return a recipe with the files it names, which stand relative to it.

    What is wrong with the recipe itself is for the daemon to say. Raises ``RefusedFileError`` for files.
    """
    content = _read(path)
    names = _names(content)
    if len(names) > MAX_RECIPE_FILES:
        raise RefusedFileError(f"{path} names {len(names)} files, more than the {MAX_RECIPE_FILES} that are taken")
    files = [{"name": name, "content": base64.b64encode(_read(path.parent / name)).decode("ascii")} for name in names]
    return {"name": path.name, "content": base64.b64encode(content).decode("ascii"), "files": files}


def write_output(path: Path, content: bytes) -> None:
    """Write a result, whole or not at all; what is there and is no file is left alone. Raises ``RefusedFileError``."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _refuse_special(path)
        draft.unlink(missing_ok=True)
        # exclusive: a link that was planted under this name, in a folder of many users, is not followed
        with draft.open("xb") as file:
            file.write(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RefusedFileError(f"{path} can not be written: {error.strerror}") from error


def _refuse_special(path: Path) -> None:
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise RefusedFileError(f"{path} can not be written: it is {_kind(mode)}")


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file of bearable size; never waits, as reading a pipe would.

    It looks before it opens: opening alone resets the board behind a serial port, and starts a watchdog.
    """
    try:
        _check_kind(path, path.stat().st_mode)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            _check_kind(path, facts.st_mode)  # it may have been exchanged meanwhile
            content = _all(handle)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RefusedFileError(f"{path} can not be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise RefusedFileError(
            f"{path} has {facts.st_size} bytes, more than the {MAX_FILE_BYTES} that are taken",
            hint="is this the firmware file? the hex of the largest part is smaller",
        )
    return content


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise RefusedFileError(f"{path} is not a file but {_kind(mode)}", hint="name the .hex or .bin file")


def _all(handle: int) -> bytes:
    """Return the whole file, or as much as shows that it is too large."""
    with open(handle, "rb", closefd=False) as file:
        return file.read(MAX_FILE_BYTES + 1)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _names(content: bytes) -> list[str]:
    """Return the files a recipe names: ``image[].file`` and ``eeprom.file``; none where it can not be read."""
    import tomllib  # only for recipes: keeps the quick verbs quick

    if len(content) > MAX_RECIPE_BYTES or any(len(line) > MAX_RECIPE_LINE_BYTES for line in content.splitlines()):
        return []
    try:
        recipe = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return []
    images = recipe.get("image")
    tables = [*(images if isinstance(images, list) else []), recipe.get("eeprom")]
    named = [table.get("file") for table in tables if isinstance(table, dict)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))

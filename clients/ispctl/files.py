"""Files from this machine, to be sent to the daemon: it never opens a path of ours."""

import base64
import os
import stat
from pathlib import Path
from typing import Any

from ispctl.errors import RefusedFileError

__all__ = ["attach", "attach_image", "attach_recipe", "write_output"]

MAX_FILE_BYTES = 1 << 20  # what the daemon's image gate takes; more would only be carried there to be refused


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
    files = [
        {"name": name, "content": base64.b64encode(_read(path.parent / name)).decode("ascii")}
        for name in _names(content)
    ]
    return {"name": path.name, "content": base64.b64encode(content).decode("ascii"), "files": files}


def write_output(path: Path, content: bytes) -> None:
    """Write a result, whole or not at all. Raises ``RefusedFileError``."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RefusedFileError(f"{path} can not be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file of bearable size; never waits, as reading a FIFO would."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            content = _all(handle) if stat.S_ISREG(facts.st_mode) else None
        finally:
            os.close(handle)
    except OSError as error:
        raise RefusedFileError(f"{path} can not be read: {error.strerror}") from error
    if content is None:
        raise RefusedFileError(f"{path} is not a file but {_kind(facts.st_mode)}", hint="name the .hex or .bin file")
    if len(content) > MAX_FILE_BYTES:
        raise RefusedFileError(
            f"{path} has {facts.st_size} bytes, more than the {MAX_FILE_BYTES} that are taken",
            hint="is this the firmware file? the hex of the largest part is smaller",
        )
    return content


def _all(handle: int) -> bytes:
    """Return the whole file, or as much as shows that it is too large."""
    with open(handle, "rb", closefd=False) as file:
        return file.read(MAX_FILE_BYTES + 1)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _names(content: bytes) -> list[str]:
    """Return the files a recipe names: ``image[].file`` and ``eeprom.file``; none where it can not be read."""
    import tomllib  # only for recipes: keeps the quick verbs quick

    try:
        recipe = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []
    images = recipe.get("image")
    tables = [*(images if isinstance(images, list) else []), recipe.get("eeprom")]
    named = [table.get("file") for table in tables if isinstance(table, dict)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))

"""Reading the catalog's TOML files strictly: unknown keys, wrong types and failed checks name the file."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import msgspec

from ispd.errors import ConfigError

__all__ = ["decode_toml", "named_files", "shipped_file"]

T = TypeVar("T")


def decode_toml(name: str, content: bytes, shape: type[T]) -> T:
    """Decode a TOML document into ``shape``, refusing keys it does not know. Raises ``ConfigError`` naming the file."""
    try:
        return msgspec.convert(tomllib.loads(content.decode("utf-8")), shape)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"catalog file {name}: {error}") from error


def shipped_file(name: str) -> bytes:
    """Return one data file of this package."""
    return (files("ispd.catalog") / name).read_bytes()


def named_files(folder: str, overlay: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield (stem, content) of each TOML file of a shipped folder, then of ``overlay``; a later stem replaces an earlier."""
    for entry in (files("ispd.catalog") / folder).iterdir():
        if entry.name.endswith(".toml"):
            yield entry.name.removesuffix(".toml"), entry.read_bytes()
    if overlay is not None:
        try:
            for path in sorted(overlay.iterdir()):
                if path.suffix == ".toml":
                    yield path.stem, path.read_bytes()
        except OSError as error:
            raise ConfigError(f"catalog folder {overlay} cannot be read: {error.strerror}") from error

"""Verbs of the catalog: parts, bootloaders, fuses, inspect, merge."""

import base64
from pathlib import Path

import click

from ispctl.files import attach_image, write_output
from ispctl.hexfile import check_ending
from ispctl.show_catalog import show_bootloaders, show_image, show_part, show_parts
from ispctl.verb import ApiOption, Settings, api_verb, option_bytes, parse_byte, parse_option_byte

__all__ = ["CATALOG_VERBS"]

_FILE = click.Path(path_type=Path)
_PART = click.option("--part", cls=ApiOption, metavar="PART")
_BOOTLOADER = click.option("--bootloader", cls=ApiOption, metavar="ID")


@api_verb("part.list")
@click.pass_obj
def parts(settings: Settings) -> None:
    """Call ``part.list``."""
    with settings.connect() as client:
        settings.show(client.call("part.list"), show_parts)


@api_verb("bootloader.list")
@click.pass_obj
def bootloaders(settings: Settings) -> None:
    """Call ``bootloader.list``."""
    with settings.connect() as client:
        settings.show(client.call("bootloader.list"), show_bootloaders)


@api_verb("part.get")
@click.argument("part")
@click.option("--lfuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--hfuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--efuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--lock", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option(
    "--option-byte", cls=ApiOption, field="option_bytes", type=parse_option_byte, multiple=True, metavar="NAME=0xNN"
)
@_BOOTLOADER
@click.pass_obj
def fuses(
    settings: Settings, /, part: str, option_byte: tuple[tuple[str, int], ...], **given: int | str | None
) -> None:
    """Call ``part.get``."""
    params = {**given, "option_bytes": option_bytes(option_byte)}
    with settings.connect() as client:
        settings.show(client.call("part.get", id=part, **params), show_part)


@api_verb("image.inspect")
@click.argument("image", type=_FILE, metavar="IMAGE[@ADDRESS]")
@_PART
@click.option("--memory", cls=ApiOption, type=click.Choice(["flash", "eeprom"]))
@click.pass_obj
def inspect(settings: Settings, image: Path, part: str | None, memory: str | None) -> None:
    """Call ``image.inspect``."""
    attached = attach_image(image)
    with settings.connect() as client:
        settings.show(client.call("image.inspect", image=attached, part=part, memory=memory), show_image)


@api_verb("image.merge")
@click.argument("images", nargs=-1, required=True, type=_FILE, metavar="A B..")
@click.option("-o", "--output", type=_FILE, required=True, metavar="OUT", help="Intel HEX file to write (.hex)")
@_PART
@click.option("--strip-sketch", cls=ApiOption, is_flag=True)
@click.pass_obj
def merge(settings: Settings, images: tuple[Path, ...], output: Path, part: str | None, strip_sketch: bool) -> None:
    """Call ``image.merge``."""
    if len(images) < 2:
        raise click.UsageError("name at least two files to join")
    check_ending(output, raw=False)
    attached = [attach_image(image) for image in images]
    with settings.connect() as client:
        merged = client.call("image.merge", images=attached, part=part, strip_sketch=strip_sketch)
    write_output(output, base64.b64decode(merged["content"]))
    settings.show(merged, lambda result: f"{output} written\n{show_image({**result['report'], 'name': output.name})}")


CATALOG_VERBS = (parts, bootloaders, fuses, inspect, merge)

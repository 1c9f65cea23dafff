"""Verbs of the station: slots, slot, programmers, watch, probe, read, doctor."""

import base64
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ispctl.client import Client
from ispctl.files import write_output
from ispctl.hexfile import check_ending, encode_for, intel_hex
from ispctl.show import show_probe, show_programmers, show_slot, show_slots
from ispctl.text import byte, is_device_id
from ispctl.verb import OneOf, Settings, Verb, api_verb, print_json_line, put

__all__ = ["STATION_VERBS"]

_SLOT = click.argument("slot")
_ACTIONS = ("enable", "disable", "identify", "learn")
_FEW_BYTES = 16


def _memories() -> Iterable[str]:
    from ispd.model.part import MemoryKind  # only for this verb: keeps the others quick

    return MemoryKind


@api_verb("slot.list")
@click.pass_obj
def slots(settings: Settings) -> None:
    """Call ``slot.list``."""
    with settings.connect() as client:
        settings.show(client.call("slot.list"), show_slots)


@click.command(cls=Verb, methods=("slot.get", "slot.set", "slot.learn"))
@_SLOT
@click.argument("action", required=False, type=click.Choice(_ACTIONS))
@click.pass_obj
def slot(settings: Settings, slot: str, action: str | None) -> None:
    """Show one slot, or do something to it.

    enable, disable: whether it takes boards; a disabled one lets go of its programmer, for other programs. identify: its programmer
    shows itself. learn: finds the USB port of this slot's board, by holding a running board in reset and looking which port goes quiet.
    """
    with settings.connect() as client:
        match action:
            case None:
                answer = client.call("slot.get", name=slot)
            case "learn":
                answer = client.call("slot.learn", name=slot)
            case _:
                answer = client.call("slot.set", name=slot, action=action)
    settings.show(answer, show_slot)


@api_verb("programmer.list")
@click.pass_obj
def programmers(settings: Settings) -> None:
    """Call ``programmer.list``."""
    with settings.connect() as client:
        settings.show(client.call("programmer.list"), show_programmers)


@click.command(cls=Verb, methods=("events.subscribe", "slot.list"))
@click.pass_obj
def watch(settings: Settings) -> None:
    """Show the slots live; where the output is no terminal, print each event as a line of JSON."""
    if settings.json or not sys.stdout.isatty():
        with settings.connect() as client:
            client.call("events.subscribe")
            for event in client.events():
                if not print_json_line(event):
                    return
    else:
        from ispctl.board import show_board  # loads rich, which only a terminal needs

        show_board(settings)


@api_verb("slot.probe", "part.get")
@_SLOT
@click.pass_obj
def probe(settings: Settings, slot: str) -> int:
    """Call ``slot.probe``."""
    with settings.connect() as client:
        answer = client.call("slot.probe", name=slot)
        notes = {} if settings.json else _lines_of(client, answer)
    settings.show(answer, lambda found: show_probe(found, notes))
    return 0 if answer["failure"] is None else 1


def _lines_of(client: Client, answer: dict[str, Any]) -> dict[str, str]:
    """Return of which line of chips an STM32 is, by its part: an id stands for all of that line."""
    parts = answer["parts"] if is_device_id(answer["signature"]) else ()
    return {part: client.call("part.get", id=part)["part"]["note"].partition(";")[0] for part in parts}


@api_verb("slot.read")
@_SLOT
@click.argument("memory", type=OneOf(_memories))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Intel HEX (.hex) or raw bytes (.bin)"
)
@click.pass_obj
def read(settings: Settings, slot: str, memory: str, output: Path | None) -> None:
    """Call ``slot.read``."""
    if output is not None:
        check_ending(output)
    with settings.connect() as client:
        dump = client.call("slot.read", name=slot, memory=memory)
    content, start = base64.b64decode(dump["content"]), dump["start"]
    if output is not None:
        write_output(output, encode_for(output, content, start))
    if settings.json or output is None:
        settings.show(dump, lambda _: _text(content, start))
    else:
        put(f"{len(content)} bytes of {memory} in {output}")


def _text(content: bytes, start: int) -> str:
    if len(content) <= _FEW_BYTES:
        return " ".join(str(byte(value)) for value in content)
    return intel_hex(content, start).rstrip("\n")


@click.command(cls=Verb, methods=())
@click.pass_obj
def doctor(settings: Settings) -> int:
    """Look for what keeps programmers from working, and name the cure.

    The daemon and its socket, udev rules, permissions, other programs on a port, lost ports, crowded hubs, old tools.
    Ends with 1 where something certainly will not work. As root it sees more: who holds a port, and the kernel's log.
    """
    from ispctl.doctor import Machine, examine, show_findings  # rarely needed

    findings = examine(Machine(), settings.socket)
    as_json: list[dict[str, Any]] = [finding.as_json() for finding in findings]
    settings.show(as_json, lambda _: show_findings(findings))
    return 1 if any(finding.is_bad for finding in findings) else 0


STATION_VERBS = (slots, slot, programmers, watch, probe, read, doctor)

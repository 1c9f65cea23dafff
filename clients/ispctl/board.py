"""The live board of slots on a terminal."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ispctl.client import Client
from ispctl.errors import NoDaemonError
from ispctl.text import printable
from ispctl.verb import Settings

__all__ = ["show_board"]

_PER_SECOND = 8
_RETRY_S = 0.5
_STYLES = {
    "busy": "cyan",
    "passed": "bold green",
    "failed": "bold red",
    "quarantined": "bold red",
    "waiting": "yellow",
    "disabled": "dim",
    "vacant": "dim",
}


def show_board(settings: Settings) -> None:
    """Show all slots until interrupted; a daemon that restarts is found again. Raises ``NoDaemonError`` at the start."""
    client = settings.connect()
    with suppress(KeyboardInterrupt), Live(console=Console(), refresh_per_second=_PER_SECOND) as live:
        while True:
            try:
                with client:
                    _follow(client, live)
            except NoDaemonError:
                live.update(Text("ispd went away; waiting for it", style="yellow"))
                client = _reconnect(settings)


def _follow(client: Client, live: Live) -> None:
    client.call("events.subscribe")
    while True:
        slots = {slot["name"]: slot for slot in client.call("slot.list")}
        live.update(draw(slots))
        while (event := client.next_event(None)) is None or event["kind"] != "resync":
            if event is not None and event["kind"] == "slot":
                slots[event["slot"]["name"]] = event["slot"]
                live.update(draw(slots))


def _reconnect(settings: Settings) -> Client:
    while True:
        time.sleep(_RETRY_S)
        try:
            return settings.connect()
        except NoDaemonError:
            continue


def draw(slots: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the board: one row per slot, what it does, how far it is, and what to do about a failure."""
    table = Table(expand=True)
    for heading in ("slot", "state", "part", "doing", "progress", "passed", "failed"):
        table.add_column(heading, no_wrap=heading != "doing", min_width=_least_width(heading, slots))
    for name in sorted(slots):
        slot = slots[name]
        table.add_row(
            Text(printable(name)),
            Text(slot["state"], style=_STYLES.get(slot["state"], "")),
            Text(slot["part"] or "-"),
            Text(_doing(slot)),
            ProgressBar(total=1.0, completed=slot["progress"], width=20),
            str(slot["passed"]),
            str(slot["failed"]),
        )
    return table


def _least_width(heading: str, slots: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Names must stay whole on a narrow terminal: they are what a person acts on."""
    return max(map(len, (heading, *slots))) if heading == "slot" else None


def _doing(slot: Mapping[str, Any]) -> str:
    failure = slot["failure"]
    if failure is not None:
        return printable(f"{failure['message']}: {failure['hint']}" if failure["hint"] else failure["message"])
    return printable(slot["step"] or slot["note"] or "")

"""``python -m vbench``: emulated programmers on pseudo-terminals, until SIGTERM or Ctrl-C."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click
import msgspec

from ispd.catalog.parts import Parts, load_parts
from ispd.errors import ConfigError, IspdError
from ispd.transport.contract import PortKind
from vbench.benchfile import BenchFile, EventTable, ProgrammerKind, ProgrammerTable, read_bench
from vbench.bus_pirate import BusPirateHardware
from vbench.bus_pirate_firmware import FIRMWARES
from vbench.emulated import EmulatedSerial
from vbench.line import Flavour
from vbench.pty_board import PtyBoard, PtyServer
from vbench.target import AvrTarget

__all__ = ["main"]

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class _Bench:
    """Boards by name on one server, and the links that give their terminals lasting names."""

    def __init__(self, described: BenchFile, parts: Parts, server: PtyServer, links: Path | None) -> None:
        self.server = server
        self.links = links
        self.boards = {table.name: PtyBoard(_serial(table, parts), server=server) for table in described.programmer}
        for table in described.programmer:
            if table.plugged:
                self.plug(table.name)
        for event in described.event:
            target = event.board.build(parts) if event.board is not None and event.subject in self.boards else None
            server.at(event.at, partial(self.happen, event, target))

    def plug(self, name: str) -> None:
        board = self.boards[name]
        board.plug()
        if self.links is not None:
            link = self.links / name
            link.unlink(missing_ok=True)
            link.symlink_to(board.path)

    def unplug(self, name: str) -> None:
        self.boards[name].unplug()
        if self.links is not None:
            (self.links / name).unlink(missing_ok=True)

    def happen(self, event: EventTable, target: AvrTarget | None) -> None:
        if event.plug is not None:
            self.plug(event.plug)
        elif event.unplug is not None:
            self.unplug(event.unplug)
        elif event.subject in self.boards and event.press is None:  # boards' own USB ports do not exist here
            board = self.boards[event.subject]
            if board.target is not None:
                board.remove()
            if target is not None:
                board.insert(target)

    def close(self, dump: Path | None) -> None:
        with self.server.lock:
            for name in self.boards:
                self.unplug(name)
            if dump is not None:
                for name, board in self.boards.items():
                    _dump(dump, name, board)


def _serial(table: ProgrammerTable, parts: Parts) -> EmulatedSerial:
    programmer = table.build(parts)
    if programmer.port_kind is not PortKind.SERIAL:
        raise ConfigError(f"{table.name} is a USB device: it has no terminal")
    return programmer


def _dump(folder: Path, name: str, board: PtyBoard) -> None:
    """Write the cells of a board, and what the host did wrong to it."""
    target = board.target
    if target is None:
        return
    (folder / f"{name}.flash.bin").write_bytes(target.flash)
    (folder / f"{name}.eeprom.bin").write_bytes(target.eeprom)
    lines = [f"part {target.part.id}", f"erased {target.erase_count}"]
    lines += [f"{memory} 0x{value:02X}" for memory, value in target.fuses.items()]
    lines += [f"lock 0x{target.lock:02X}", f"lost_bytes {board.programmer.lost}"]
    lines += [f"violation {violation}" for violation in target.violations]
    (folder / f"{name}.state.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _alike(count: int, table: ProgrammerTable) -> BenchFile:
    """Describe a bench of equal programmers, numbered from 1."""
    names = [f"{table.name}{number}" for number in range(1, count + 1)]
    return BenchFile(programmer=[msgspec.structs.replace(table, name=name) for name in names])


def _table(kind: ProgrammerKind, part: str, options: Mapping[str, str | int | None]) -> ProgrammerTable:
    """Describe one programmer; an ArduinoISP sits on a plain line without reset, as a pseudo-terminal has it."""
    usual: dict[str, object] = {}
    if kind is ProgrammerKind.STK500V1:
        usual = {"flavour": Flavour.UART, "auto_reset": False}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return msgspec.convert({"name": "P", "kind": kind, "board": {"part": part}, **usual, **given}, ProgrammerTable)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _signals_kept() -> Iterator[Callable[[], object]]:
    """Hold the stopping signals back, in threads started meanwhile too; yields a call that waits for one."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield partial(signal.sigwait, _STOPPING)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


@click.command()
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A bench.toml to serve.")
@click.option("--boards", type=click.IntRange(1, 256), default=1, show_default=True, help="How many, without a file.")
@click.option("--part", default="atmega32u4", show_default=True, help="AvrPart on each board, without a file.")
@click.option(
    "--kind",
    type=click.Choice([ProgrammerKind.STK500V1.value, ProgrammerKind.BUSPIRATE.value]),
    default=ProgrammerKind.STK500V1.value,
    show_default=True,
    help="What each is, without a file.",
)
@click.option("--flavour", type=click.Choice([flavour.value for flavour in Flavour]), help="Line of an ArduinoISP.")
@click.option("--baud", type=int, help="Rate of an ArduinoISP.")
@click.option(
    "--hardware", type=click.Choice([hardware.value for hardware in BusPirateHardware]), help="Which Bus Pirate."
)
@click.option("--firmware", type=click.Choice(list(FIRMWARES)), help="What a Bus Pirate runs.")
@click.option("--time-scale", type=click.FloatRange(0, min_open=True), help="Bench seconds per second.")
@click.option(
    "--links", type=click.Path(file_okay=False, path_type=Path), help="Make a link to each terminal in this folder."
)
@click.option(
    "--dump", type=click.Path(file_okay=False, path_type=Path), help="Write all cells to this folder at the end."
)
def main(
    *,
    file: Path | None,
    boards: int,
    part: str,
    kind: str,
    time_scale: float | None,
    links: Path | None,
    dump: Path | None,
    **options: str | int | None,
) -> None:
    """Serve emulated ISP programmers on pseudo-terminals until SIGTERM.

    Prints one line for each: name, path of the terminal. With a file its timed events run too.
    """
    try:
        parts = load_parts()
        without_file = _table(ProgrammerKind(kind), part, options)
        described = _alike(boards, without_file) if file is None else read_bench(file, parts)
        for folder in filter(None, (links, dump)):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stopped = stack.enter_context(_signals_kept())
            server = stack.enter_context(PtyServer(time_scale=time_scale or described.time_scale))
            with server.lock:  # no event happens before everybody knows the paths
                bench = _Bench(described, parts, server, links)
                for name, board in bench.boards.items():
                    click.echo(f"{name} {board.path or '-'}")
                sys.stdout.flush()
            stopped()
            bench.close(dump)
    except IspdError as error:
        raise click.UsageError(error.message) from error


if __name__ == "__main__":
    main(prog_name="python -m vbench")

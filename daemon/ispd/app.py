"""Composition root: builds everything once, runs it in one task group, and takes it down in order."""

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Protocol, cast

import anyio
import structlog

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain.registry import load_tools
from ispd.config import Config
from ispd.errors import ConfigError
from ispd.model import station as model
from ispd.programmers.registry import Driver, load_drivers
from ispd.service import ServiceManager, inherited_socket
from ispd.station.journal import Journal
from ispd.station.station import Knowledge, Station
from ispd.station.worker import ThreadWorker
from ispd.surfaces.dbus import Bus, serve_dbus
from ispd.surfaces.jsonrpc import serve_jsonrpc
from ispd.transport.clock import Clock, SystemClock, timestamp
from ispd.transport.contract import Hardware

__all__ = ["feed_watchdog", "run_daemon", "station_of"]

log = structlog.get_logger()

_FEEDS = 3
"""How often the watchdog is fed within its patience."""


async def run_daemon(config: Config) -> None:
    """Run until SIGTERM or SIGINT. The socket appears only when everything else is ready.

    :raises IspdError: the station cannot be started (bad slot, state directory in use ..); nothing was touched.
    """
    manager = ServiceManager()
    async with (
        open_hardware(config) as hardware,
        station_of(config, hardware, SystemClock()) as station,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_stop_on_signal, station, tasks.cancel_scope, manager)
        await tasks.start(station.run)
        if config.bus is not Bus.OFF:
            await tasks.start(serve_dbus, config.bus, station)
        await tasks.start(serve_jsonrpc, inherited_socket() or config.socket, station)
        manager.ready()
        tasks.start_soon(feed_watchdog, station, manager)
        log.info("ready", socket=str(config.socket), slots=len(station.slots()))
    log.info("stopped")


@asynccontextmanager
async def station_of(config: Config, hardware: Hardware, clock: Clock) -> AsyncIterator[Station]:
    """Build the station with its journal; the journal is closed afterwards."""
    drivers = load_drivers()
    _check_slots(config, drivers)
    parts = load_parts(config.parts)
    bootloaders = load_bootloaders(parts, config.bootloaders)
    started = timestamp(clock)
    journal = await Journal.open(config.state_dir / "journal.db", ThreadWorker(), now=started)
    try:
        yield Station(
            hardware,
            journal,
            knowledge=Knowledge(parts=parts, bootloaders=bootloaders, drivers=drivers, tools=load_tools()),
            clock=clock,
            specs=config.slots,
            watch_hotplug=config.watch_udev,
            about=model.Station(
                version=version("ispd"),
                started=started,
                socket=str(config.socket),
                state_dir=str(config.state_dir),
                bench=config.bench is not None,
            ),
        )
    finally:
        with anyio.CancelScope(shield=True):
            await journal.aclose()


@asynccontextmanager
async def open_hardware(config: Config) -> AsyncIterator[Hardware]:
    """Open the machine's own ports, or the virtual bench where the configuration names one.

    Both are found by entry point, so that the daemon never imports the bench.
    """
    name = "real" if config.bench is None else "bench"
    found = entry_points(group="ispd.hardware", name=name)
    if not found:
        raise ConfigError(f"no hardware called {name} is installed", hint="install ispd again with all its packages")
    opener = next(iter(found)).load()
    opened = opener() if config.bench is None else opener(_existing(config.bench))
    async with cast("AbstractAsyncContextManager[Hardware]", opened) as hardware:
        yield hardware


def _existing(bench: Path) -> Path:
    if not bench.is_file():
        raise ConfigError(f"the bench file {bench} does not exist", hint="paths are relative to the configuration file")
    return bench


def _check_slots(config: Config, drivers: Mapping[str, Driver]) -> None:
    for spec in config.slots:
        if spec.programmer is not None and spec.programmer not in drivers:
            raise ConfigError(
                f"slot {spec.name}: there is no programmer {spec.programmer!r}",
                hint=f"known programmers: {', '.join(sorted(drivers))}",
            )


class Progress(Protocol):
    """What the watchdog asks of the station."""

    async def is_making_progress(self) -> bool:
        """Tell whether everything that must go on goes on; not returning is an answer too."""


async def feed_watchdog(station: Progress, manager: ServiceManager) -> None:
    """Tell the service manager that all is well, but only while it is: loop, journal and hotplug make progress."""
    if manager.watchdog_s is None:
        return
    while True:
        if await station.is_making_progress():
            manager.alive()
        await anyio.sleep(manager.watchdog_s / _FEEDS)


async def _stop_on_signal(station: Station, scope: anyio.CancelScope, manager: ServiceManager) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            manager.stopping()
            log.info("stopping", signal=signal.Signals(number).name)
            await station.stop()
            scope.cancel()

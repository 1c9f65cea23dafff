"""Follows what comes to the machine's USB and what leaves it, and tells the slots that it concerns."""

from collections.abc import Callable, Mapping

import anyio
from anyio.abc import TaskGroup

from ispd.catalog.bootloaders import Bootloaders
from ispd.programmers.registry import Driver
from ispd.station.floor import Floor
from ispd.station.hotplug import Role, meaning_of, own_bootloaders
from ispd.station.slot_runner import SlotRunner
from ispd.station.spec import SlotSpec
from ispd.transport.contract import PortChange, PortEvent

__all__ = ["PortWatch"]


class PortWatch:
    """One watch for all slots.

    :param runners: the slots there are now.
    :param add: makes a slot for a programmer that came to a place without one, and begins its work; None where only
        configured slots count.
    """

    def __init__(
        self,
        floor: Floor,
        runners: Mapping[str, SlotRunner],
        drivers: Mapping[str, Driver],
        bootloaders: Bootloaders,
        *,
        add: Callable[[SlotSpec], SlotRunner] | None,
    ) -> None:
        self._floor = floor
        self._runners = runners
        self._drivers = drivers
        self._loaders = own_bootloaders(bootloaders)
        self._add = add
        self._scope = anyio.CancelScope()
        self._turned_at = floor.clock.monotonic()

    async def run(self, tasks: TaskGroup) -> None:
        """Follow until :meth:`stop`; what takes time runs in ``tasks``."""
        with self._scope:
            async with self._floor.hardware.hotplug(self.turned) as changes:
                async for change in changes:
                    self._note(change, tasks)

    def stop(self) -> None:
        """End the watch."""
        self._scope.cancel()

    def turned(self) -> None:
        """Take note that the watch came round."""
        self._turned_at = self._floor.clock.monotonic()

    @property
    def silent_s(self) -> float:
        """How long ago it came round."""
        return self._floor.clock.monotonic() - self._turned_at

    def _note(self, change: PortEvent, tasks: TaskGroup) -> None:
        """Act on an event without waiting: closing what hangs would hold up what all other slots are to hear."""
        self._floor.tree.note(change)
        for runner in self._runners.values():
            if runner.spec.target_usb == change.place:
                runner.board_changed()
        if change.change is PortChange.REMOVED:
            self._port_gone(change, tasks)
            return
        known = [runner.spec for runner in self._runners.values()]
        meaning = meaning_of(change, known, self._drivers, self._loaders)
        if meaning.spec is None:
            return
        match meaning.role:
            case Role.PROGRAMMER:
                self._programmer_came(meaning.spec, change)
            case Role.BOOTLOADER:
                runner = self._runners[meaning.spec.name]
                runner.in_bootloader(change, self._loaders[str(change.usb)])
                tasks.start_soon(runner.host.drop)

    def _port_gone(self, change: PortEvent, tasks: TaskGroup) -> None:
        for runner in self._runners.values():
            if runner.host.holds(change):
                gone = runner.host.describe()
                runner.unplugged()
                tasks.start_soon(runner.host.drop)
                if gone is not None:
                    self._floor.events.publish(gone)
                return

    def _programmer_came(self, spec: SlotSpec, event: PortEvent) -> None:
        runner = self._runners.get(spec.name)
        if runner is None:
            if self._add is None:
                return
            runner = self._add(spec)
        runner.plugged(event)
        programmer = runner.host.describe()
        if programmer is not None:
            self._floor.events.publish(programmer)

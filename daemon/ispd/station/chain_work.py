"""One slot at a job that needs no ISP: bootloaders that show up on the slot's USB port get their firmware, one after the other."""

from collections.abc import Callable
from contextlib import suppress

import anyio

from ispd.chain.avrdude import touch
from ispd.errors import LocalProtocolError, ProgrammerError, TransportError
from ispd.flashing.desk import shows, wait_for_board
from ispd.model.bootloader import Bootloader
from ispd.model.job import Unit, Verdict
from ispd.model.station import SlotState
from ispd.station.board_port import SlotPort
from ispd.station.fitting import MisfitError
from ispd.station.floor import Floor
from ispd.station.queue import OpenJob
from ispd.station.slot_display import SlotDisplay
from ispd.station.unit_flasher import UnitFlasher
from ispd.transport.contract import UsbDeviceAt

__all__ = ["ChainSlotWork"]

EMPTY_S = 1.5
"""A port counts as empty after so long: a board that starts again, or changes between firmware and bootloader, is back by
then; nobody exchanges one that fast."""

_AWAKE_S = 5.0
"""A sketch that was asked restarts after 0.12 s (its watchdog); enumeration and the bootloader's tty come on top."""
_MOST_CALLS = 3
"""So often in a row a sketch is asked for its bootloader; one that never brings it is left alone."""


class ChainSlotWork:
    """Serves one job after the other on one slot, over USB alone.

    :param programmer_lock: held while a board is flashed: its rescue takes the programmer.
    :param is_disabled: true once a person switched the slot off: no further board is begun.
    :param listing_left_s: how long what is on the machine's USB may still have to be told.
    """

    def __init__(
        self,
        floor: Floor,
        display: SlotDisplay,
        flasher: UnitFlasher,
        *,
        programmer_lock: anyio.Lock,
        is_disabled: Callable[[], bool],
        listing_left_s: Callable[[], float],
    ) -> None:
        self._floor = floor
        self._display = display
        self._flasher = flasher
        self._programmer_lock = programmer_lock
        self._is_disabled = is_disabled
        self._listing_left_s = listing_left_s
        self._vain_calls = 0

    @property
    def _slot(self) -> str:
        return self._display.view.name

    def _port(self) -> SlotPort:
        path = self._display.view.target_usb
        if path is None:
            raise LocalProtocolError(f"nobody knows the USB port of slot {self._slot}")
        return SlotPort(self._floor.tree, path)

    def _loader(self, entry: OpenJob) -> Bootloader:
        if entry.recipe.bootloader is None:
            raise LocalProtocolError("the recipe names no bootloader")
        return self._floor.bootloaders.get(entry.recipe.bootloader)

    async def serve(self, entry: OpenJob) -> None:
        """Work for a job until the slot is through with it; raises ``IspdError`` for what nobody foresaw, and ``journal-failed``."""
        await (self._serve_once(entry) if entry.is_once else self._serve_count(entry))

    async def _serve_once(self, entry: OpenJob) -> None:
        """Flash the board that is there now, once; or note what was seen."""
        port, loader = self._port(), self._loader(entry)
        self._display.arm(entry.record.id)
        if is_half_saved(entry.last_units.get(self._slot)) and entry.reserve(self._slot):
            await self._flash(entry, is_rescue=True)
            return
        with anyio.move_on_after(self._listing_left_s()):
            while self._floor.tree.at(port.path) is None:
                await self._floor.tree.changed.wait()  # nothing was awaited since it was looked up
        device = await self._woken(port, loader)
        if self._is_disabled():
            return
        if device is not None and shows(loader, device) and entry.reserve(self._slot):
            await self._flash(entry)
        elif entry.wants(self._slot):
            seen = describe(port.path, loader, device)
            await self._floor.queue.note_seen(entry, self._slot, seen)
            self._display.to(SlotState.IDLE, note=seen, job=None)

    async def _serve_count(self, entry: OpenJob) -> None:
        """Meet board after board until the job is through or the slot is taken away from it.

        A board that has its verdict (from before a restart, too) is held: untouched until its port was empty.
        """
        port, loader = self._port(), self._loader(entry)
        last = entry.last_units.get(self._slot)
        is_held = last is not None and last.verdict not in (None, Verdict.INTERRUPTED)
        empty_since: float | None = None
        if not is_held:
            self._display.arm(entry.record.id)
        if is_half_saved(last) and self._may_go_on(entry) and entry.reserve(self._slot):
            is_held = True
            await self._flash(entry, is_rescue=True)
        while self._may_go_on(entry):
            seen, now = port.changes, self._floor.clock.monotonic()
            device = await (port.look() if is_held else self._woken(port, loader))
            empty_since = None if device is not None or self._listing_left_s() > 0 else (empty_since or now)
            patience_s = self._patience(empty_since, now, is_held=is_held)
            if is_held and patience_s == 0 and not self._is_disabled():
                is_held = False
                if self._display.state in (SlotState.PASSED, SlotState.FAILED):
                    self._display.to(SlotState.REMOVED)
                self._display.arm(entry.record.id)
                patience_s = float("inf")
            may_begin = device is not None and shows(loader, device) and not is_held and self._may_go_on(entry)
            if may_begin and entry.reserve(self._slot):
                is_held, empty_since = True, None
                await self._flash(entry)
                continue
            if port.changes == seen and self._may_go_on(entry):
                with anyio.move_on_after(patience_s):
                    await self._floor.wait_for_change()

    async def _woken(self, port: SlotPort, loader: Bootloader) -> UsbDeviceAt | None:
        """Return who is on the port. A sketch that starts its bootloader when asked to (Arduino's) is asked, and waited for."""
        device = await port.look()
        is_sketch = device is not None and str(device.usb) in loader.usb_application
        if device is None or device.tty is None or not is_sketch or self._vain_calls >= _MOST_CALLS:
            return device
        self._vain_calls += 1
        with suppress(TransportError):  # it is busy, or just leaves: who is there then tells
            await touch(self._floor.hardware, device.tty, port.path)
        awake = await wait_for_board(port, lambda device: shows(loader, device), _AWAKE_S)
        if awake is None:
            return await port.look()
        self._vain_calls = 0
        return awake

    def _may_go_on(self, entry: OpenJob) -> bool:
        return entry.wants(self._slot) and not self._is_disabled() and not self._floor.is_stopping()

    def _patience(self, empty_since: float | None, now: float, *, is_held: bool) -> float:
        """Return how long to wait for a change before looking again; 0 where a held board is gone for good."""
        if not is_held:
            return float("inf")
        if empty_since is None:
            return self._listing_left_s() or float("inf")
        return max(0.0, empty_since + EMPTY_S - now)

    async def _flash(self, entry: OpenJob, *, is_rescue: bool = False) -> None:
        self._display.begin(entry.record.id)
        async with self._programmer_lock:
            try:
                await self._flasher.flash(entry, is_rescue=is_rescue)
            except MisfitError as error:  # a job over USB wants this slot nevertheless: as if its programmer failed
                raise ProgrammerError(error.code, error.message, hint=error.hint) from error


def is_half_saved(unit: Unit | None) -> bool:
    """Tell whether a board's rescue by its programmer was cut short: its bootloader may be gone, and will not show up any more."""
    if unit is None or unit.verdict is not Verdict.INTERRUPTED:
        return False
    return any(attempt.verdict is Verdict.NEEDS_RESCUE for attempt in unit.attempts)


def describe(path: str, loader: Bootloader, device: UsbDeviceAt | None) -> str:
    """Put what a port showed into words, for a job that found no board there."""
    wanted = f"{loader.title} ({' or '.join(loader.usb)})"
    if device is None:
        return f"nothing is on USB port {path}; put a board there with its bootloader running: {wanted}"
    product = f" {device.usb.product}" if device.usb.product else ""
    return f"{device.usb}{product} is on USB port {path}, not {wanted}; start the board's bootloader"

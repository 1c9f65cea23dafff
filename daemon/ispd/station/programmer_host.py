"""Keeps one slot's programmer open, and opens it again after it was lost."""

from collections.abc import Mapping
from dataclasses import replace

import anyio

from ispd.errors import ErrorCode, ProgrammerError, TransportError
from ispd.flashing.interface import TargetInterface
from ispd.flashing.open_target import open_target
from ispd.model.part import Interface
from ispd.model.station import Programmer
from ispd.programmers.registry import Driver, claimant
from ispd.station.spec import SlotSpec
from ispd.transport.contract import BytePort, Hardware, Opener, PortEvent, SerialSettings, UsbIdentity, UsbLink

__all__ = ["ProgrammerHost"]


class _Placed:
    """Opens only what hangs at one place of the USB tree.

    Between a re-plug and the event that tells of it the slot's device node may belong to another slot's programmer.
    """

    def __init__(self, hardware: Opener, path: str) -> None:
        self._hardware = hardware
        self._path = path

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a port at this place."""
        return await self._hardware.open_serial(replace(settings, path=self._path))

    async def open_usb(self, port: str) -> UsbLink:
        """Open a USB device, which is named by its place."""
        return await self._hardware.open_usb(port)


class ProgrammerHost:
    """The port of one slot: where it is now, which driver speaks to it, and the open programmer.

    The port stays open between boards: opening it again would reset an Uno.
    """

    def __init__(self, spec: SlotSpec, drivers: Mapping[str, Driver], hardware: Hardware) -> None:
        self._spec = spec
        self._drivers = drivers
        self._hardware = hardware
        self._seen: PortEvent | None = None
        self._loader: tuple[PortEvent, str] | None = None
        self._open: TargetInterface | None = None
        self._retired: list[TargetInterface] = []
        """To be closed: they may still hold the port."""
        self._closing = anyio.Lock()
        self.port = spec.port

    @property
    def _usb(self) -> UsbIdentity | None:
        return None if self._seen is None else self._seen.usb

    @property
    def is_open(self) -> bool:
        """True while the port is held."""
        return self._open is not None

    @property
    def is_fixed(self) -> bool:
        """True for a port named in the configuration, which gives no plug events."""
        return self._spec.port is not None

    @property
    def has_place(self) -> bool:
        """False for a slot without programmer."""
        return self._spec.has_programmer

    @property
    def interface(self) -> Interface | None:
        """What the slot's programmer speaks, None while nobody knows which one it is."""
        driver = self._drivers.get(self._driver_kind() or "")
        return None if driver is None else driver.interface

    def holds(self, event: PortEvent) -> bool:
        """Tell whether a port that went away is the one this slot has; by place and node, since the ids may be gone, too."""
        held = self._seen if self._loader is None else self._loader[0]
        return held is not None and (held.path, held.kind, held.port) == (event.path, event.kind, event.port)

    def plugged(self, event: PortEvent) -> None:
        """Take note that the slot's port is there, under the node that the event names."""
        self.port, self._seen, self._loader = event.port, event, None

    def in_bootloader(self, event: PortEvent, title: str) -> None:
        """Take note that the programmer runs its own bootloader: nothing is sent to it until it is itself again.

        :meth:`drop` comes next.
        """
        self._loader = (event, title)
        self._forget()

    def unplugged(self) -> None:
        """Take note that the port is gone. :meth:`drop` comes next, which can take seconds where a device hangs."""
        self._loader = None
        self._forget()

    def _forget(self) -> None:
        self._seen = None
        if not self.is_fixed:
            self.port = None
        self._retire()

    def _retire(self) -> None:
        if self._open is not None:
            self._retired.append(self._open)
            self._open = None

    async def target(self) -> TargetInterface:
        """Return what is behind the programmer, opening that first where needed.

        Raises ``TransportError`` or ``ProgrammerError`` when nothing suitable answers, or may not even be asked.
        """
        if self._loader is not None:
            raise self._is_in_bootloader(*self._loader)
        if self._open is None:
            if self.port is not None:
                await self.drop()
            if not self.has_place:
                raise ProgrammerError(
                    ErrorCode.PROGRAMMER_CANNOT,
                    f"slot {self._spec.name} has no programmer, only a USB port",
                    hint="use a slot with a programmer",
                )
            if self.port is None:
                raise TransportError(
                    ErrorCode.PORT_NOT_FOUND,
                    f"no programmer is connected to slot {self._spec.name}",
                    hint="plug the programmer into this USB port; where one is, the slot's port and programmer kind do not belong "
                    "together",
                )
            hardware = self._hardware if self._spec.path is None else _Placed(self._hardware, self._spec.path)
            self._open = await open_target(self._driver(), hardware, self.port, baud=self._spec.baud, usb=self._usb)
        return self._open

    async def drop(self) -> None:
        """Close the programmer, if open; the next :meth:`target` opens it anew, once this one let go of the port."""
        self._retire()
        while self._retired:
            async with self._closing:
                if self._retired:
                    await self._retired[0].aclose()
                    del self._retired[0]

    def describe(self) -> Programmer | None:
        """Return the programmer for the clients, None while there is none."""
        if self.port is None or self._loader is not None:
            return None
        kind, identity = self._driver_kind(), self._open.identity if self._open else None
        return Programmer(
            kind=kind or "unknown",
            port=self.port,
            slot=self._spec.name,
            path=self._spec.path,
            usb_id=str(self._usb) if self._usb else None,
            firmware=identity.firmware if identity else None,
            serial=self._serial(),
            interface=self.interface,
            is_open=self.is_open,
        )

    def _serial(self) -> str | None:
        """Return what the programmer says itself, and while nobody asked it, what USB says where that is plain text.

        Old ST-Links have bytes there, which their driver makes readable.
        """
        if self._open is not None:
            return self._open.identity.serial or None
        serial = "" if self._usb is None else self._usb.serial
        return serial if serial and serial.isascii() and serial.isprintable() else None

    def _is_in_bootloader(self, event: PortEvent, title: str) -> ProgrammerError:
        return ProgrammerError(
            ErrorCode.PROGRAMMER_IS_BOOTLOADER,
            f"the programmer of slot {self._spec.name} runs its own bootloader ({event.usb}, {title}); nothing is sent to it",
            hint="press the programmer's reset button once, or unplug it and plug it in again; if it stays, load the "
            "ISP sketch into it again. If this is a board, plug it into another port",
        )

    def _driver_kind(self) -> str | None:
        if self._spec.programmer is not None:
            return self._spec.programmer
        if self._seen is None:
            return None
        driver = claimant(self._drivers, self._seen.kind, self._seen.usb)
        return None if driver is None else driver.kind

    def _driver(self) -> Driver:
        kind = self._driver_kind()
        if kind is None or kind not in self._drivers:
            raise ProgrammerError(
                ErrorCode.PROGRAMMER_CANNOT,
                f"no driver for programmer {kind or self._usb} on slot {self._spec.name}",
                hint=f"known programmers: {', '.join(sorted(self._drivers))}",
            )
        return self._drivers[kind]

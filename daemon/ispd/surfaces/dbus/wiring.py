"""The connection to a bus: the only importer of sdbus.

sdbus says nothing when the bus goes away; a dead connection shows in its descriptor, a bus that hangs in a ping without
an answer.
"""

import asyncio
from asyncio import _set_running_loop  # public for whoever makes a loop, so asyncio.events.__all__ says
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import anyio
from sdbus import DbusPropertyEmitsChangeFlag, DbusUnprivilegedFlag, SdBusBaseError
from sdbus.sd_bus_internals import SdBus, SdBusInterface, SdBusMessage, sd_bus_open_system, sd_bus_open_user

from ispd.surfaces.dbus.names import ROOT

__all__ = ["Bus", "Connection", "Exported", "MethodSpec", "Request", "path_of"]

_ANSWER_S = 4.0
"""A bus answers in milliseconds; together with the interval of pings this finds one that hangs within 10 s."""

_PROPERTIES = "org.freedesktop.DBus.Properties"


class Bus(StrEnum):
    """Which bus to be on."""

    SYSTEM = "system"
    SESSION = "session"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method as the bus is told of it; inputs are names with signatures. ``run`` is called for each request."""

    name: str
    inputs: tuple[tuple[str, str], ...]
    result: str
    run: Callable[["Request"], None]


class Request:
    """A method call that waits for its answer.

    Its message keeps descriptors open, so it is let go with the answer, however long somebody holds the request.
    """

    def __init__(self, message: SdBusMessage) -> None:
        self._message: SdBusMessage | None = message
        self.sender = message.sender or ""

    def arguments(self) -> tuple[Any, ...]:
        """Return what was sent. Descriptors among it belong to the caller of this, who asks once."""
        return () if self._message is None else self._message.parse_to_tuple()

    def answer(self, signature: str, value: Any) -> None:
        """Send the result. Nobody minds where the caller, or the bus, is gone."""
        message, self._message = self._message, None
        if message is not None and message.expect_reply:
            reply = message.create_reply()
            reply.append_data(signature, value)
            _send(reply)

    def fail(self, name: str, text: str) -> None:
        """Send an error."""
        message, self._message = self._message, None
        if message is not None and message.expect_reply:
            _send(message.create_error_reply(name, text))


class Exported:
    """An interface on an object. Reading a property gives what it is now; signals tell of it when :meth:`tell` is called.

    :param types: signature of each property, by name.
    :param value: returns what a property is.
    """

    def __init__(
        self, bus: SdBus, path: str, interface: str, types: Mapping[str, str], value: Callable[[str], Any]
    ) -> None:
        self._bus = bus
        self._interface = interface
        self._types = types
        self._value = value
        self._exported: SdBusInterface | None = None
        self._told: dict[str, Any] = {}
        self.path = path

    def start(self, methods: Sequence[MethodSpec], *, is_told: bool) -> None:
        """Show it on the bus; ``is_told`` sends the signal of the ObjectManager."""
        self._exported = exported = SdBusInterface()
        for method in methods:
            exported.add_method(
                method.name,
                "".join(kind for _, kind in method.inputs),
                [name for name, _ in method.inputs],
                method.result,
                ["result"],
                DbusUnprivilegedFlag,  # who may call is decided for each call, not by Linux capabilities
                _receiver(method),
            )
        for name, kind in self._types.items():
            exported.add_property(name, kind, _getter(name, kind, self._value), None, DbusPropertyEmitsChangeFlag)
        self._bus.add_interface(exported, self.path, self._interface)
        self._told = {name: self._value(name) for name in self._types}
        if is_told:
            with suppress(SdBusBaseError):
                self._bus.emit_object_added(self.path)

    def tell(self) -> None:
        """Send one signal with the properties that changed since the last."""
        values = {name: self._value(name) for name in self._types}
        changed = {name: (self._types[name], one) for name, one in values.items() if self._told[name] != one}
        self._told = values
        if changed:
            signal = self._bus.new_signal_message(self.path, _PROPERTIES, "PropertiesChanged")
            signal.append_data("sa{sv}as", self._interface, changed, [])
            _send(signal)

    def stop(self, *, is_told: bool) -> None:
        """Take it off the bus."""
        with suppress(SdBusBaseError):
            if is_told:
                self._bus.emit_object_removed(self.path)
        if self._exported is not None:
            self._exported._stop_export()  # noqa: SLF001 - sdbus has no public name for it; its own objects do the same
            # it holds our callbacks, and the collector does not see through it: kept, the connection would never be freed
            self._exported = None


class _OwnWatches:
    """An event loop that lets sdbus end only those watches of descriptors which it began.

    sdbus ends its watch again when a lost connection is closed, and once more when it is freed (``SdBus_close`` and
    ``SdBus_dealloc`` in its sd_bus_internals_bus.c). By then the kernel may have given the number to another
    connection, which would hear nothing from then on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._read: set[int] = set()
        self._written: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._loop.add_reader(descriptor, callback)
        self._read.add(descriptor)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._loop.add_writer(descriptor, callback)
        self._written.add(descriptor)

    def remove_reader(self, descriptor: int) -> None:
        if descriptor in self._read:
            self._read.remove(descriptor)
            self._loop.remove_reader(descriptor)

    def remove_writer(self, descriptor: int) -> None:
        if descriptor in self._written:
            self._written.remove(descriptor)
            self._loop.remove_writer(descriptor)


@contextmanager
def _own_watches() -> Iterator[None]:
    """Have a connection that begins in here use the running loop by way of :class:`_OwnWatches`."""
    loop = asyncio.get_running_loop()
    _set_running_loop(cast("asyncio.AbstractEventLoop", _OwnWatches(loop)))
    try:
        yield
    finally:
        _set_running_loop(loop)


class Connection:
    """One connection to a bus. Whatever fails is an ``OSError``."""

    def __init__(self, kind: Bus) -> None:
        try:
            self.bus = sd_bus_open_user() if kind is Bus.SESSION else sd_bus_open_system()
        except SdBusBaseError as error:
            raise _lost(error) from error
        try:
            self._manager = self.bus.add_object_manager(ROOT)
            with _own_watches():
                self.bus.process()  # the first call that has sdbus choose its loop
        except SdBusBaseError as error:
            self.bus.close()
            raise _lost(error) from error

    async def own(self, name: str) -> None:
        """Become ``name``."""
        with anyio.fail_after(_ANSWER_S):
            try:
                await self.bus.request_name_async(name, 0)
            except SdBusBaseError as error:
                raise _lost(error) from error

    async def ask(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        *arguments: Any,
        within_s: float | None = None,
    ) -> tuple[Any, ...]:
        """Return the answer of another service. Raises ``OSError`` where there is none in time, or an error."""
        with anyio.fail_after(_ANSWER_S if within_s is None else within_s):
            try:
                message = self.bus.new_method_call_message(name, path, interface, member)
                if signature:
                    message.append_data(signature, *arguments)
                return (await self.bus.call_async(message)).parse_to_tuple()
            except SdBusBaseError as error:
                raise _lost(error) from error

    async def ping(self) -> None:
        """Return once the bus answered.

        Not by ``Peer.Ping``: the system bus lets only its own interface through to itself (D-Bus's system.conf).
        """
        bus = "org.freedesktop.DBus"
        await self.ask(bus, "/org/freedesktop/DBus", bus, "GetId", "")

    def check(self) -> None:
        """Raise where the connection is known to be dead; costs nothing."""
        try:
            self.bus.get_fd()
        except SdBusBaseError as error:
            raise _lost(error) from error

    def close(self) -> None:
        """Leave the bus."""
        with suppress(SdBusBaseError):
            self._manager.close()
        with suppress(SdBusBaseError):
            self.bus.close()


def path_of(noun: str, key: str | int) -> str:
    """Return the path of an object: letters and digits of its key stay, every other byte is ``_`` and two hex digits."""
    escaped = (chr(byte) if chr(byte).isalnum() and byte < 0x80 else f"_{byte:02x}" for byte in str(key).encode())
    return f"{ROOT}/{noun}s/{''.join(escaped)}"


def _getter(name: str, kind: str, value: Callable[[str], Any]) -> Callable[[SdBusMessage], None]:
    return lambda message: message.append_data(kind, value(name))


def _receiver(method: MethodSpec) -> Callable[[SdBusMessage], None]:
    return lambda message: method.run(Request(message))


def _send(message: SdBusMessage) -> None:
    """Send, or not: a dead connection is noticed elsewhere and made again."""
    with suppress(SdBusBaseError):
        message.send()


def _lost(error: SdBusBaseError) -> OSError:
    """Return sdbus's exception as one that the rest of the world knows, without the file and line it begins with."""
    return OSError(str(error).rpartition(" in function ")[2] or str(error))

"""A bus of our own, and an outside client for it (dbus-fast)."""

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from tests.surfaces.fake_station import FakeStation

from ispd.errors import ErrorCode
from ispd.surfaces.dbus import Bus, serve_dbus
from ispd.surfaces.dbus.names import BUS_NAME, MANAGER, ROOT, error_name

POLICY_FILE = Path(__file__).parents[3] / "systemd/org.ispd.Station1.conf"

OPEN_POLICY = """
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>"""

_CONFIG = """<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  {policy}
</busconfig>"""

needs_bus = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed (dbus-daemon)")
DEADLINE_S = 20.0


class PrivateBus:
    """A dbus-daemon that every client of this process, and its children, take for the system's."""

    def __init__(self, folder: Path, policy: str) -> None:
        self._socket = folder / "bus"
        self._config = folder / "bus.conf"
        self._config.write_text(_CONFIG.format(socket=self._socket, policy=policy))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self._socket}"

    def start(self) -> None:
        """Return once the bus listens: it prints its address then."""
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile", "--print-address=1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"unix:")

    def halt(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
            self._socket.unlink(missing_ok=True)


@contextmanager
def private_bus(folder: Path, monkeypatch: pytest.MonkeyPatch, policy: str = OPEN_POLICY) -> Iterator[PrivateBus]:
    bus = PrivateBus(folder, policy)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    bus.start()
    try:
        yield bus
    finally:
        bus.kill()


class DbusError(Exception):
    """An error that came back; ``name`` is D-Bus's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Client:
    """Calls the station, and keeps the signals it sends."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.signals: list[tuple[float, Message]] = []
        self._arrived = anyio.Event()

    async def call(self, member: str, signature: str = "", *body: Any, fds: tuple[int, ...] = ()) -> Any:
        """Call a method of the Manager."""
        return await self.on(ROOT, MANAGER, member, signature, *body, fds=fds)

    async def on(
        self, path: str, interface: str, member: str, signature: str = "", *body: Any, fds: tuple[int, ...] = ()
    ) -> Any:
        """Call a method of an object; ``interface`` without a dot is one of ours."""
        with anyio.fail_after(DEADLINE_S):
            reply = await self.bus.call(
                Message(
                    destination=BUS_NAME,
                    path=path,
                    interface=interface if "." in interface else f"{BUS_NAME}.{interface}",
                    member=member,
                    signature=signature,
                    body=list(body),
                    unix_fds=list(fds),
                )
            )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise DbusError(reply.error_name or "", str(reply.body[0]) if reply.body else "")
        return plain(reply.body[0]) if reply.body else None

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        found = await self.on(path, "org.freedesktop.DBus.Properties", "GetAll", "s", f"{BUS_NAME}.{interface}")
        return dict(found)

    async def objects(self) -> dict[str, Any]:
        """Return the objects with our interfaces: path -> interface without the bus name -> properties."""
        found = await self.on(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        return {
            path: {
                name.removeprefix(f"{BUS_NAME}."): shown
                for name, shown in interfaces.items()
                if name.startswith(BUS_NAME)
            }
            for path, interfaces in found.items()
        }

    async def owner(self) -> str | None:
        """Return the connection that has the station's name."""
        bus = "org.freedesktop.DBus"
        reply = await self.bus.call(
            Message(
                destination=bus,
                path="/org/freedesktop/DBus",
                interface=bus,
                member="GetNameOwner",
                signature="s",
                body=[BUS_NAME],
            )
        )
        assert reply is not None
        return str(reply.body[0]) if reply.message_type is MessageType.METHOD_RETURN else None

    async def is_there(self) -> bool:
        """Tell whether anybody has the station's name."""
        try:
            await self.call("StationGet")
        except DbusError as error:
            return error.name != "org.freedesktop.DBus.Error.ServiceUnknown"
        return True

    async def listen(self) -> None:
        """Keep every signal of the station from now on."""
        self.bus.add_message_handler(self._keep)
        await self.bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[f"type='signal',sender='{BUS_NAME}'"],
            )
        )

    def _keep(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and (message.path or "").startswith(ROOT):
            self.signals.append((anyio.current_time(), message))
            self._arrived.set()

    def changes(self, path: str) -> list[tuple[float, dict[str, Any]]]:
        """Return the changed properties of an object, with the time of each signal."""
        return [
            (at, plain(message.body[1]))
            for at, message in self.signals
            if message.path == path and message.member == "PropertiesChanged"
        ]

    async def wait_for_change(self, path: str, name: str, *values: Any) -> Any:
        """Return once a property was told to have one of these values."""
        with anyio.fail_after(DEADLINE_S * 2):
            while True:
                told = [changed[name] for _, changed in self.changes(path) if changed.get(name) in values]
                if told:
                    return told[0]
                self._arrived = anyio.Event()
                await self._arrived.wait()


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    try:
        yield Client(bus)
    finally:
        bus.disconnect()


async def until_served() -> None:
    """Return once the station is on the bus: a condition with a deadline."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                async with connected() as client:
                    await client.call("StationGet")
                    return
            except (DbusError, OSError, EOFError):
                await anyio.sleep(0.05)


def plain(value: Any) -> Any:
    """Undo variants."""
    match value:
        case Variant():
            return plain(value.value)
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case list():
            return [plain(one) for one in value]
        case _:
            return value


def file_argument(name: str, index: int = 0) -> dict[str, Variant]:
    """Return a file that is passed as the descriptor with this index."""
    return {"name": Variant("s", name), "content": Variant("h", index)}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def served(
    station: FakeStation | None = None, *, kind: Bus = Bus.SYSTEM, **options: Any
) -> AsyncIterator[FakeStation]:
    station = station or FakeStation()
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await serve_dbus(kind, station, task_status=task_status, **options)

        await tasks.start(run)
        yield station
        tasks.cancel_scope.cancel()


async def fails_with(code: ErrorCode, call: Any) -> str:
    with pytest.raises(DbusError) as caught:
        await call
    assert caught.value.name == error_name(code)
    return caught.value.text

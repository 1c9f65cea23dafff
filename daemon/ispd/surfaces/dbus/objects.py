"""The objects on the bus: the station, its slots, and the newest jobs and units, with properties that follow events."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from ispd.api.call import StationPort
from ispd.model.event import Event, EventKind
from ispd.surfaces.dbus.members import Member, ObjectKind, manager_members, object_kinds
from ispd.surfaces.dbus.names import BUS_NAME, MANAGER, ROOT, interface_of, member_name
from ispd.surfaces.dbus.values import absent, encode, fields_of, signature
from ispd.surfaces.dbus.wiring import Connection, Exported, MethodSpec, Request, path_of

__all__ = ["AT_MOST", "INTERVAL_S", "Answer", "Tree"]

INTERVAL_S = 0.2
"""Least time between two signals of one object: five a second."""

AT_MOST = 64
"""Jobs, and units, that are on the bus; open ones before ended ones, newer before older. All are in the journal."""

_BEHIND = 1024
"""Events the tree may be behind before it looks at the whole station again."""

Answer = Callable[[Member, dict[str, Any], Request], None]
"""Carries out a call; the dictionary is what the object supplies."""


class _Shape:
    """How records of one type are properties."""

    def __init__(self, record: type[Any]) -> None:
        self._fields = {member_name(field.name): field for field in fields_of(record)}
        self.types = {name: signature(field.type) for name, field in self._fields.items()}

    def value(self, record: Any, name: str) -> Any:
        """Return a property of a record as it goes over the bus."""
        field = self._fields[name]
        value = getattr(record, field.name)
        return absent(field.type) if value is None else encode(field.type, value)


class Tree:
    """Everything on one connection; made anew with the next one. Of records it keeps those that are shown."""

    def __init__(self, connection: Connection, station: StationPort, answer: Answer) -> None:
        self._connection = connection
        self._station = station
        self._answer = answer
        self._kinds = object_kinds()
        self._shapes = {noun: _Shape(kind.record) for noun, kind in self._kinds.items()}
        about = _Shape(type(station.describe()))
        self._manager = Exported(
            connection.bus,
            ROOT,
            f"{BUS_NAME}.{MANAGER}",
            about.types,
            lambda name: about.value(station.describe(), name),
        )
        self._records: dict[str, dict[Any, Any]] = {noun: {} for noun in self._kinds}
        self._shown: dict[tuple[str, Any], Exported] = {}
        self._dirty: dict[str, set[Any]] = {noun: set() for noun in self._kinds}
        self._changed = anyio.Event()
        self._is_told = False

    async def run(self, ready: Callable[[], Any]) -> None:
        """Show everything, call ``ready`` and follow the station until cancelled."""
        with self._station.events.subscribe(size=_BEHIND) as events:
            try:
                self._manager.start(self._methods(manager_members(), {}), is_told=False)
                await self._look_around()
                await self._show()
                self._is_told = True
                await ready()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen, events)
                    tasks.start_soon(self._tell)
            finally:
                for shown in (*self._shown.values(), self._manager):
                    shown.stop(is_told=False)

    async def _listen(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if event.kind is EventKind.RESYNC:
                await self._look_around()
            elif event.kind.value in self._kinds:
                self._note(event.kind.value, getattr(event, event.kind.value))

    async def _tell(self) -> None:
        """Publish what changed, then let changes gather."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await self._show()
            await anyio.sleep(INTERVAL_S)

    async def _look_around(self) -> None:
        """Fetch the whole state."""
        for noun, found in (
            ("slot", self._station.slots()),
            ("job", await self._station.jobs(AT_MOST, None)),
            ("unit", await self._station.units(job=None, limit=AT_MOST, before=None)),
        ):
            for record in found:
                self._note(noun, record)

    def _note(self, noun: str, record: Any) -> None:
        key = getattr(record, self._kinds[noun].key)
        self._records[noun][key] = record
        self._dirty[noun].add(key)
        self._changed.set()

    async def _show(self) -> None:
        """Bring the bus up to date, a few objects at a time so that nothing else waits."""
        self._forget()
        dirty, self._dirty = self._dirty, {noun: set() for noun in self._kinds}
        for kind in reversed(tuple(self._kinds.values())):  # what a job is made of before the job that says it is done
            for key in sorted(dirty[kind.noun] & self._records[kind.noun].keys()):
                self._show_one(kind, key)
                await checkpoint()
        self._manager.tell()

    def _show_one(self, kind: ObjectKind, key: Any) -> None:
        shown = self._shown.get((kind.noun, key))
        if shown is not None:
            shown.tell()
            return
        shape, records = self._shapes[kind.noun], self._records[kind.noun]
        shown = Exported(
            self._connection.bus,
            path_of(kind.noun, key),
            interface_of(kind.noun),
            shape.types,
            lambda name: shape.value(records[key], name),
        )
        self._shown[kind.noun, key] = shown
        shown.start(self._methods(kind.members, {kind.key: key}), is_told=self._is_told)

    def _forget(self) -> None:
        """Drop slots that are gone, and of jobs and units the oldest beyond the bound."""
        gone = {("slot", name) for name in self._records["slot"].keys() - {slot.name for slot in self._station.slots()}}
        gone |= set(_surplus("job", self._records["job"], lambda job: job.state.is_final))
        gone |= set(_surplus("unit", self._records["unit"], lambda unit: unit.verdict is not None))
        for noun, key in gone:
            shown = self._shown.pop((noun, key), None)
            if shown is not None:
                shown.stop(is_told=True)
            del self._records[noun][key]

    def _methods(self, members: tuple[Member, ...], supplied: dict[str, Any]) -> list[MethodSpec]:
        return [self._method(member, supplied) for member in members]

    def _method(self, member: Member, supplied: dict[str, Any]) -> MethodSpec:
        return MethodSpec(
            name=member.name,
            inputs=member.inputs,
            result=signature(member.result),
            run=lambda request: self._answer(member, supplied, request),
        )


def _surplus(noun: str, records: Mapping[int, Any], has_ended: Callable[[Any], bool]) -> Iterator[tuple[str, int]]:
    ordered = sorted(records, key=lambda key: (not has_ended(records[key]), key), reverse=True)
    return ((noun, key) for key in ordered[AT_MOST:])

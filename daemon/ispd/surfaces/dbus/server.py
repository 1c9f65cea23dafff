"""The D-Bus surface as a whole: on the bus while there is one, with calls that outlive it."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskGroup, TaskStatus

from ispd.api.call import Allows, Call, Peer, StationPort
from ispd.api.declare import Privilege
from ispd.api.handlers import load_handlers
from ispd.api.invoke import invoke
from ispd.errors import ErrorCode, IspdError
from ispd.surfaces.dbus.attachments import Reader
from ispd.surfaces.dbus.authority import Asking, Authority
from ispd.surfaces.dbus.members import Member
from ispd.surfaces.dbus.names import BUS_NAME, error_name
from ispd.surfaces.dbus.objects import Tree
from ispd.surfaces.dbus.request import read_parameters
from ispd.surfaces.dbus.values import encode, signature
from ispd.surfaces.dbus.wiring import Bus, Connection, Request

__all__ = ["serve_dbus"]

_LOG = structlog.get_logger("ispd.dbus")

_LOOK_S = 0.5
"""Pause between two looks at the connection, which cost a microsecond, and before a lost bus is tried again .."""

_AGAIN_S = 4.0
""".. up to this where there is none for long."""

_PING_EVERY = 10
"""Looks at the connection for one ping of the bus: every 5 s."""

_CALLS = 64
_CALLS_OF_ONE = 8
"""Calls that run at once: in all, and of one caller."""

_OUR_NAME = re.compile(r'Connection ":\d+\.\d+"')
"""How dbus-daemon speaks of whom it refuses."""

_BUSY = "org.freedesktop.DBus.Error.LimitsExceeded"


async def serve_dbus(
    kind: Bus,
    station: StationPort,
    *,
    decide: Callable[[Asking], Authority] = Authority,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``station`` on a bus until cancelled; started once that was tried, whether or not there is a bus.

    :param decide: makes the one who decides what callers may, for each connection.
    """
    is_started = False
    reason = ""
    pause_s = _LOOK_S
    async with anyio.create_task_group() as calls:
        while True:
            surface = None
            try:
                surface = _Surface(Connection(kind), station, calls, decide)
                async with anyio.create_task_group() as tasks:
                    await tasks.start(surface.run)
                    _LOG.info("on the bus", bus=kind.value, name=BUS_NAME)
                    reason, pause_s = "", _LOOK_S
                    is_started = _started(task_status, is_started=is_started)
            except* OSError as group:
                # a refusal names our connection, which is another one each time
                told = _OUR_NAME.sub("this daemon", str(_first(group)))
                if told != reason:
                    _LOG.warning("not on the bus", bus=kind.value, reason=told)
                reason = told
            except* Exception as group:  # noqa: BLE001 - a bug met here must not end the boards in work
                _LOG.exception("off the bus by an error of ours", exc_info=_first(group))
            finally:
                if surface is not None:
                    surface.close()
            is_started = _started(task_status, is_started=is_started)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_S)


def _started(task_status: TaskStatus[None], *, is_started: bool) -> bool:
    if not is_started:
        task_status.started()
    return True


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _decided(*, is_allowed: bool) -> Allows:
    """Return what repeats a decision that was made already."""

    async def allows(_peer: Peer, _privilege: Privilege) -> bool:
        return is_allowed

    return allows


class _Session:
    """Events of a D-Bus caller: signals go to whoever listens, there is nothing to begin or end."""

    def __init__(self, station: StationPort) -> None:
        self._station = station

    def subscribe(self) -> int:
        return self._station.events.seq

    def unsubscribe(self) -> None:
        return


class _Surface:
    """One connection, and what is served over it."""

    def __init__(
        self, connection: Connection, station: StationPort, calls: TaskGroup, decide: Callable[[Asking], Authority]
    ) -> None:
        self._connection = connection
        self._station = station
        self._calls = calls
        self._handlers = load_handlers()
        self._authority = decide(connection)
        self._reader = Reader()
        self._workers = CapacityLimiter(2)
        self._running: Counter[str] = Counter()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until the connection is dead, which raises ``OSError``."""

        async def ready() -> None:
            await self._connection.own(BUS_NAME)
            task_status.started()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Tree(self._connection, self._station, self._begin).run, ready)
            await self._watch()

    def close(self) -> None:
        """Leave the bus; calls that run go on, their answers are lost."""
        self._connection.close()

    async def _watch(self) -> None:
        looks = 0
        while True:
            await anyio.sleep(_LOOK_S)
            self._connection.check()
            looks += 1
            if looks % _PING_EVERY == 0:
                await self._connection.ping()

    def _begin(self, member: Member, supplied: dict[str, Any], request: Request) -> None:
        """Start a call, within bounds."""
        if self._running.total() >= _CALLS or self._running[request.sender] >= _CALLS_OF_ONE:
            request.fail(_BUSY, "too many calls at once")
            return
        self._running[request.sender] += 1
        self._calls.start_soon(self._run, member, supplied, request)

    async def _run(self, member: Member, supplied: dict[str, Any], request: Request) -> None:
        try:
            await self._answer(member, supplied, request)
        except IspdError as error:
            request.fail(error_name(error.code), "\n".join(filter(None, (error.message, error.hint))))
        except Exception as error:  # noqa: BLE001 - a bug met in one call must not end the boards in work
            _LOG.exception("call ended by an error of ours", method=member.method.name, exc_info=error)
            request.fail(error_name(ErrorCode.INTERNAL), "the daemon failed on this request; its log says why")
        finally:
            self._running[request.sender] -= 1
            self._running += Counter()  # forgets callers without a call

    async def _answer(self, member: Member, supplied: dict[str, Any], request: Request) -> None:
        caller = await self._authority.caller(request.sender)
        is_allowed = await self._authority.allows(request.sender, caller, member.method.privilege)
        # what a stranger sent is not even looked at; the refusal itself is the API's
        raw: dict[str, Any] = {}
        if is_allowed:
            raw = await read_parameters(member, request.arguments(), supplied, self._reader, self._workers)
        call = Call(
            station=self._station,
            session=_Session(self._station),
            peer=caller.peer,
            allows=_decided(is_allowed=is_allowed),
            workers=self._workers,
        )
        result = await invoke(self._handlers[member.method.name], raw, call)
        request.answer(signature(member.result), encode(member.result, result))

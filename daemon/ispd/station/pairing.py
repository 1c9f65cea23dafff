"""Which USB port belongs to a slot: hold its board in reset through its programmer, and see which port goes quiet.

A board whose pull-up resistor is no pin of its chip (a Bluepill) stays on the bus while it is held, and leaves it for a moment when it
starts anew: that counts as well.
"""

from collections.abc import Callable, Collection, Mapping

import anyio

from ispd.errors import ErrorCode, JobError
from ispd.flashing.interface import TargetInterface
from ispd.model.station import SlotState
from ispd.station.board_port import UsbTree
from ispd.station.floor import Floor
from ispd.station.slot_runner import SlotRunner
from ispd.station.spec import SlotSpec
from ispd.transport.clock import Clock
from ispd.transport.contract import UsbIdentity

__all__ = ["Pairings", "learn_port"]

QUIET_DEADLINE_S = 3.0
"""A board in reset is off the bus at once; a hub tells of it within a fraction of a second."""
RESTART_DEADLINE_S = 3.0
"""A board that stayed on the bus leaves it once its program has started: a bootloader tells the host to look anew within a second."""
RETURN_DEADLINE_S = 10.0
SETTLE_S = 0.5
"""After the first port went quiet: another one that did so for its own reasons shows itself, too."""
_ROUNDS = 2


async def learn_port(target: TargetInterface, tree: UsbTree, clock: Clock, ignored: Collection[str]) -> str:
    """Return the topology path of the port that goes quiet while the board is held in reset, or starts anew after it, twice.

    :param ignored: places that cannot be it: programmers, and boards that other slots are working on.
    Raises ``JobError`` (not-paired) telling what was seen. Reset is released whatever happens.
    """
    before = dict(tree.present)
    found: set[str] = set(before) - set(ignored)
    for _ in range(_ROUNDS):
        if found:
            found &= await _one_round(target, tree, clock, found)
    match sorted(found):
        case [path]:
            return path
        case []:
            raise _nothing(before)
        case several:
            raise JobError(
                ErrorCode.NOT_PAIRED,
                f"{len(several)} USB ports went quiet with this board: {', '.join(several)}",
                hint="let nothing else on this machine be plugged or flashed meanwhile, and learn again",
            )


async def _one_round(target: TargetInterface, tree: UsbTree, clock: Clock, candidates: set[str]) -> set[str]:
    there = candidates & set(tree.present)
    before = tree.departures

    def left() -> set[str]:
        now = tree.departures
        return {path for path in there if now.get(path, 0) > before.get(path, 0)}

    async with target.held():
        await _until(left, tree, clock, QUIET_DEADLINE_S)
    if not left():
        await _until(left, tree, clock, RESTART_DEADLINE_S)
    gone = left()
    with anyio.move_on_after(RETURN_DEADLINE_S):
        while not gone <= set(tree.present):
            await tree.changed.wait()  # nothing was awaited since they were looked up
    return gone & set(tree.present)


async def _until(left: Callable[[], set[str]], tree: UsbTree, clock: Clock, deadline_s: float) -> None:
    """Wait until a port went quiet, and a moment longer."""
    with anyio.move_on_after(deadline_s):
        while not left():
            await tree.changed.wait()  # nothing was awaited since they were looked up
        await clock.sleep(SETTLE_S)


def _nothing(before: Mapping[str, UsbIdentity]) -> JobError:
    seen = ", ".join(f"{usb} on {path}" for path, usb in sorted(before.items())) or "nothing"
    return JobError(
        ErrorCode.NOT_PAIRED,
        f"no USB port went quiet while the board was held in reset, and came back after it; on USB there was {seen}",
        hint="put a board with a working bootloader or firmware on the slot, its own USB cable plugged in, and learn again",
    )


class Pairings:
    """Which USB port belongs to which slot: what the configuration says, and what was learnt where it says nothing.

    :param runners: the slots there are now.
    """

    def __init__(self, floor: Floor, runners: Mapping[str, SlotRunner]) -> None:
        self._floor = floor
        self._runners = runners
        self._learnt: dict[str, str] = {}
        self._configured: set[str] = set()
        self._learning = anyio.Lock()

    def configured(self, spec: SlotSpec) -> None:
        """Take note of a slot as the configuration, or hotplug, has it."""
        if spec.target_usb is not None:
            self._configured.add(spec.name)

    async def load(self) -> None:
        """Take up what was learnt before, and tell the slots."""
        self._learnt = await self._floor.journal.slots.pairings()
        self.tell()

    def tell(self) -> None:
        """Tell the slots where their boards show up; what the configuration says stays, and goes before what was learnt."""
        specs = [runner.spec for runner in self._runners.values()]
        said = {spec.path for spec in specs} | {spec.target_usb for spec in specs if spec.name in self._configured}
        for name, runner in self._runners.items():
            if name not in self._configured:
                path = self._learnt.get(name)
                runner.pair(None if path in said else path)

    async def learn(self, runner: SlotRunner) -> None:
        """Find a slot's port, keep it, and tell the slots; raises what :func:`learn_port` does, and what concerns the programmer.

        One slot at a time: a board that another slot holds in reset goes quiet, too.
        """
        async with self._learning:
            await self._learn(runner)

    async def _learn(self, runner: SlotRunner) -> None:
        name, floor = runner.spec.name, self._floor

        async def learn(target: TargetInterface) -> str:
            async with floor.gate.resetting():
                return await learn_port(target, floor.tree, floor.clock, self._not_boards(name))

        path = await runner.use_target(learn)
        if name in self._configured:
            self._compare(runner.spec, path)
            return
        await floor.journal.slots.pair(name, path)
        self._learnt = {slot: at for slot, at in self._learnt.items() if at != path} | {name: path}
        self.tell()

    @staticmethod
    def _compare(spec: SlotSpec, path: str) -> None:
        if path != spec.target_usb:
            raise JobError(
                ErrorCode.NOT_PAIRED,
                f"the board of slot {spec.name} is on USB port {path}; the configuration says {spec.target_usb}",
                hint="correct target_usb, or plug the board's cable in there",
            )

    def _not_boards(self, name: str) -> set[str]:
        """Return the places that cannot be where the board of slot ``name`` is: programmers, others' boards in work."""
        found: set[str] = set()
        for runner in self._runners.values():
            spec = runner.spec
            if spec.path is not None:
                found.add(spec.path)
            elif runner.host.port is not None:
                found.update(self._floor.tree.paths_of(runner.host.port))
            is_certain = spec.name in self._configured or runner.view.state is SlotState.BUSY
            if spec.name != name and spec.target_usb is not None and is_certain:
                found.add(spec.target_usb)
        return found

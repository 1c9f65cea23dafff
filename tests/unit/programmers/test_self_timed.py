"""Self-timed writes, against a target that is busy for as long as it is told, on virtual time."""

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from tests.conformance.beds import Watch

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, LocalProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.programmers.self_timed import SelfTimedWrites
from ispd.wire import avr_isp
from ispd.wire.avr_isp import WordAddress
from vbench.virtual_time import virtual

PAGED = load_parts().avr("atmega32u4")
BLIND = load_parts().avr("atmega8")


class BusyTarget:
    """Busy after each instruction that begins a write; every instruction takes ``step_s``."""

    def __init__(self, busy_s: float, step_s: float = 0.0007) -> None:
        self.busy_s = busy_s
        self.step_s = step_s
        self.seen: list[bytes] = []
        self._until = 0.0

    async def send(self, instructions: Sequence[bytes]) -> bytes:
        replies = []
        for instruction in instructions:
            await anyio.sleep(self.step_s)
            now = anyio.current_time()
            is_poll = instruction == avr_isp.poll_ready()
            assert is_poll or now >= self._until, "an instruction while busy"
            if instruction[0] in {0x4C, 0xC0, 0xC2}:
                self._until = now + self.busy_s
            self.seen.append(instruction)
            replies.append(int(is_poll and now < self._until))
        return bytes(replies)

    @property
    def polls(self) -> int:
        return self.seen.count(avr_isp.poll_ready())

    @property
    def is_busy(self) -> bool:
        return anyio.current_time() < self._until


@pytest.mark.parametrize("busy_ms", [0.5, 2.0, 3.7, 4.4])
@pytest.mark.parametrize("step_ms", [0.3, 0.7, 3.0])
@virtual
async def test_waiting_fits_itself_to_part_and_bus(busy_ms: float, step_ms: float) -> None:
    target = BusyTarget(busy_ms / 1000, step_ms / 1000)
    writes = SelfTimedWrites(PAGED, target.send)
    pages = 200
    for _ in range(pages):
        await writes.commit([avr_isp.write_flash_page(WordAddress(0))], MemoryKind.FLASH, 0)
        assert not target.is_busy
    least_s = pages * max(2 * target.step_s, target.step_s + target.busy_s)
    assert anyio.current_time() < least_s + pages * (0.0012 + min(0.001, target.step_s))
    assert target.polls < pages * (1.6 + 0.001 / target.step_s)


@virtual
async def test_a_part_without_a_busy_bit_is_given_the_longest_time_and_asked_nothing() -> None:
    target = BusyTarget(BLIND.times.flash_s)
    writes = SelfTimedWrites(BLIND, target.send)
    for _ in range(3):
        await writes.commit([avr_isp.write_flash_page(WordAddress(0))], MemoryKind.FLASH, 0)
    await writes.confirm(MemoryKind.FLASH, 0)
    assert anyio.current_time() == pytest.approx(3 * (target.step_s + BLIND.times.flash_s))
    assert target.polls == 0


@virtual
async def test_a_target_that_stays_busy_is_told_with_its_address_after_four_times_the_limit() -> None:
    target = BusyTarget(10.0)
    with pytest.raises(TargetError) as stuck:
        await SelfTimedWrites(PAGED, target.send).commit(
            [avr_isp.write_flash_page(WordAddress(0x80))], MemoryKind.FLASH, 0x100
        )
    assert (stuck.value.code, stuck.value.facts.address) == (ErrorCode.TARGET_BUSY, 0x100)
    assert 4 * PAGED.times.flash_s < anyio.current_time() < 6 * PAGED.times.flash_s


@virtual
async def test_a_cancelled_task_goes_only_when_the_target_is_ready() -> None:
    target = BusyTarget(0.0044)
    writes = SelfTimedWrites(PAGED, target.send)
    with anyio.move_on_after(0.001) as scope:
        await writes.commit([avr_isp.write_flash_page(WordAddress(0))], MemoryKind.FLASH, 0)
        await anyio.sleep(1)
    assert scope.cancelled_caught
    assert target.seen
    assert not target.is_busy
    assert anyio.current_time() < 0.01


@pytest.mark.parametrize(
    ("part", "segment", "instructions"),
    [
        (PAGED, Segment(6, bytes(8)), "C0 C0 C1C1C1C1C2 C0 C0"),
        (PAGED, Segment(8, bytes(4)), "C1C1C1C1C2"),
        (replace(PAGED, eeprom=replace(PAGED.eeprom, is_paged=False)), Segment(8, bytes(4)), "C0 C0 C0 C0"),
    ],
)
@virtual
async def test_eeprom_goes_by_pages_where_they_are_whole(part: AvrPart, segment: Segment, instructions: str) -> None:
    target = BusyTarget(0.004)
    watch = Watch()
    assert await SelfTimedWrites(part, target.send).write_eeprom([segment], watch) == 1
    sent = b"".join(one[:1] for one in target.seen if one != avr_isp.poll_ready())
    assert sent == bytes.fromhex(instructions)
    assert watch.total == len(segment.data)


@virtual
async def test_eeprom_stops_between_pages_and_is_refused_whole_where_it_does_not_fit() -> None:
    target = BusyTarget(0.004)
    writes = SelfTimedWrites(PAGED, target.send)
    segments = [Segment(0, bytes(8)), Segment(16, bytes(4))]
    assert await writes.write_eeprom(segments, Watch(stop_after=2)) == 1
    before = len(target.seen)
    with pytest.raises(LocalProtocolError):
        await writes.write_eeprom([Segment(0, bytes(4)), Segment(1022, bytes(4))], Watch())
    assert len(target.seen) == before

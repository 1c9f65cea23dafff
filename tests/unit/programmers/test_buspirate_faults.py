"""A Bus Pirate on a bad line, pulled, cancelled, reset or hanging: nothing wrong is taken for right, and nothing is left held."""

import random

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.buspirate_rig import CODE, PAGES, PORT, U4, V3, V4, Rig, erase, rig, signature

from ispd.errors import IspdError, LinkClosedError, ProgrammerError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer
from ispd.wire import avr_isp
from vbench.faults import CorruptReply, DropReply, LineNoise, Mute, PowerLoss, SlowWrites
from vbench.virtual_time import run_virtual, virtual


async def whole_session(place: Rig, *, code: bytes = CODE) -> None:
    """Write and read back until it worked once; whatever is reported must be true. Raises ``LinkClosedError``."""
    assert place.target is not None
    programmer: IspProgrammer | None = None
    pages = [Segment(at, code[at : at + 128]) for at in range(0, len(code), 128)]
    for _ in range(4):
        try:
            if programmer is None:
                programmer = await place.open()
            await programmer.enter(U4, 1_000_000)
            assert await signature(programmer) == U4.signature.value
            await erase(programmer)
            done = await programmer.write(U4, MemoryKind.FLASH, pages, Watch())
            assert done == len(pages)
            place.bench.target(PORT)
            assert place.target.flash[: len(code)] == code
            assert await programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
            await programmer.leave()
            place.check()
            await programmer.aclose()
        except LinkClosedError:
            raise
        except IspdError:
            continue
        else:
            return
    pytest.fail("it never worked again")


@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
@pytest.mark.parametrize("seed", range(30))
def test_a_reply_byte_lost_or_added_is_never_taken_for_data(firmware: str, seed: int) -> None:
    chance = random.Random(seed)
    index = chance.randrange(2100)
    fault = DropReply(index) if seed % 2 else LineNoise(index, chance.randbytes(chance.randrange(1, 4)))
    place = rig(V3 if seed % 3 else V4, firmware, line_faults=[fault])
    run_virtual(whole_session, place)


@pytest.mark.parametrize("seed", range(30))
def test_a_spoiled_reply_byte_spoils_no_more_than_itself(seed: int) -> None:
    """A byte of data that was changed on a UART cannot be told from a good one: a verify finds it. Nothing else may change."""

    async def session() -> None:
        chance = random.Random(seed)
        place = rig(line_faults=[CorruptReply(chance.randrange(900, 2100), 1 << chance.randrange(8))])
        assert place.target is not None
        programmer = await place.open()
        for _ in range(3):
            try:
                await programmer.enter(U4, 1_000_000)
                await erase(programmer)
                await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
                place.bench.target(PORT)
                assert place.target.flash[: len(CODE)] == CODE
                heard = await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch())
                assert sum(one != other for one, other in zip(heard, CODE, strict=True)) <= 1
                await programmer.leave()
            except IspdError:
                continue
            else:
                break
        else:
            pytest.fail("it never worked again")
        place.check()

    run_virtual(session)


@pytest.mark.parametrize("seed", range(40))
def test_unplugging_at_any_byte_is_told_as_such(seed: int) -> None:
    async def session() -> None:
        place = rig(V4 if seed % 4 == 0 else V3, line_faults=[PowerLoss(bytes=random.Random(seed).randrange(1, 3000))])
        with pytest.raises(LinkClosedError):
            await whole_session(place)
        assert place.target is not None
        assert not place.target.in_reset

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
@pytest.mark.parametrize("seed", range(20))
def test_a_cancelled_task_leaves_whole_pages_and_no_reset(firmware: str, seed: int) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        assert place.target is not None
        programmer = await place.open_and_erase()
        with anyio.move_on_after(random.Random(seed).uniform(0, 0.13)):
            await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
            await programmer.read(MemoryKind.FLASH, Span(0, 0x4000), Watch())
        with anyio.move_on_after(0):
            await programmer.leave()
        place.check()
        for page in PAGES:
            assert place.target.flash[page.start : page.span.stop] in (page.data, b"\xff" * 128)
        await programmer.enter(U4, 1_000_000)
        await erase(programmer)
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch()) == CODE
        await programmer.leave()
        place.check()

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["5.10", "7.1-2018", "8.0"])
@pytest.mark.parametrize("seed", range(15))
def test_a_cancelled_entering_holds_nothing(firmware: str, seed: int) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open()
        with anyio.move_on_after(random.Random(seed).uniform(0, 0.4)):
            await programmer.enter(U4, 1_600_000)
            await anyio.sleep(1)
        await programmer.leave()
        place.check()
        await programmer.enter(U4, 1_600_000)
        assert await signature(programmer) == U4.signature.value
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_a_bus_pirate_that_was_reset_meanwhile_is_brought_up_again() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    now = place.bench.now()
    place.board.power_off(now)
    place.board.power_on(now)
    with pytest.raises(IspdError):
        await signature(programmer)
    assert await signature(programmer) == U4.signature.value
    assert place.bench.taps[0].rates[-1] == 2_000_000
    await programmer.leave()
    place.check()


@virtual
async def test_one_that_hangs_is_silent_and_closing_it_does_not_hang() -> None:
    place = rig(line_faults=[Mute(after_replies=1200)])
    programmer = await place.open_and_erase()
    with pytest.raises(IspdError):
        await programmer.read(MemoryKind.FLASH, Span(0, 0x4000), Watch())
    with pytest.raises(ProgrammerError):
        await programmer.leave()
    began = anyio.current_time()
    await programmer.aclose()
    assert anyio.current_time() - began < 2


@pytest.mark.parametrize("firmware", ["5.10", "6.1", "8.0"])
def test_a_target_slower_than_its_data_sheet_gets_the_time_its_first_page_took(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware, chip_faults=[SlowWrites(factor=1.7)])
        assert place.target is not None
        programmer = await place.open()
        await programmer.enter(U4, 1_000_000)
        await programmer.transfer([avr_isp.chip_erase()])
        await anyio.sleep(0.05)
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        await programmer.leave()
        place.check()
        assert place.target.flash[: len(CODE)] == CODE

    run_virtual(session)

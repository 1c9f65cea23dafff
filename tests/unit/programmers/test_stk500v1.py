"""Who answers as an ArduinoISP, and who only seems to; on virtual time."""

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.stk500v1_rig import CODE, PAGES, PORT, U4, rig

from ispd.errors import ErrorCode, IspdError, ProgrammerError
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import SerialSettings
from vbench.faults import Mute
from vbench.line import Flavour
from vbench.virtual_time import virtual


@virtual
async def test_an_uno_that_was_reset_by_opening_is_waited_for() -> None:
    place = rig(Flavour.UNO)
    programmer = await place.open()
    assert 1.5 < anyio.current_time() < 3.0
    assert programmer.identity.firmware == "1.18"
    place.check()


@virtual
async def test_a_bootloader_in_front_of_the_sketch_gets_time_to_leave() -> None:
    place = rig(Flavour.UNO, baud=115200)
    programmer = await place.open()
    assert anyio.current_time() < 4.0
    assert programmer.identity.firmware == "1.18"
    place.check()


@virtual
async def test_a_board_with_nothing_but_a_bootloader_is_refused_unwritten() -> None:
    place = rig(Flavour.UNO, baud=115200, stuck_in_bootloader=True)
    with pytest.raises(ProgrammerError) as refused:
        await place.open()
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    assert "10 uF" in refused.value.hint
    assert place.board.optiboot.writes == 0
    again = await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
    await again.aclose()


@virtual
async def test_silence_is_told_as_such_and_closes_the_port() -> None:
    place = rig(line_faults=[Mute(after_replies=0)])
    with pytest.raises(ProgrammerError) as refused:
        await place.open()
    assert refused.value.code is ErrorCode.PROGRAMMER_SILENT
    assert anyio.current_time() < 5
    await (await place.bench.open_serial(SerialSettings(port=PORT, baud=19200))).aclose()


@virtual
async def test_a_board_that_fell_into_its_bootloader_after_entering_is_not_written() -> None:
    place = rig(Flavour.UNO, baud=115200)
    programmer = await place.open_and_erase()
    place.reset_board()
    await anyio.sleep(0.1)
    with pytest.raises(ProgrammerError) as refused:
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    assert set(place.board.optiboot.flash) == {0xFF}
    await programmer.enter(U4, None)
    assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
    await programmer.leave()
    assert place.target.flash[: len(CODE)] == CODE
    assert place.board.optiboot.writes == 0


@pytest.mark.parametrize("baud", [19200, 115200])
def test_a_reset_at_any_moment_of_a_write_never_writes_the_programmer(baud: int) -> None:
    @virtual
    async def reset_after(delay_s: float) -> None:
        place = rig(Flavour.UNO, baud=baud)
        programmer = await place.open_and_erase()
        async with anyio.create_task_group() as tasks:

            async def reset() -> None:
                await anyio.sleep(delay_s)
                place.reset_board()

            tasks.start_soon(reset)
            try:
                await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
            except IspdError as error:
                told.append(error.code)
            tasks.cancel_scope.cancel()
        await programmer.leave()
        assert not place.target.in_reset
        assert place.board.optiboot.writes == 0

    told: list[ErrorCode] = []
    for number in range(25):
        reset_after(0.003 + number * 0.0231)
    assert told, "at least some of the resets fell into the write"
    assert set(told) <= {ErrorCode.LINK_TIMEOUT, ErrorCode.PROTOCOL_REMOTE, ErrorCode.PROGRAMMER_IS_BOOTLOADER}


@virtual
async def test_a_half_sent_block_of_an_earlier_run_is_not_completed_into_the_target() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    await programmer.aclose()
    port = await place.bench.open_serial(SerialSettings(port=PORT, baud=19200))
    await port.send(bytes.fromhex("55000020 64008046") + bytes(range(61)))
    await port.aclose()
    programmer = await place.open()
    await programmer.enter(U4, None)
    assert await programmer.read(MemoryKind.FLASH, Span(0, 256), Watch()) == b"\xff" * 256
    assert place.board.optiboot.writes == 0
    assert place.target.violations == []

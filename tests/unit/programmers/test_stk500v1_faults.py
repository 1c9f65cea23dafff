"""An ArduinoISP on a bad line, a target that never ends its write, and misuse."""

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.stk500v1_rig import CODE, PAGES, U4, rig

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, IspdError, LocalProtocolError, RemoteProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.stk500v1 import DRIVER, window_of
from ispd.transport.contract import UsbIdentity
from ispd.wire import avr_isp
from vbench.faults import BusyForever, CorruptReply, DropReply, LineNoise, ProgrammerFault
from vbench.line import Flavour
from vbench.serial_programmer import usb_identity_of
from vbench.virtual_time import run_virtual, virtual


@pytest.mark.parametrize("baud", [19200, 1_000_000])
@pytest.mark.parametrize("kind", ["dropped", "changed", "doubled"])
def test_wherever_a_reply_is_spoiled_it_is_an_error_once_and_the_next_session_is_clean(kind: str, baud: int) -> None:
    async def session(fault: ProgrammerFault) -> list[ErrorCode]:
        place = rig(baud=baud, line_faults=[fault])
        programmer = await place.open()
        told: list[ErrorCode] = []
        for _ in range(3):
            try:
                await programmer.enter(U4, None)
                await programmer.transfer([avr_isp.chip_erase()])
                await anyio.sleep(0.01)
                await programmer.write(U4, MemoryKind.FLASH, PAGES[:3], Watch())
                back = await programmer.read(MemoryKind.FLASH, Span(0, 384), Watch())
            except IspdError as error:
                told.append(error.code)
                await programmer.leave()
        assert back == CODE[:384]
        assert place.target.flash[:384] == CODE[:384]
        assert place.board.optiboot.writes == 0
        return told

    told: list[ErrorCode] = []
    for index in range(20, 131, 3 if baud == 19200 else 10):
        faults: dict[str, ProgrammerFault] = {
            "dropped": DropReply(index=index),
            "changed": CorruptReply(index=index, mask=0x14),
            "doubled": LineNoise(index=index, data=b"\x00"),
        }
        errors = run_virtual(session, faults[kind])
        assert len(errors) <= 1, f"{faults[kind]} was told {len(errors)} times"
        told += errors
    assert set(told) <= {ErrorCode.PROTOCOL_REMOTE, ErrorCode.LINK_TIMEOUT}
    assert told, "most of them fall into replies that frame something"


def test_after_a_loss_of_framing_the_next_call_synchronises_and_enters_again() -> None:
    async def rehearse() -> int:
        place = rig()
        await place.open_and_erase()
        return place.board.replies

    async def session(replies: int) -> None:
        place = rig(line_faults=[DropReply(index=replies + 4)])
        programmer = await place.open_and_erase()
        with pytest.raises(RemoteProtocolError):
            await programmer.transfer([avr_isp.read_signature(0)] * 4)
        assert await programmer.transfer([avr_isp.read_signature(2)]) == b"\x87"
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert place.target.flash[: len(CODE)] == CODE
        place.check()

    run_virtual(session, run_virtual(rehearse))


@pytest.mark.parametrize("memory", [MemoryKind.FLASH, MemoryKind.EEPROM])
def test_a_write_that_never_ends_is_given_up(memory: MemoryKind) -> None:
    @virtual
    async def session() -> None:
        place = rig(Flavour.LEONARDO, chip_faults=[BusyForever(after_writes=1)])
        programmer = await place.open()
        await programmer.enter(U4, None)
        begun = anyio.current_time()
        with pytest.raises(TargetError) as refused:
            await programmer.write(U4, memory, PAGES, Watch())
        assert refused.value.code is ErrorCode.TARGET_BUSY
        assert (refused.value.facts.memory, refused.value.facts.address) == (memory, 0)
        assert anyio.current_time() - begun < 0.3
        await programmer.leave()

    session()


@virtual
async def test_misuse_is_refused_before_a_byte_is_sent() -> None:
    place = rig()
    programmer = await place.open()
    received = place.board.mcu.received
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
    await programmer.enter(U4, None)
    received = place.board.mcu.received
    other = load_parts().avr("atmega328p")
    for part, memory, pages in (
        (other, MemoryKind.FLASH, PAGES),
        (U4, MemoryKind.FLASH, [Segment(2, bytes(128))]),
        (U4, MemoryKind.FLASH, [Segment(0, bytes(64))]),
        (U4, MemoryKind.LFUSE, [Segment(0, b"\x5e")]),
    ):
        with pytest.raises(LocalProtocolError):
            await programmer.write(part, memory, pages, Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.read(MemoryKind.LOCK, Span(0, 1), Watch())
    assert place.board.mcu.received == received


def test_only_boards_with_native_usb_may_be_flooded() -> None:
    for flavour in (Flavour.UART, Flavour.UNO):
        assert window_of(usb_identity_of(flavour)).ahead_bytes == 60
    for flavour in (Flavour.LEONARDO, Flavour.TEENSYDUINO):
        assert window_of(usb_identity_of(flavour)).ahead_bytes is None
    assert window_of(None).ahead_bytes == 60
    assert DRIVER.claims(usb_identity_of(Flavour.TEENSYDUINO))
    assert DRIVER.claims(usb_identity_of(Flavour.UNO))
    assert not DRIVER.claims(usb_identity_of(Flavour.UART)), "a bare converter may be anything"
    caterina = UsbIdentity(vendor_id=0x2341, product_id=0x0036)
    assert not DRIVER.claims(caterina)

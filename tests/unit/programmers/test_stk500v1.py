"""ArduinoISP's traps, each on the emulated sketch, on virtual time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import pytest
from tests.conformance.beds import Watch

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, IspdError, LocalProtocolError, ProgrammerError, RemoteProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.stk500v1 import DRIVER, window_of
from ispd.programmers.stk500v1_sketch import Sketch
from ispd.transport.contract import SerialSettings, UsbIdentity
from ispd.transport.link import SerialLink
from ispd.wire import avr_isp
from ispd.wire.avr_isp import WordAddress
from ispd.wire.engine import Chain
from ispd.wire.stk500v1 import LoadAddress, ProgramPage
from vbench.faults import BusyForever, CorruptReply, DropReply, Fault, LineNoise, Mute, ProgrammerFault
from vbench.hardware import BenchHardware, BenchPort
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer, usb_identity_of
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

U4 = load_parts().get("atmega32u4")
CODE = random.Random(1).randbytes(8 * 128)
PAGES = [Segment(at, CODE[at : at + 128]) for at in range(0, len(CODE), 128)]
PORT = "A1"


class CountingBench(BenchHardware):
    """Counts how often ports are opened."""

    opened = 0

    async def open_serial(self, settings: SerialSettings) -> BenchPort:
        self.opened += 1
        return await super().open_serial(settings)


@dataclass(frozen=True, slots=True)
class Rig:
    """A bench with one programmer, not yet opened."""

    bench: CountingBench
    board: SerialProgrammer
    target: AvrTarget

    async def open(self) -> IspProgrammer:
        return await DRIVER.open(self.bench, PORT, baud=self.board.baud, usb=self.board.usb)

    async def open_and_erase(self) -> IspProgrammer:
        programmer = await self.open()
        await programmer.enter(U4, None)
        await programmer.transfer([avr_isp.chip_erase()])
        await anyio.sleep(0.01)
        return programmer

    def reset_board(self) -> None:
        """Reset an Uno as a supply dip would: its bootloader comes first."""
        now = self.bench.now()
        self.board.opened(now, baud=self.board.baud, dtr=False)
        self.board.opened(now, baud=self.board.baud, dtr=True)

    def check(self) -> None:
        self.bench.target(PORT)
        assert self.board.mcu.lost == 0
        assert self.board.optiboot.writes == 0
        assert [str(violation) for violation in self.target.violations] == []


def rig(
    flavour: Flavour = Flavour.UART,
    *,
    baud: int = 19200,
    line_faults: Sequence[ProgrammerFault] = (),
    chip_faults: Sequence[Fault] = (),
    stuck_in_bootloader: bool = False,
) -> Rig:
    target = AvrTarget(U4, faults=chip_faults)
    board = SerialProgrammer(
        flavour, baud=baud, target=target, faults=line_faults, stuck_in_bootloader=stuck_in_bootloader
    )
    bench = CountingBench()
    bench.add(PORT, board)
    return Rig(bench, board, target)


# -- who answers -------------------------------------------------------------------------------------------------------


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


# -- what the sketch does differently ----------------------------------------------------------------------------------


@virtual
async def test_entering_without_a_target_succeeds_and_only_the_signature_tells() -> None:
    place = rig()
    place.bench.remove(PORT)
    programmer = await place.open()
    assert await programmer.enter(None, None) == 125_000
    nothing = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
    assert nothing != U4.signature.value
    place.bench.insert(PORT, place.target)
    await programmer.enter(None, None)
    there = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
    assert there == U4.signature.value
    place.check()


@virtual
async def test_eeprom_goes_by_word_address_up_to_its_last_cell() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    settings = random.Random(2).randbytes(300)
    start = 1024 - len(settings)
    assert await programmer.write(U4, MemoryKind.EEPROM, [Segment(start, settings)], Watch()) == 1
    assert place.target.eeprom[start:] == settings
    assert set(place.target.eeprom[:start]) == {0xFF}
    for span in (Span(start, 1024), Span(start + 1, start + 2), Span(1023, 1024), Span(start + 3, start + 262)):
        assert (
            await programmer.read(MemoryKind.EEPROM, span, Watch()) == settings[span.start - start : span.stop - start]
        )
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.EEPROM, [Segment(1023, b"\0\0")], Watch())
    place.check()


@virtual
async def test_new_clock_fuses_act_after_entering_again() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    before = place.target.clock_hz
    await programmer.transfer([avr_isp.write_fuse(MemoryKind.LFUSE, 0xDE)])
    await anyio.sleep(0.01)
    assert place.target.clock_hz == before
    await programmer.enter(U4, None)
    assert await programmer.transfer([avr_isp.read_fuse(MemoryKind.LFUSE)]) == b"\xde"
    assert place.target.clock_hz != before
    place.check()


@virtual
async def test_one_port_serves_board_after_board_without_resetting_the_programmer() -> None:
    place = rig(Flavour.UNO)
    programmer = await place.open()
    sketch = place.board.sketch
    for number in range(3):
        if number:
            place.bench.insert(PORT, AvrTarget(U4))
        await programmer.enter(U4, None)
        assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\x1e"
        await programmer.leave()
        place.bench.remove(PORT)
    assert place.bench.opened == 1
    assert place.board.sketch is sketch
    assert place.board.mcu.lost == 0


@pytest.mark.parametrize(("flavour", "baud"), [(Flavour.UART, 19200), (Flavour.UART, 1_000_000)])
@pytest.mark.parametrize("name", ["atmega2560", "attiny85", "at90usb1286", "atmega328p"])
def test_parts_of_all_sizes_by_blocks_and_by_loads(name: str, flavour: Flavour, baud: int) -> None:
    part = load_parts().get(name)

    @virtual
    async def session() -> None:
        target = AvrTarget(part)
        bench = BenchHardware()
        board = SerialProgrammer(flavour, baud=baud, target=target)
        bench.add(PORT, board)
        programmer = await DRIVER.open(bench, PORT, baud=baud, usb=board.usb)
        await programmer.enter(part, None)
        size = part.flash.page_bytes
        middle, top = part.flash.size_bytes // 2, part.flash.size_bytes
        places = [0, middle - size, middle, top - size]
        content = {place: random.Random(place).randbytes(size) for place in places}
        pages = [Segment(place, data) for place, data in content.items()]
        assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == 4
        across = await programmer.read(MemoryKind.FLASH, Span(middle - size, middle + size), Watch())
        assert across == content[middle - size] + content[middle]
        assert await programmer.read(MemoryKind.FLASH, Span(top - size, top), Watch()) == content[top - size]
        assert await programmer.read(MemoryKind.FLASH, Span(0, size), Watch()) == content[0]
        await programmer.leave()
        assert all(target.flash[place : place + size] == data for place, data in content.items())
        assert target.violations == []

    session()


@virtual
async def test_an_extended_address_set_by_the_caller_is_not_mistaken_for_ours() -> None:
    part = load_parts().get("atmega2560")
    target = AvrTarget(part)
    bench = BenchHardware()
    bench.add(PORT, SerialProgrammer(Flavour.UART, target=target))
    programmer = await DRIVER.open(bench, PORT)
    await programmer.enter(part, None)
    first, second = (random.Random(seed).randbytes(256) for seed in (1, 2))
    assert await programmer.write(part, MemoryKind.FLASH, [Segment(0, first)], Watch()) == 1
    await programmer.transfer([avr_isp.load_extended_address(1), avr_isp.read_signature(0)])
    assert await programmer.write(part, MemoryKind.FLASH, [Segment(256, second)], Watch()) == 1
    assert target.flash[:512] == first + second
    assert set(target.flash[512:]) == {0xFF}


@virtual
async def test_bytes_owed_to_a_block_are_paid_so_that_nothing_is_written() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    link = SerialLink(await reopened(place, programmer))
    sketch = Sketch(link, window_of(None))
    await sketch.ensure()
    block = Chain((LoadAddress(WordAddress(0)),), ProgramPage(bytes(range(128))))
    await link.say(block.encode()[:-2])
    link.lose_sync(owed_bytes=2)
    await sketch.ensure()
    assert anyio.current_time() < 1.5, "long before a stuck board would be freed by force"
    assert set(place.target.flash) == {0xFF}


async def reopened(place: Rig, programmer: IspProgrammer) -> BenchPort:
    """Close the programmer, its target still in programming mode, and open its port bare."""
    await programmer.aclose()
    return await place.bench.open_serial(SerialSettings(port=PORT, baud=place.board.baud))


@pytest.mark.parametrize(
    ("flavour", "baud", "page_ms", "read_ms"),
    [
        (Flavour.UART, 19200, 104.5, 135.0),  # 73 of 133 bytes visible, 65 ms of work; 258 bytes on the line
        (Flavour.UNO, 115200, 75.0, 70.0),  # the sketch's own work and a converter's latency
        (Flavour.UART, 1_000_000, 42.0, 70.0),  # single loads: 129 instructions and 4.5 ms
        (Flavour.LEONARDO, 19200, 46.0, 70.0),
        (Flavour.TEENSYDUINO, 19200, 50.0, 70.0),
    ],
)
def test_the_line_and_the_sketch_are_used_to_the_full(
    flavour: Flavour, baud: int, page_ms: float, read_ms: float
) -> None:
    @virtual
    async def session() -> None:
        place = rig(flavour, baud=baud)
        programmer = await place.open_and_erase()
        code = random.Random(9).randbytes(48 * 128)
        pages = [Segment(at, code[at : at + 128]) for at in range(0, len(code), 128)]
        begun = anyio.current_time()
        assert await programmer.write(U4, MemoryKind.FLASH, pages, Watch()) == 48
        written = anyio.current_time()
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
        assert (written - begun) * 1000 / 48 < page_ms + 3, "the first page and the measurement come on top"
        assert (anyio.current_time() - written) * 1000 / 24 < read_ms
        place.check()

    session()


# -- when things go wrong ----------------------------------------------------------------------------------------------


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
    other = load_parts().get("atmega328p")
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

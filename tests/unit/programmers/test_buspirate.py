"""The Bus Pirate's traps, each on the emulated firmwares, on virtual time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from tests.conformance.beds import Watch

from ispd.catalog.parts import load_parts
from ispd.errors import (
    ErrorCode,
    IspdError,
    LinkClosedError,
    LocalProtocolError,
    ProgrammerError,
    TargetError,
    TransportError,
)
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.buspirate import DRIVER
from ispd.programmers.contract import IspProgrammer
from ispd.transport.contract import BytePort, PortKind, SerialSettings, UsbIdentity
from ispd.wire import avr_isp
from vbench.bus_pirate import BusPirate, BusPirateHardware, BusPirateWiring
from vbench.bus_pirate_firmware import FIRMWARES
from vbench.faults import (
    BusyForever,
    CorruptReply,
    DropReply,
    Fault,
    LineNoise,
    Mute,
    PowerLoss,
    ProgrammerFault,
    SlowWrites,
)
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

V3, V4 = BusPirateHardware.V3, BusPirateHardware.V4
PARTS = load_parts()
U4 = PARTS.get("atmega32u4")
PORT = "A1"
FAST_FUSES = {MemoryKind.LFUSE: 0xDE}
"""A 16 MHz crystal without division: SCK up to 2.67 MHz."""
CODE = random.Random(1).randbytes(6 * 128)
PAGES = [Segment(at, CODE[at : at + 128]) for at in range(0, len(CODE), 128)]
LATENCY_S = 1e-3
"""What the transport asks an FTDI chip for."""


@dataclass(slots=True)
class Tap:
    """A port of the bench that remembers what went out, and may refuse rates or lose bytes at some."""

    port: BytePort
    rates: list[int]
    refused: frozenset[int] = frozenset()
    lossy: frozenset[int] = frozenset()
    sent: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.port.name

    async def send(self, data: bytes) -> None:
        self.sent.append((self.rates[-1], data))
        await self.port.send(data[:-1] if self.rates[-1] in self.lossy and len(data) > 8 else data)

    async def receive(self) -> bytes:
        return await self.port.receive()

    def take(self) -> bytes:
        return self.port.take()

    async def set_baud(self, baud: int) -> None:
        if baud in self.refused:
            raise TransportError(ErrorCode.INVALID_PARAMETER, f"{baud} baud?")
        self.rates.append(baud)
        await self.port.set_baud(baud)

    async def aclose(self) -> None:
        await self.port.aclose()


class TappedBench(BenchHardware):
    """A bench whose ports are tapped."""

    taps: list[Tap]
    refused: frozenset[int] = frozenset()
    lossy: frozenset[int] = frozenset()

    async def open_serial(self, settings: SerialSettings) -> Tap:  # type: ignore[override]  # it is one, and more
        tap = Tap(await super().open_serial(settings), [settings.baud], self.refused, self.lossy)
        self.taps = [*getattr(self, "taps", []), tap]
        return tap


@dataclass(frozen=True, slots=True)
class Rig:
    """A bench with one Bus Pirate, not yet opened."""

    bench: TappedBench
    board: BusPirate
    target: AvrTarget | None

    async def open(self, baud: int | None = None) -> IspProgrammer:
        return await DRIVER.open(self.bench, PORT, baud=baud, usb=self.board.usb)

    async def open_and_erase(self, sck_hz: int | None = 1_600_000) -> IspProgrammer:
        programmer = await self.open()
        await programmer.enter(U4, sck_hz)
        await erase(programmer)
        return programmer

    async def type(self, *lines: bytes, baud: int = 115200) -> None:
        """Say something to the Bus Pirate as another program would, and let go of the port."""
        port = await self.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        for line in lines:
            await port.send(line)
            await anyio.sleep(0.1)
            port.take()
        if baud != 115200:
            await port.set_baud(baud)
            await port.send(b" ")
            await anyio.sleep(0.1)
        await port.aclose()

    def feeds(self) -> bool:
        """Tell whether the Bus Pirate's supplies are on."""
        self.bench.target(PORT)
        return self.board.pins.power

    def check(self) -> None:
        """Fail on anything a data sheet forbids, on a deaf receiver, and on a target left in reset or under current."""
        self.bench.target(PORT)
        assert self.board.lost == 0
        assert self.board.pins.cs_is_high
        assert not self.feeds()
        if self.target is not None:
            assert [str(violation) for violation in self.target.violations] == []


def rig(
    hardware: BusPirateHardware = V3,
    firmware: str | None = None,
    *,
    target: AvrTarget | None = None,
    line_faults: Sequence[ProgrammerFault] = (),
    chip_faults: Sequence[Fault] = (),
    own_supply: bool = False,
    latency_s: float = LATENCY_S,
    empty: bool = False,
) -> Rig:
    if target is None and not empty:
        target = AvrTarget(U4, fuses=FAST_FUSES, faults=chip_faults)
    wiring = BusPirateWiring(own_supply=own_supply)
    board = BusPirate(hardware, firmware, target=target, faults=line_faults, latency_s=latency_s, wiring=wiring)
    bench = TappedBench()
    bench.add(PORT, board)
    return Rig(bench, board, target)


async def erase(programmer: IspProgrammer) -> None:
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(0.0105)


async def signature(programmer: IspProgrammer) -> bytes:
    return await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])


# -- every firmware ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize("hardware", BusPirateHardware)
@pytest.mark.parametrize("sck_hz", [1_600_000, 400_000, 130_000])
def test_every_firmware_writes_and_reads_what_it_was_given(
    hardware: BusPirateHardware, firmware: str, sck_hz: int
) -> None:
    async def session() -> None:
        place = rig(hardware, firmware)
        assert place.target is not None
        programmer = await place.open_and_erase(sck_hz)
        assert programmer.identity.kind == "buspirate"
        assert await signature(programmer) == U4.signature.value
        watch = Watch()
        settings = random.Random(2).randbytes(11)
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, watch) == len(PAGES)
        assert await programmer.write(U4, MemoryKind.EEPROM, [Segment(3, settings)], watch) == 1
        assert watch.total == len(CODE) + len(settings)
        assert await programmer.read(MemoryKind.FLASH, Span(1, 0x301), watch) == (CODE + b"\xff")[1:]
        assert await programmer.read(MemoryKind.EEPROM, Span(3, 14), watch) == settings
        assert watch.total == 2 * (len(CODE) + len(settings))
        await programmer.leave()
        place.check()
        assert place.target.flash[: len(CODE)] == CODE
        assert place.target.eeprom[3:14] == settings
        await programmer.aclose()
        again = await place.open()
        assert again.identity == programmer.identity
        place.check()

    run_virtual(session)


@pytest.mark.parametrize(
    ("hardware", "firmware", "baud", "text"),
    [
        (V3, "5.2", 115200, "v5.2 on hardware v3.5"),
        (V3, "5.10", 250_000, "v5.10 (r559) on hardware v3.5"),
        (V3, "6.1", 2_000_000, "v6.1 r1676 on hardware v3.5"),
        (V3, "7.1", 2_000_000, "v7.1 on hardware v3.5"),
        (V3, "8.0", 250_000, "v8.0 on hardware v3.5"),
        (V4, "6.3-r2151", 115200, "v6.3-beta1 r2151 on hardware v4"),
        (V4, "7.1", 115200, "unknown firmware on hardware v4"),
    ],
)
def test_the_rate_is_what_hardware_and_firmware_take(
    hardware: BusPirateHardware, firmware: str, baud: int, text: str
) -> None:
    async def session() -> None:
        place = rig(hardware, firmware)
        programmer = await place.open()
        assert place.bench.taps[0].rates[-1] == baud
        assert programmer.identity.firmware == text
        assert hardware is V3 or place.bench.taps[0].rates == [115200]
        await programmer.aclose()
        terminal = await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        await anyio.sleep(0.2)
        terminal.take()
        await terminal.send(b"\n")
        await anyio.sleep(0.1)
        if text.startswith("v"):
            assert terminal.take().endswith(b"HiZ>")

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["6.1", "7.1-2018", "8.0"])
def test_no_command_that_moves_reset_or_goes_unanswered_is_ever_sent(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open_and_erase()
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
        await programmer.leave()
        await programmer.aclose()
        for _, data in place.bench.taps[0].sent:
            assert not data.startswith(b"\x04")
            assert not (data.startswith(b"\x05") and data[3:5] == b"\x00\x00")

    run_virtual(session)


# -- found in any state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "baud"),
    [
        ((b"m\n",), 115200),
        ((b"m\n", b"5\n"), 115200),
        ((b"b\n", b"10\n"), 115200),
        ((b"half a comm",), 115200),
        ((b"\0" * 7,), 115200),
        ((b"\0" * 20,), 115200),
        ((b"\0" * 20, b"\x01"), 115200),
        ((b"\0" * 20, b"\x01", b"\x1f123"), 115200),
        ((b"\0" * 20, b"\x01", b"\x06\x02\0\0"), 115200),
        ((b"\0" * 20, b"\x01", b"\x05\x02\x04\0\x01" + bytes(100)), 115200),
        ((b"\0" * 20, b"\x01", b"\x05\x04\x04\0\x01"), 115200),
        ((b"b\n", b"10\n", b"1\n"), 115200),
        ((b"b\n", b"10\n", b"1\n"), 2_000_000),
        ((b"b\n", b"10\n", b"15\n"), 250_000),
        ((b"b\n", b"9\n"), 115200),
    ],
)
@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
def test_it_is_found_whatever_it_was_left_in(firmware: str, lines: tuple[bytes, ...], baud: int) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        await place.type(*lines, baud=baud)
        programmer = await place.open()
        assert programmer.identity.firmware.startswith(f"v{firmware}")
        await programmer.enter(None, None)
        assert await signature(programmer) == U4.signature.value
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_one_that_a_crash_left_at_2_mbaud_is_found_again() -> None:
    place = rig()
    first = await place.open_and_erase()
    assert place.bench.taps[0].rates[-1] == 2_000_000
    await first.write(U4, MemoryKind.FLASH, PAGES[:2], Watch())
    await place.bench.taps[0].port.aclose()  # no leave, no goodbye
    began = anyio.current_time()
    second = await place.open()
    assert anyio.current_time() - began < 1.5
    await second.enter(U4, None)
    assert await second.read(MemoryKind.FLASH, Span(0, 256), Watch()) == CODE[:256]
    await second.leave()
    place.check()


@virtual
async def test_a_reading_nobody_waits_for_any_more_is_sat_out() -> None:
    place = rig()
    await place.type(b"\0" * 20, b"\x01")
    port = await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
    await port.send(b"\x06\x02" + (0).to_bytes(4, "big") + (0xFFFF).to_bytes(4, "big"))
    await port.aclose()
    programmer = await place.open()
    assert anyio.current_time() > 5
    assert programmer.identity.firmware.startswith("v6.1")
    place.check()


@pytest.mark.parametrize(
    ("firmware", "refused", "lossy"),
    [
        ("6.1", {2_000_000}, set()),
        ("6.1", set(), {2_000_000}),
        ("8.0", set(), {250_000}),
        ("8.0", {800_000}, set()),
        ("8.0", set(), {800_000}),
        ("5.10", set(), {800_000}),
    ],
)
def test_a_rate_that_does_not_work_is_given_up(firmware: str, refused: set[int], lossy: set[int]) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        place.bench.refused, place.bench.lossy = frozenset(refused), frozenset(lossy)
        programmer = await place.open_and_erase()
        assert place.bench.taps[0].rates[-1] == 115200
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch()) == CODE
        await programmer.leave()
        place.check()

    run_virtual(session)


@pytest.mark.parametrize("baud", [None, 57600])
def test_silence_is_told_and_the_port_given_back(baud: int | None) -> None:
    async def session() -> None:
        place = rig(line_faults=[Mute(after_replies=0)])
        with pytest.raises(ProgrammerError) as silent:
            await place.open(baud)
        assert silent.value.code is ErrorCode.PROGRAMMER_SILENT
        assert anyio.current_time() < 20
        await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        assert place.board.lost == 0

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["5.2", "5.10", "6.1", "7.1-2024", "8.0"])
def test_a_converter_that_holds_bytes_back_only_costs_time(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware, latency_s=16e-3)
        programmer = await place.open_and_erase()
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch()) == CODE
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_the_configured_rate_is_only_where_the_search_begins() -> None:
    place = rig()
    await place.open(57600)
    assert place.bench.taps[0].rates[0] == 57600
    assert place.bench.taps[0].rates[-1] == 2_000_000


# -- entering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("firmware", "limits"),
    [
        (
            "6.1",
            {None: 125_000, 20_000: 31_250, 124_999: 31_250, 200_000: 125_000, 1_600_000: 1_000_000, 9**9: 2_000_000},
        ),
        ("8.0", {None: 125_000, 400_000: 250_000, 2_600_000: 2_000_000}),
        ("7.1", {None: 125_000, 400_000: 250_000, 2_600_000: 1_000_000}),
    ],
)
def test_the_fastest_clock_not_above_the_limit_is_used(firmware: str, limits: dict[int | None, int]) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open()
        for limit, used in limits.items():
            assert await programmer.enter(None, limit) == used
            assert place.board.pins.sck_hz == used
            assert await signature(programmer) == U4.signature.value
            assert used in programmer.capabilities.sck_hz
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_the_inverted_edge_is_found_with_the_first_target_and_remembered() -> None:
    place = rig(V3, "7.1-2018", empty=True)
    programmer = await place.open()
    await programmer.enter(None, None)
    assert await signature(programmer) == b"\xff\xff\xff"
    await programmer.leave()
    for _ in range(2):
        place.bench.insert(PORT, AvrTarget(U4))
        began = anyio.current_time()
        await programmer.enter(None, None)
        last_s = anyio.current_time() - began
        assert await signature(programmer) == U4.signature.value
        await programmer.leave()
        place.bench.remove(PORT)
    assert last_s < 0.08
    place.check()


@pytest.mark.parametrize("firmware", ["5.10", "8.0"])
def test_the_rate_follows_the_clock_where_bytes_pass_straight_on(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open()
        rates = place.bench.taps[0].rates
        assert rates[-1] == 250_000
        for part, sck_hz, baud in [
            (U4, 1_600_000, 800_000),
            (None, None, 800_000),  # a look
            (U4, 200_000, 800_000),  # fuses: no rate is slow enough, and little is sent
            (U4, 2_000_000, 800_000),
            (U4, 400_000, 250_000),
        ]:
            before = len(rates)
            await programmer.enter(part, sck_hz)
            assert await signature(programmer) == U4.signature.value
            assert rates[-1] == baud
            assert len(rates) == before or rates[before - 1] != baud
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_entering_again_latches_new_clock_fuses() -> None:
    place = rig(target=AvrTarget(PARTS.get("atmega328p")))
    programmer = await place.open()
    part = PARTS.get("atmega328p")
    await programmer.enter(part, 200_000)
    await programmer.transfer([avr_isp.write_fuse(MemoryKind.LFUSE, 0xE2)])
    await anyio.sleep(0.01)
    assert await programmer.enter(part, 1_600_000) == 1_000_000
    assert await signature(programmer) == part.signature.value
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("own_supply", [False, True])
def test_the_supply_is_on_only_in_programming_mode(own_supply: bool) -> None:
    async def session() -> None:
        place = rig(own_supply=own_supply)
        assert place.target is not None
        programmer = await place.open()
        for _ in range(2):
            assert not place.feeds()
            await programmer.enter(None, None)
            assert place.feeds()
            assert place.target.in_reset
            assert await signature(programmer) == U4.signature.value
            await programmer.leave()
            await programmer.leave()
            assert place.target.powered == own_supply
            place.check()

    run_virtual(session)


@virtual
async def test_nothing_but_looking_works_before_entering() -> None:
    place = rig()
    programmer = await place.open()
    await programmer.leave()
    with pytest.raises(LocalProtocolError):
        await signature(programmer)
    await programmer.enter(None, None)
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.read(MemoryKind.LFUSE, Span(0, 1), Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.transfer([b"\x30\x00\x00"])
    await programmer.enter(U4, None)
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.FLASH, [Segment(64, bytes(128))], Watch())
    await programmer.leave()
    place.check()


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["at90usb1286", "atmega2560", "atmega1284p"])
@pytest.mark.parametrize("hardware", BusPirateHardware)
def test_flash_above_64_kib_is_written_and_read_where_it_belongs(name: str, hardware: BusPirateHardware) -> None:
    part = PARTS.get(name)
    size, page = part.flash.size_bytes, part.flash.page_bytes

    async def session() -> None:
        target = AvrTarget(part, fuses={MemoryKind.LFUSE: part.fuses[0].default | 0x80})
        place = rig(hardware, target=target)
        programmer = await place.open()
        await programmer.enter(part, 1_000_000)
        await erase(programmer)
        await anyio.sleep(0.05)
        places = [0, 0x10000 - page, 0x10000, 0x20000 - 2 * page, size - page]
        code = {at: random.Random(at).randbytes(page) for at in places}
        pages = [Segment(at, data) for at, data in sorted(code.items())]
        assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == len(pages)
        image = bytearray(b"\xff" * size)
        for segment in pages:
            image[segment.start : segment.span.stop] = segment.data
        for span in (Span(size - 3 * page - 1, size), Span(0xFF01, 0x10103), Span(0x1FC00, min(size, 0x20100))):
            watch = Watch()
            assert await programmer.read(MemoryKind.FLASH, span, watch) == image[span.start : span.stop]
            assert watch.total == len(span)
        await programmer.leave()
        place.check()
        assert target.flash == image

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
def test_a_part_without_a_busy_bit_is_given_its_time(firmware: str) -> None:
    part = PARTS.get("atmega32a")

    async def session() -> None:
        target = AvrTarget(part, fuses={MemoryKind.LFUSE: 0xE4})
        place = rig(V3, firmware, target=target)
        programmer = await place.open()
        await programmer.enter(part, 1_000_000)
        await erase(programmer)
        assert await programmer.write(part, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.write(part, MemoryKind.EEPROM, [Segment(1, b"abc")], Watch()) == 1
        await programmer.leave()
        place.check()
        assert target.flash[: len(CODE)] == CODE
        assert target.eeprom[1:4] == b"abc"

    run_virtual(session)


@pytest.mark.parametrize("after_writes", [2, 3, 7])
def test_a_write_that_never_ends_is_told(after_writes: int) -> None:
    async def session() -> None:
        place = rig(chip_faults=[BusyForever(after_writes=after_writes)])
        programmer = await place.open_and_erase()
        with pytest.raises(TargetError) as busy:
            await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
        assert busy.value.code is ErrorCode.TARGET_BUSY
        await programmer.leave()

    run_virtual(session)


@virtual
async def test_a_stop_ends_between_pages_with_the_target_ready() -> None:
    place = rig()
    assert place.target is not None
    programmer = await place.open_and_erase()
    assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch(stop_after=3)) == 3
    assert await programmer.write(U4, MemoryKind.FLASH, PAGES[3:], Watch()) == 3
    some = await programmer.read(MemoryKind.FLASH, Span(0, 0x8000), Watch(stop_after=1))
    assert len(CODE) < len(some) < 0x8000
    assert some.startswith(CODE)
    await programmer.leave()
    place.check()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


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


# -- how fast ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "firmware", "refused", "limit_s"),
    [
        (V3, "5.2", set(), 26.0),
        (V3, "5.10", set(), 5.3),
        (V3, "6.1", {2_000_000}, 14.8),
        (V3, "6.1", set(), 3.8),
        (V3, "8.0", set(), 4.0),
        (V4, "6.3-r2151", set(), 3.8),
    ],
)
def test_28_kib_are_written_and_verified_in_time(
    hardware: BusPirateHardware, firmware: str, refused: set[int], limit_s: float
) -> None:
    """avrdude takes 73 s at its default of 30 kHz, and at best 15 s where it is told to use 1 MHz."""

    async def session() -> None:
        place = rig(hardware, firmware)
        place.bench.refused = frozenset(refused)
        programmer = await place.open_and_erase()
        code = random.Random(28).randbytes(28 * 1024)
        began = anyio.current_time()
        pages = [Segment(at, code[at : at + 128]) for at in range(0, len(code), 128)]
        assert await programmer.write(U4, MemoryKind.FLASH, pages, Watch()) == len(pages)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
        assert anyio.current_time() - began < limit_s
        await programmer.leave()
        place.check()

    run_virtual(session)


def test_only_the_v4_is_claimed() -> None:
    assert DRIVER.port_kind is PortKind.SERIAL
    assert DRIVER.claims(UsbIdentity(vendor_id=0x04D8, product_id=0xFB00))
    assert not DRIVER.claims(UsbIdentity(vendor_id=0x0403, product_id=0x6001, product="FT232R USB UART"))
    assert not DRIVER.claims(UsbIdentity(vendor_id=0x1209, product_id=0x7331))

"""Visits: look, probe and read, on good and bad targets. Each leaves the target running."""

from collections.abc import Sequence

import pytest
from tests.unit.flashing.bench_unit import PARTS, check_left_alone, soil
from tests.unit.flashing.direct_programmer import DirectProgrammer, silent, unplugged

from ispd.errors import ErrorCode, LinkClosedError, LinkTimeoutError, ProgrammerError, TargetError
from ispd.flashing.isp_interface import IspInterface
from ispd.model.part import MemoryKind, Signature
from vbench.faults import Fault, MosiMisoShort, NoisyReplies, SckCeiling, Silent, WrongSignature
from vbench.target import AvrTarget
from vbench.virtual_time import virtual


class Unwatched:
    """A monitor that never stops; ``after_bytes`` makes it."""

    def __init__(self, after_bytes: int | None = None) -> None:
        self.done_bytes = 0
        self._after_bytes = after_bytes

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes

    @property
    def stop_requested(self) -> bool:
        return self._after_bytes is not None and self.done_bytes >= self._after_bytes


def board(*faults: Fault, name: str = "atmega32u4", lock: int = 0xFF) -> AvrTarget:
    return soil(AvrTarget(PARTS.avr(name), faults=faults, lock=lock, unimplemented=0x00))


@pytest.mark.parametrize(
    ("faults", "raw", "code"),
    [
        pytest.param([], "1e9587", None, id="there"),
        pytest.param([WrongSignature(b"\x1e\x42\x42")], "1e4242", None, id="no-part-of-ours-yet-an-AVR"),
        pytest.param([Silent(level=0xFF)], "ffffff", ErrorCode.TARGET_NOT_RESPONDING, id="nobody-high"),
        pytest.param([Silent(level=0x00)], "000000", ErrorCode.TARGET_NOT_RESPONDING, id="nobody-low"),
        pytest.param([MosiMisoShort()], "000000", ErrorCode.TARGET_NOT_RESPONDING, id="short"),
        pytest.param([WrongSignature(b"\x00\x01\x02")], "000102", ErrorCode.TARGET_LOCKED, id="echo"),
        pytest.param([WrongSignature(b"\x10\xf5\x53")], "10f553", ErrorCode.SIGNATURE_UNKNOWN, id="garbage"),
    ],
)
@virtual
async def test_look(faults: Sequence[Fault], raw: str, code: ErrorCode | None) -> None:
    """A look tells what is there, or why nothing sensible answers; the target runs again."""
    target = board(*faults)
    programmer = DirectProgrammer(target)
    sighting = await IspInterface(programmer).look()
    assert sighting.words.split()[2:] == bytes.fromhex(raw).hex(" ").upper().split()
    if code is None:
        assert (sighting.signature, sighting.failure) == (Signature(bytes.fromhex(raw)), None)
    else:
        assert sighting.signature is None
        assert sighting.failure is not None
        assert sighting.failure.code == code
        assert sighting.failure.hint
    assert programmer.log[-1] == "leave"
    check_left_alone(target)


@virtual
async def test_look_slows_down_for_bad_wires() -> None:
    """A programmer with several clocks tries its slowest before it says that nobody is there."""
    sighting = await IspInterface(DirectProgrammer(board(SckCeiling(hz=10_000)), sck_hz=(8_000, 125_000))).look()
    assert sighting.failure is None


@virtual
async def test_probe_tells_everything() -> None:
    """Fuses, lock, calibration and the clock in words; twins are all named."""
    facts = await IspInterface(DirectProgrammer(board(lock=0xEC))).probe(PARTS)
    assert str(facts.signature) == "1E 95 87"
    assert [part.id for part in facts.parts] == ["atmega32u4"]
    assert facts.fuses == {MemoryKind.LFUSE: 0x5E, MemoryKind.HFUSE: 0x99, MemoryKind.EFUSE: 0x03}
    assert (facts.lock, facts.sck_hz, facts.failure) == (0x2C, 125_000, None)
    assert facts.calibration is not None
    assert facts.clock == "crystal or resonator, divided by 8"
    twins = await IspInterface(DirectProgrammer(board(name="at90usb1287"))).probe(PARTS)
    assert [part.id for part in twins.parts] == ["at90usb1286", "at90usb1287"]


@pytest.mark.parametrize(
    ("faults", "code", "signature"),
    [
        ([Silent()], ErrorCode.TARGET_NOT_RESPONDING, None),
        ([NoisyReplies(rate=0.4)], ErrorCode.SIGNATURE_UNSTABLE, None),
        ([WrongSignature(b"\x1e\x42\x42")], ErrorCode.SIGNATURE_UNKNOWN, "1E 42 42"),
    ],
)
@virtual
async def test_probe_of_a_bad_target_is_an_answer(
    faults: Sequence[Fault], code: ErrorCode, signature: str | None
) -> None:
    """What is wrong is told as a failure; a sound but unknown signature is shown beside it."""
    target = board(*faults)
    facts = await IspInterface(DirectProgrammer(target)).probe(PARTS)
    assert facts.failure is not None
    assert facts.failure.code == code
    assert (facts.signature and str(facts.signature)) == signature
    assert (facts.parts, facts.lock) == ((), None)
    check_left_alone(target)


@virtual
async def test_read_every_memory() -> None:
    """Each memory by its name, whole; also where flash needs the extended address."""
    target = board()
    programmer = DirectProgrammer(target)
    expected = {
        MemoryKind.FLASH: bytes(target.flash),
        MemoryKind.EEPROM: bytes(target.eeprom),
        MemoryKind.LFUSE: b"\x5e",
        MemoryKind.HFUSE: b"\x99",
        MemoryKind.EFUSE: b"\x03",
        MemoryKind.LOCK: b"\x3f",
        MemoryKind.SIGNATURE: b"\x1e\x95\x87",
    }
    for memory, content in expected.items():
        assert await IspInterface(programmer).read(PARTS, memory, Unwatched()) == content
    assert len(await IspInterface(programmer).read(PARTS, MemoryKind.CALIBRATION, Unwatched())) == 1
    check_left_alone(target)
    for bulk in (frozenset({MemoryKind.FLASH}), frozenset[MemoryKind]()):
        big = board(name="atmega2560")
        big.flash[0x20000:0x20004] = b"over"
        content = await IspInterface(DirectProgrammer(big, bulk=bulk)).read(PARTS, MemoryKind.FLASH, Unwatched())
        assert content == bytes(big.flash)


@pytest.mark.parametrize("bulk", [frozenset({MemoryKind.FLASH}), frozenset[MemoryKind]()])
@virtual
async def test_read_stops_early(bulk: frozenset[MemoryKind]) -> None:
    """A stopped dump returns what it has."""
    target = board()
    content = await IspInterface(DirectProgrammer(target, bulk=bulk)).read(PARTS, MemoryKind.FLASH, Unwatched(1000))
    assert 1000 <= len(content) <= 1280
    assert content == bytes(target.flash[: len(content)])
    check_left_alone(target)


@virtual
async def test_read_refuses_what_would_be_wrong() -> None:
    """A locked part would answer an echo, a short-sighted programmer the wrong cells: neither is shown as contents."""
    locked = board(lock=0xFC)
    with pytest.raises(TargetError) as error:
        await IspInterface(DirectProgrammer(locked)).read(PARTS, MemoryKind.FLASH, Unwatched())
    assert error.value.code is ErrorCode.TARGET_LOCKED
    check_left_alone(locked)
    with pytest.raises(ProgrammerError):
        await IspInterface(DirectProgrammer(board(), max_flash_bytes=0x4000)).read(PARTS, MemoryKind.FLASH, Unwatched())
    with pytest.raises(ProgrammerError):
        await IspInterface(DirectProgrammer(board(name="atmega8"))).read(PARTS, MemoryKind.EFUSE, Unwatched())
    with pytest.raises(TargetError) as unknown:
        await IspInterface(DirectProgrammer(board(WrongSignature(b"\x1e\x42\x42")))).read(
            PARTS, MemoryKind.FLASH, Unwatched()
        )
    assert unknown.value.code is ErrorCode.SIGNATURE_UNKNOWN


@virtual
async def test_link_errors_come_out_and_the_target_is_released() -> None:
    """A silent or vanished programmer is no finding about the target."""
    for number in range(2):
        target = board()
        with pytest.raises(LinkTimeoutError):
            await IspInterface(DirectProgrammer(target, faults={number: silent})).look()
        assert not target.in_reset
        with pytest.raises(LinkClosedError):
            await IspInterface(DirectProgrammer(board(), faults={number: unplugged})).probe(PARTS)
    gone = DirectProgrammer(board(), faults={2: unplugged})
    with pytest.raises(LinkClosedError):
        await IspInterface(gone).look()

"""What is sent to flash an STM32F1, and what of the chip's answers is not taken on trust."""

import struct

import pytest
from tests.unit.flashing.stm32f1_unit import FLASH, flash, program, recipe
from tests.unit.programmers.stlink_rig import Meddle, Rig

from ispd.errors import ErrorCode
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.transport.contract import BulkTransfer
from vbench.faults import StuckBits
from vbench.stm32f1 import Stm32F1
from vbench.virtual_time import virtual

KEYR, OPTKEYR, SR, CR, AR, OBR = "04", "08", "0C", "10", "14", "1C"
KEYS = ["23 01 67 45", "AB 89 EF CD"]
SMALL = recipe(program(300), keeps_rest=True)


def register_writes(rig: Rig) -> list[str]:
    """Return what was written to the flash controller: the register's offset, then the word."""
    head = bytes.fromhex("F235"), bytes.fromhex("200240")
    writes = [one.data for one in rig.log if not one.is_in and one.data[:2] == head[0] and one.data[3:6] == head[1]]
    return [f"{data[2]:02X} {data[6:10].hex(' ').upper()}" for data in writes]


def keys(register: str) -> list[str]:
    return [f"{register} {key}" for key in KEYS]


@virtual
async def test_a_page_goes_through_the_controller_as_the_manual_says() -> None:
    rig = Rig(Stm32F1())
    assert (
        await flash(rig, recipe(Image.of([Segment(FLASH + 0x400, b"12")]), keeps_rest=True))
    ).verdict is Verdict.PASSED
    assert register_writes(rig) == [
        *(f"{CR} 80 00 00 00", *keys(KEYR)),
        *(f"{SR} 34 00 00 00", f"{CR} 02 00 00 00", f"{AR} 00 04 00 08", f"{CR} 42 00 00 00", f"{CR} 00 00 00 00"),
        *(f"{SR} 34 00 00 00", f"{CR} 01 00 00 00", f"{CR} 00 00 00 00"),
        f"{CR} 80 00 00 00",
    ]


@virtual
async def test_the_whole_chip_and_an_unlock_do_too() -> None:
    rig = Rig(Stm32F1(is_protected=True))
    wish = recipe(program(40), unlock=True)
    assert (await flash(rig, wish)).verdict is Verdict.PASSED
    unlocked = [f"{CR} 80 00 00 00", *keys(KEYR)]
    assert register_writes(rig) == [
        *unlocked,
        *(*unlocked, *keys(OPTKEYR)),
        *(f"{SR} 34 00 00 00", f"{CR} 20 02 00 00", f"{CR} 60 02 00 00", f"{CR} 00 02 00 00"),
        *(*unlocked, *keys(OPTKEYR)),
        *(f"{SR} 34 00 00 00", f"{CR} 10 02 00 00", f"{CR} 00 02 00 00", f"{CR} 80 00 00 00"),
        *unlocked,
        *(f"{SR} 34 00 00 00", f"{CR} 04 00 00 00", f"{CR} 44 00 00 00", f"{CR} 00 00 00 00"),
        *(f"{SR} 34 00 00 00", f"{CR} 01 00 00 00", f"{CR} 00 00 00 00"),
        f"{CR} 80 00 00 00",
    ]


@virtual
async def test_nothing_disturbs_the_loader() -> None:
    """No DMA into its RAM, no watchdog, no interrupt; the mask is set while the core is halted."""
    rig = Rig(Stm32F1())
    assert (await flash(rig, SMALL)).verdict is Verdict.PASSED
    stop_watchdogs, no_dma = "F2 35 04 20 04 E0 00 03", "F2 35 14 10 02 40 14"
    reload, program_mode = "F2 35 00 30 00 40 AA AA", "F2 35 10 20 02 40 01"
    masked, running = "F2 35 F0 ED 00 E0 0B 00 5F A0", "F2 35 F0 ED 00 E0 09 00 5F A0"
    order = [stop_watchdogs, no_dma, program_mode, reload, masked, running]
    assert [command for command in rig.commands if command in order] == order
    assert rig.commands[rig.commands.index(masked) + 1] == running


@virtual
async def test_the_next_block_is_loaded_while_the_loader_has_one_and_never_over_it() -> None:
    """In the other half of RAM; the watchdog is served in between."""
    rig = Rig(Stm32F1())
    assert (await flash(rig, recipe(program(40_000)))).verdict is Verdict.PASSED
    running = [at for at, command in enumerate(rig.commands) if command == "F2 35 F0 ED 00 E0 09 00 5F A0"]
    loaded = [rig.commands[at + 1] for at in running[:-1]]
    assert len(running) == 7
    halves = [int.from_bytes(bytes.fromhex(command)[2:6], "little") for command in loaded]
    assert all(command.startswith("F2 08") for command in loaded)
    assert [half - 0x2000_0100 for half in halves] == [0x2000, 0] * 3
    sources = [command.split()[3:7] for command in rig.commands if command.startswith("F2 34 00")]
    assert [bytes.fromhex("".join(one)) for one in sources[1:]] == [half.to_bytes(4, "little") for half in halves]


def word(value: int) -> bytes:
    return struct.pack("<II", 0x80, value)


@pytest.mark.parametrize(
    ("register", "value", "code"),
    [
        ("01", FLASH + 298, ErrorCode.TARGET_LOST),
        ("02", 1, ErrorCode.TARGET_LOST),
        ("02", 0xFFFF_FFFF, ErrorCode.TARGET_LOST),
        ("05", 0x04, ErrorCode.NOT_BLANK),
        ("05", 0x10, ErrorCode.TARGET_LOCKED),
    ],
)
@virtual
async def test_the_loaders_registers_are_believed_only_together(register: str, value: int, code: ErrorCode) -> None:
    chip = Stm32F1()
    rig = Rig(chip)
    rig.falsify(f"F2 33 {register}", [word(value)])
    outcome = await flash(rig, SMALL)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, code)
    assert outcome.failure.memory == "flash"
    assert rig.is_free


@virtual
async def test_an_erase_that_tells_of_errors_is_none() -> None:
    for state, code in ((0x04, ErrorCode.ERASE_FAILED), (0x10, ErrorCode.TARGET_LOCKED)):
        rig = Rig(Stm32F1())
        rig.falsify("F2 36 0C 20 02 40", [word(0), word(state)])
        outcome = await flash(rig, SMALL)
        assert outcome.failure is not None
        assert outcome.failure.code == code


@virtual
async def test_an_erase_that_left_something_behind_is_none() -> None:
    chip = Stm32F1(faults=[StuckBits(memory=MemoryKind.FLASH, address=0xFFFE, mask=0x80, level=0)])
    outcome = await flash(Rig(chip), recipe(program(300)))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.address) == (ErrorCode.ERASE_FAILED, FLASH + 0xFFFC)
    assert [step.name for step in outcome.steps] == [], "nothing was written"


@virtual
async def test_a_controller_that_stays_locked_is_told_of() -> None:
    rig = Rig(Stm32F1())
    rig.falsify("F2 36 10 20 02 40", [word(0x80)])
    outcome = await flash(rig, SMALL)
    assert outcome.failure is not None
    assert outcome.failure.code == ErrorCode.TARGET_LOCKED


OPENING = recipe(program(300), unlock=True)


@virtual
async def test_a_protection_that_stays_is_tried_with_nrst_and_then_told_of() -> None:
    rig = Rig(Stm32F1(is_protected=True))
    rig.falsify("F2 36 1C 20 02 40", [word(0x03FF_FFFE)] * 2)
    assert (await flash(rig, OPENING)).verdict is Verdict.PASSED
    assert "F2 3C" in rig.commands, "NRST was low"
    rig = Rig(Stm32F1(is_protected=True))
    rig.falsify("F2 36 1C 20 02 40", [word(0x03FF_FFFE)] * 3)
    outcome = await flash(rig, OPENING)
    assert outcome.failure is not None
    assert outcome.failure.code == ErrorCode.LOCK_MISMATCH
    assert "unplug" in outcome.failure.hint
    assert rig.is_free


@virtual
async def test_option_bytes_that_read_back_otherwise_are_told_of() -> None:
    rig = Rig(Stm32F1(is_protected=True))
    rig.falsify(
        "F2 07 00 F8 FF 1F", [bytes.fromhex(cells) for cells in ("00FF" + "FF00" * 7, "A55A" + "FF00" * 6 + "FE01")]
    )
    outcome = await flash(rig, OPENING)
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.address) == (ErrorCode.LOCK_MISMATCH, 0x1FFF_F80E)


@virtual
async def test_a_chip_that_opens_without_erasing_itself_is_not_trusted() -> None:
    rig = Rig(Stm32F1(is_protected=True))
    rig.falsify("F2 07 00 00 00 08", [bytes(4096)])
    outcome = await flash(rig, OPENING)
    assert outcome.failure is not None
    assert outcome.failure.code == ErrorCode.ERASE_FAILED
    assert rig.is_free


@virtual
async def test_a_target_that_cannot_be_let_go_did_not_pass() -> None:
    rig = Rig(Stm32F1())
    rig.meddler = lambda _index, one: (
        Meddle.STALL if one.data[:2] == bytes.fromhex("F221") and len(rig.log) > 30 else None
    )
    outcome = await flash(rig, SMALL)
    assert outcome.verdict is Verdict.FAILED


@virtual
async def test_what_is_under_way_gets_its_time_before_the_reset() -> None:
    rig = Rig(Stm32F1())
    started, resets = [], []

    def watch(_index: int, transfer: BulkTransfer) -> Meddle | None:
        if transfer.data.startswith(bytes.fromhex("F23510200240 42")):
            started.append(rig.clock.monotonic())
        if transfer.data.startswith(bytes.fromhex("F2350CED00E0")):
            resets.append(rig.clock.monotonic())
        is_poll = transfer.data.startswith(bytes.fromhex("F2360C200240"))
        return Meddle.STALL if started and is_poll else None

    rig.meddler = watch
    assert (await flash(rig, SMALL)).verdict is Verdict.FAILED
    assert resets[-1] - started[0] > 0.2

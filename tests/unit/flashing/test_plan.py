"""Plans as tables: what is done, in which order, and what is refused before anything is touched."""

import pytest
from tests.unit.flashing.bench_unit import PARTS, factory, image, pattern

from ispd.errors import ErrorCode, IspdError
from ispd.flashing.plan import plan_unit
from ispd.flashing.steps import (
    CheckWritable,
    EraseChip,
    Plan,
    Reenter,
    Step,
    VerifyBits,
    VerifyCells,
    WriteCells,
    WriteFuse,
    WriteLock,
)
from ispd.flashing.target_state import TargetState
from ispd.model.image import Image
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from ispd.programmers.contract import Capabilities

ARDUINO = Capabilities(max_flash_bytes=None, sck_hz=(125_000,), bulk=frozenset({MemoryKind.FLASH, MemoryKind.EEPROM}))
USBASP = Capabilities(
    max_flash_bytes=None, sck_hz=(8_000, 93_750, 187_500, 375_000, 1_500_000), bulk=frozenset({MemoryKind.FLASH})
)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
NOTHING = Image(())


def table(plan: Plan) -> list[str]:
    return [line(step) for step in plan.steps]


def line(step: Step) -> str:
    detail = ""
    match step:
        case WriteFuse() | WriteLock():
            detail = f"{step.value:02X}"
        case WriteCells():
            detail = " ".join(f"{page.start:X}+{len(page.data):X}" for page in step.pages)
        case VerifyCells() | CheckWritable():
            detail = " ".join(f"{span.start:X}..{span.stop:X}" for span in step.spans)
        case VerifyBits():
            detail = " ".join(f"{memory}={value:02X}" for memory, value in step.expected.items())
        case Reenter():
            detail = "@" + " ".join(map(str, step.candidates)) + f" [{step.new_clock}]"
    return f"{step.name} {detail}".strip()


def plan(name: str, recipe: Recipe, capabilities: Capabilities = ARDUINO, lock: int = 0xFF, **fuses: int) -> Plan:
    part = PARTS.avr(name)
    return plan_unit(recipe, part, capabilities, TargetState(fuses=factory(part, **fuses), lock=lock))


def test_whole_job_in_order() -> None:
    """Fuses that change the clock first, the rest after the proof, lock bits last; nothing is written that matches."""
    recipe = Recipe(
        flash=image((0x10, pattern(0x100)), (0x7F80, pattern(0x80))),
        eeprom=image((3, b"\x01\x02\x03\x04\x05")),
        fuses={L: 0xDE, H: 0x98, E: 0xF3},
        lock=0xEF,
    )
    assert table(plan("atmega32u4", recipe, lock=0xEC)) == [
        "erase",
        "write lfuse DE",
        "enter with new clock @None [crystal or resonator]",
        "write flash 0+80 80+80 100+80 7F80+80",
        "write eeprom 3+1 4+4",
        "verify flash 0..180 7F80..8000",
        "verify eeprom 2..8",
        "write hfuse 98",
        "verify fuses lfuse=DE hfuse=98 efuse=F3 lock=3F",
        "write lock 2F",
        "verify lock lfuse=DE hfuse=98 efuse=F3 lock=EF",
        "leave",
    ]


def test_bytes_add_up() -> None:
    """Progress counts what is written plus what is read back; only destructive steps are marked so."""
    made = plan("atmega32u4", Recipe(flash=image((0, pattern(300))), eeprom=image((0, b"abcd")), fuses={L: 0xDE}))
    assert made.total_bytes == 3 * 128 * 2 + 4 * 2
    assert [step.name for step in made.steps if step.is_destructive] == [
        "erase",
        "write lfuse",
        "write flash",
        "write eeprom",
    ]


def test_blank_pages_are_verified_not_written() -> None:
    """A page of FF needs no writing after an erase, but the image defines it, so it is read back."""
    recipe = Recipe(flash=image((0, pattern(128) + b"\xff" * 128 + pattern(128))))
    assert table(plan("atmega32u4", recipe))[:3] == ["erase", "write flash 0+80 100+80", "verify flash 0..180"]


def test_full_verification_expects_blanks_around_the_image() -> None:
    """All of flash is read back; each byte is expected once, blank where the image says nothing."""
    recipe = Recipe(flash=image((0x80, pattern(128)), (0x7000, pattern(200))), verify=VerifyScope.FULL)
    made = plan("atmega32u4", recipe)
    assert table(made)[1:3] == ["write flash 80+80 7000+80 7080+80", "verify flash 0..8000"]
    verify = next(step for step in made.steps if isinstance(step, VerifyCells))
    expected = b"".join(segment.data for segment in verify.expected)
    assert len(expected) == 0x8000
    assert expected[0x80:0x100] == pattern(128)
    assert expected[0x7000:0x70C8] == pattern(200)
    assert expected.count(0xFF) == 0x8000 - 328
    assert made.total_bytes == 3 * 128 + 0x8000


@pytest.mark.parametrize(
    ("hfuse", "written"),
    [
        pytest.param(0x99, "write eeprom 4+4", id="erase-clears-eeprom"),
        pytest.param(0x91, "write eeprom 0+4 4+4", id="eesave-keeps-it"),
    ],
)
def test_blank_eeprom_depends_on_eesave(hfuse: int, written: str) -> None:
    """FF cells of EEPROM are skipped only where the erase made them so."""
    recipe = Recipe(flash=image((0, pattern(4))), eeprom=image((0, b"\xff\xff\xff\xff\x00\x01\x02\x03")))
    made = plan("atmega32u4", recipe, hfuse=hfuse)
    assert written in table(made)
    verify = next(step for step in made.steps if isinstance(step, VerifyCells) and step.memory is MemoryKind.EEPROM)
    assert verify.after_erase is (hfuse == 0x99)
    assert [segment.data for segment in verify.expected] == [b"\xff\xff\xff\xff\x00\x01\x02\x03"]


def test_without_erase_cells_are_checked_first_and_only_image_bytes_compared() -> None:
    """What lies beside the image in a page keeps what it held."""
    made = plan("atmega32u4", Recipe(flash=image((0x10, pattern(8))), erase=False))
    assert table(made) == [
        "check flash 0..80",
        "write flash 0+80",
        "verify flash 0..80",
        "verify fuses lfuse=5E hfuse=99 efuse=F3 lock=3F",
        "leave",
    ]
    assert not made.steps[0].is_destructive
    assert isinstance(made.steps[2], VerifyCells)
    assert [(s.start, len(s.data)) for s in made.steps[2].expected] == [(0x10, 8)]


@pytest.mark.parametrize("erase", [True, False])
def test_recipe_without_flash_never_erases(erase: bool) -> None:
    """Fuses or EEPROM alone leave the firmware that is there, whatever the default of `erase` is."""
    fuses_only = plan("atmega32u4", Recipe(flash=NOTHING, fuses={H: 0x98}, erase=erase))
    assert table(fuses_only) == ["write hfuse 98", "verify fuses lfuse=5E hfuse=98 efuse=F3 lock=3F", "leave"]
    eeprom_only = plan("atmega32u4", Recipe(flash=NOTHING, eeprom=image((1, b"\xff")), erase=erase))
    assert table(eeprom_only)[:2] == ["write eeprom 1+1", "verify eeprom 0..2"]


def test_nothing_to_change_writes_nothing() -> None:
    """Fuses that match under their mask are only read back: F3 and 03 are the same extended byte."""
    made = plan("atmega32u4", Recipe(flash=NOTHING, fuses={L: 0x5E, E: 0x03}, lock=0x3F, erase=False))
    assert table(made) == ["verify fuses lfuse=5E hfuse=99 efuse=03 lock=3F", "leave"]
    assert not made.changes_target


def test_fuse_order_is_extended_high_low() -> None:
    """The low byte holds the clock and goes last, early or late."""
    late = plan("atmega32u4", Recipe(flash=NOTHING, fuses={H: 0x98, L: 0x1E, E: 0xF0}))
    assert table(late)[:3] == ["write efuse F0", "write hfuse 98", "write lfuse 1E"]
    early = plan("atmega8", Recipe(flash=NOTHING, fuses={L: 0xEF, H: 0xC9}))
    assert table(early)[:2] == ["write hfuse C9", "write lfuse EF"]


def test_byte_that_shuts_isp_waits_and_keeps_the_clock_waiting() -> None:
    """After RSTDISBL no entry works: such a byte comes last, and no reset may happen in between."""
    recipe = Recipe(flash=image((0, pattern(64))), fuses={L: 0xE2, H: 0x5F})
    assert table(plan("attiny85", recipe)) == [
        "erase",
        "write flash 0+40",
        "verify flash 0..40",
        "write lfuse E2",
        "write hfuse 5F",
        "verify fuses lfuse=E2 hfuse=5F efuse=FF lock=03",
        "leave",
    ]


def test_clock_too_slow_for_the_programmer_comes_last() -> None:
    """A 128 kHz clock cannot be programmed at 125 kHz SCK: written last, it is still verified in the same session."""
    recipe = Recipe(flash=image((0, pattern(64))), fuses={L: 0xE4})
    names = table(plan("attiny85", recipe))
    assert names.index("write lfuse E4") > names.index("verify flash 0..40")
    assert not any(name.startswith("enter") for name in names)
    slow = table(plan("attiny85", recipe, USBASP))
    assert slow[1:3] == ["write lfuse E4", "enter with new clock @8000 [internal oscillator, 128 kHz]"]


@pytest.mark.parametrize(
    ("name", "fuses", "recipe_fuses", "expected"),
    [
        pytest.param(
            "attiny85",
            {},
            {L: 0xE2},
            "enter with new clock @1500000 375000 187500 [internal RC oscillator, 8 MHz]",
            id="undivided-rc",
        ),
        pytest.param("attiny85", {"lfuse": 0xE2}, {}, "raise sck @1500000 375000 187500 [None]", id="already-fast"),
        pytest.param(
            "atmega32u4",
            {},
            {L: 0xDE},
            "enter with new clock @1500000 375000 187500 [crystal or resonator]",
            id="crystal-from-8-MHz",
        ),
        pytest.param(
            "atmega32u4",
            {},
            {L: 0xD8},
            "enter with new clock @93750 8000 [crystal or resonator]",
            id="crystal-from-0.4-MHz",
        ),
        pytest.param(
            "atmega32u4", {}, {}, "raise sck @375000 187500 [None]", id="factory-crystal-divided-may-be-2-MHz"
        ),
        pytest.param("atmega32u4", {"hfuse": 0x91}, {}, "", id="never-a-guess-where-EEPROM-must-survive"),
        pytest.param("atmega8", {}, {}, "", id="1-MHz-stays-slow"),
    ],
)
def test_sck_follows_the_fuses(
    name: str, fuses: dict[str, int], recipe_fuses: dict[MemoryKind, int], expected: str
) -> None:
    """What the fastest clock that the fuses allow would follow is tried first, then what is promised, then what worked."""
    recipe = Recipe(flash=image((0, pattern(64))), fuses=recipe_fuses)
    found = [one for one in table(plan(name, recipe, USBASP, **fuses)) if one.startswith(("enter", "raise"))]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("recipe", "capabilities", "lock", "code"),
    [
        pytest.param(Recipe(flash=NOTHING), ARDUINO, 0xFF, ErrorCode.RECIPE_INVALID, id="nothing-to-do"),
        pytest.param(Recipe(flash=image((0x7FFF, b"ab"))), ARDUINO, 0xFF, ErrorCode.IMAGE_DOES_NOT_FIT, id="too-long"),
        pytest.param(
            Recipe(flash=NOTHING, eeprom=image((0x3FF, b"ab"))),
            ARDUINO,
            0xFF,
            ErrorCode.IMAGE_DOES_NOT_FIT,
            id="eeprom",
        ),
        pytest.param(
            Recipe(flash=image((0x4000, b"a"))),
            Capabilities(max_flash_bytes=0x4000, sck_hz=(125_000,), bulk=frozenset()),
            0xFF,
            ErrorCode.PROGRAMMER_CANNOT,
            id="programmer-reaches-less",
        ),
        pytest.param(
            Recipe(flash=image((0, b"a")), erase=False, verify=VerifyScope.FULL),
            ARDUINO,
            0xFF,
            ErrorCode.RECIPE_INVALID,
            id="all-of-flash-without-erase",
        ),
        pytest.param(
            Recipe(flash=image((0, b"a")), verify=VerifyScope.FULL),
            Capabilities(max_flash_bytes=0x4000, sck_hz=(125_000,), bulk=frozenset()),
            0xFF,
            ErrorCode.PROGRAMMER_CANNOT,
            id="programmer-reaches-less-than-all",
        ),
        pytest.param(
            Recipe(flash=image((0, b"a")), erase=False), ARDUINO, 0xFE, ErrorCode.TARGET_LOCKED, id="locked-no-erase"
        ),
        pytest.param(Recipe(flash=NOTHING, fuses={L: 0xDE}), ARDUINO, 0xFC, ErrorCode.TARGET_LOCKED, id="locked-fuses"),
        pytest.param(Recipe(flash=NOTHING, lock=0xFF), ARDUINO, 0xEF, ErrorCode.TARGET_LOCKED, id="lock-cannot-open"),
    ],
)
def test_refused_before_anything_is_touched(
    recipe: Recipe, capabilities: Capabilities, lock: int, code: ErrorCode
) -> None:
    """What cannot be carried out has no plan."""
    with pytest.raises(IspdError) as caught:
        plan("atmega32u4", recipe, capabilities, lock)
    assert caught.value.code is code


def test_erase_samples_reach_all_boot_sections() -> None:
    """The first word, each possible start of a boot section, and the last word."""
    made = plan("atmega32u4", Recipe(flash=image((0, b"a"))))
    assert isinstance(made.steps[0], EraseChip)
    assert [span.start for span in made.steps[0].samples] == [0, 0x7000, 0x7800, 0x7C00, 0x7E00, 0x7FFE]

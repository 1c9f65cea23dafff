"""What is asked for boards that are programmed by SWD: how it reaches the catalog, and what comes back of their flash."""

from base64 import b64encode
from typing import Any

import pytest
from anyio import CapacityLimiter
from tests.surfaces.fake_station import PARTS, FakeStation, anybody

from ispd.api.call import Call, Peer
from ispd.api.handlers import job as job_handlers
from ispd.api.handlers import load_handlers
from ispd.api.invoke import invoke
from ispd.api.values import Dump, ExplainedPart
from ispd.catalog.options import RecipeOptions
from ispd.errors import ErrorCode, IspdError
from ispd.model.image import Image
from ispd.model.part import Interface, MemoryKind
from ispd.model.recipe import ClonePolicy, Recipe
from ispd.model.report import FindingLevel
from ispd.model.station import Programmer

pytestmark = pytest.mark.anyio

HANDLERS = load_handlers()
FILE = {"name": "board.bin", "content": b64encode(bytes(8)).decode()}


class NoSession:
    def subscribe(self) -> int:
        return 0

    def unsubscribe(self) -> None:
        pass


class SwdStation(FakeStation):
    """Slot A1 has an ST-Link, A2 an ISP programmer."""

    def programmers(self) -> list[Programmer]:
        return [
            Programmer(kind="stlink", port="usb:1-1.4", slot="A1", serial="38FF6A06", interface=Interface.SWD),
            Programmer(kind="usbasp", port="usb:1-1.3", slot="A2", interface=Interface.ISP),
        ]


def call_to(station: FakeStation) -> Call:
    return Call(
        station=station, session=NoSession(), peer=Peer(uid=1000), allows=anybody, workers=CapacityLimiter(1)
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RecipeOptions]:
    """Return what handlers ask the catalog for, instead of asking it."""
    seen: list[RecipeOptions] = []

    def note(options: RecipeOptions, *_: object) -> Recipe:
        seen.append(options)
        return Recipe(flash=Image.of([]))

    monkeypatch.setattr(job_handlers, "build_recipe", note)
    return seen


async def enqueue(**params: Any) -> None:
    await invoke(HANDLERS["job.enqueue"], {"images": [FILE], **params}, call_to(SwdStation()))


async def test_every_word_of_swd_reaches_the_catalog(asked: list[RecipeOptions]):
    every = {name: index for index, name in enumerate(("user", "data0", "data1", "wrp0", "wrp1", "wrp2", "wrp3"))}
    await enqueue(option_bytes=every, keep_rest=True, unlock=True, clones="reject", lock=0)
    (options,) = asked
    assert options.option_bytes == {MemoryKind(name): value for name, value in every.items()}
    assert (options.keeps_rest, options.unlock, options.clones, options.lock) == (True, True, ClonePolicy.REJECT, 0)


async def test_where_nothing_is_said_nothing_is_asked_for(asked: list[RecipeOptions]):
    await enqueue()
    await enqueue(option_bytes={"user": None})
    for options in asked:
        assert (options.option_bytes, options.clones) == ({}, None)
        assert (options.keeps_rest, options.unlock) == (False, False)


async def test_parameters_win_over_the_recipe_byte_by_byte(asked: list[RecipeOptions], monkeypatch: pytest.MonkeyPatch):
    written = RecipeOptions(
        option_bytes={MemoryKind.USER: 0xFB, MemoryKind.DATA0: 1},
        clones=ClonePolicy.REJECT,
        keeps_rest=True,
        unlock=True,
    )
    monkeypatch.setattr(job_handlers, "read_recipe", lambda *_: written)
    recipe = {"name": "board.toml", "content": ""}
    await enqueue(recipe=recipe)
    await enqueue(recipe=recipe, option_bytes={"user": 0xFF, "data1": 2}, clones="allow", keep_rest=False)
    alone, beside = asked
    assert (alone.option_bytes, alone.clones) == (written.option_bytes, ClonePolicy.REJECT)
    assert beside.option_bytes == {MemoryKind.USER: 0xFF, MemoryKind.DATA0: 1, MemoryKind.DATA1: 2}
    assert beside.clones is ClonePolicy.ALLOW
    for options in asked:
        assert (options.keeps_rest, options.unlock) == (True, True)


VECTORS = (0x2000_5000).to_bytes(4, "little") + (0x0800_0101).to_bytes(4, "little") + b"\x11" * 248
RAW = {"name": "board.bin", "content": b64encode(VECTORS).decode()}


async def test_a_raw_file_for_an_stm32_becomes_a_job_at_the_start_of_its_flash():
    station = SwdStation()
    params = {
        "images": [RAW],
        "part": "bluepill",
        "option_bytes": {"data0": 0x12},
        "keep_rest": True,
        "clones": "reject",
    }
    await invoke(HANDLERS["job.enqueue"], params, call_to(station))
    recipe = station.recipes[1]
    assert (recipe.part, recipe.flash.span.start, recipe.fuses) == (
        "stm32f103xb",
        0x0800_0000,
        {MemoryKind.DATA0: 0x12},
    )
    assert (recipe.keeps_rest, recipe.unlock, recipe.clones) == (True, False, ClonePolicy.REJECT)


@pytest.mark.parametrize(
    ("params", "code", "told"),
    [
        ({"option_bytes": {"user": 0xFE}}, ErrorCode.FUSE_CONFIRM, "WDG_SW"),
        ({"option_bytes": {"wrp0": 0xFE}}, ErrorCode.FUSE_CONFIRM, "wrp0"),
        ({"lfuse": 0x5E}, ErrorCode.INVALID_PARAMETER, "lfuse"),
        ({"eeprom": RAW}, ErrorCode.INVALID_PARAMETER, "eeprom"),
        ({"part": "m32u4", "option_bytes": {"user": 0xFF}}, ErrorCode.INVALID_PARAMETER, "user"),
        ({"part": "m32u4"}, ErrorCode.IMAGE_DOES_NOT_FIT, "Cortex-M"),
    ],
)
async def test_what_belongs_to_the_other_family_or_needs_an_answer_is_refused(
    params: dict[str, Any], code: ErrorCode, told: str
):
    station = SwdStation()
    with pytest.raises(IspdError) as refused:
        await invoke(HANDLERS["job.enqueue"], {"images": [RAW], "part": "bluepill", **params}, call_to(station))
    assert refused.value.code is code, refused.value.message
    assert told in f"{refused.value.message} {refused.value.facts.memory} {refused.value.facts.field}"
    assert not station.jobs_by_id


@pytest.mark.parametrize("unlock", [False, True])
async def test_a_rescue_may_unlock_where_it_is_told_to(unlock: bool):
    station = FakeStation()
    await invoke(HANDLERS["slot.rescue"], {"name": "A1", "unlock": unlock}, call_to(station))
    assert station.recipes[1].unlock is unlock


@pytest.mark.parametrize(
    ("slot", "memory", "start"),
    [
        ("A1", "flash", 0x0800_0000),
        ("A1", "user", 0),
        ("A2", "flash", 0),
        ("A2", "eeprom", 0),
    ],
)
async def test_what_is_read_says_where_it_begins(slot: str, memory: str, start: int):
    dump = await invoke(HANDLERS["slot.read"], {"name": slot, "memory": memory}, call_to(SwdStation()))
    assert isinstance(dump, Dump)
    assert dump.start == start


def test_all_parts_of_one_interface_have_their_flash_at_one_place():
    """A memory that is read says where it begins before anybody knows which part it was read from."""
    starts = {interface: {part.flash.start for part in PARTS if part.interface is interface} for interface in Interface}
    assert starts == {Interface.ISP: {0}, Interface.SWD: {0x0800_0000}}


async def test_option_bytes_are_explained_like_fuses():
    params = {"id": "stm32f103c8t6", "option_bytes": {"user": 0xFE}, "lock": 0xA5}
    explained = await invoke(HANDLERS["part.get"], params, call_to(SwdStation()))
    assert isinstance(explained, ExplainedPart)
    assert (explained.part.id, explained.part.interface) == ("stm32f103xb", Interface.SWD)
    asked = {one.memory: (one.value, one.asked) for one in explained.fuses.bytes}
    assert (asked[MemoryKind.USER], asked[MemoryKind.DATA0], asked[MemoryKind.LOCK]) == (
        (0xFE, True), (0xFF, False), (0xA5, True),
    )  # fmt: skip
    assert explained.fuses.verdict is FindingLevel.CONFIRM
    assert [bit.name for bit in explained.fuses.bits if bit.memory is MemoryKind.USER and bit.programmed] == ["wdg_sw"]

"""Plans, pairing and rescue as a client calls them."""

from typing import Any

import pytest
from tests.surfaces.fake_station import FakeStation
from tests.unit.api.test_catalog_calls import call, file

from ispd.api.failures import FAILURES, Exit
from ispd.errors import ErrorCode, IspdError
from ispd.model.recipe import PlanKind
from vbench.firmware_image import application_image, bootloader_image

pytestmark = pytest.mark.anyio

STATION = FakeStation()
PART = STATION.parts.avr("atmega32u4")
LOADER = bootloader_image(STATION.bootloaders.get("atmel-dfu-32u4"), PART)
APP = application_image(PART, 3000, seed=1)
BOOT_FILE = file("boot.bin", LOADER.bytes_in(LOADER.span), base=LOADER.span.start)
APP_FILE = file("app.bin", APP.bytes_in(APP.span), base=0)
BOTH = {"images": [BOOT_FILE, APP_FILE], "part": "atmega32u4", "bootloader": "atmel-dfu-32u4", "accept_fuses": True}


async def refused(name: str, /, **params: Any) -> IspdError:
    with pytest.raises(IspdError) as caught:
        await call(name, **params)
    return caught.value


@pytest.mark.parametrize("plan", [PlanKind.CHAINED, PlanKind.AUTO])
async def test_a_plan_over_usb_takes_the_files_apart(plan: PlanKind) -> None:
    station = FakeStation()
    job = await call("job.enqueue", station, plan=plan.value, **BOTH)
    recipe = station.recipes[1]
    assert (job.plan, recipe.plan, recipe.flash, recipe.firmware) == (plan, plan, LOADER, APP)
    assert recipe.fuses


@pytest.mark.parametrize(("plan", "is_merged"), [(None, False), ("isp-only", False), ("merged", True)])
async def test_the_other_plans_put_everything_on_by_isp(plan: str | None, is_merged: bool) -> None:
    station = FakeStation()
    job = await call("job.enqueue", station, **BOTH, **({} if plan is None else {"plan": plan}))
    recipe = station.recipes[1]
    assert (recipe.flash, recipe.firmware) == (LOADER.merged(APP), None)
    assert job.plan is recipe.plan is (PlanKind.MERGED if is_merged else PlanKind.ISP_ONLY)


async def test_the_firmware_alone_needs_the_boards_to_have_their_bootloader() -> None:
    alone = {**BOTH, "images": [APP_FILE]}
    station = FakeStation()
    await call("job.enqueue", station, plan="chain-only", **alone)
    recipe = station.recipes[1]
    assert (recipe.firmware, len(recipe.flash), dict(recipe.fuses)) == (APP, 0, {})
    assert (await refused("job.enqueue", plan="chained", **alone)).code is ErrorCode.RECIPE_INVALID
    assert (await refused("job.enqueue", plan="by-mail", **alone)).code is ErrorCode.INVALID_PARAMETER


async def test_a_plan_beside_a_recipe_file_replaces_what_it_says() -> None:
    text = b'plan = "merged"\npart = "atmega32u4"\nbootloader = "atmel-dfu-32u4"\n'
    for params, plan in (({}, PlanKind.MERGED), ({"plan": "chained"}, PlanKind.CHAINED)):
        station = FakeStation()
        await call(
            "job.enqueue",
            station,
            recipe=file("r.toml", text),
            images=BOTH["images"],
            accept_fuses=True,
            **params,
        )
        assert station.recipes[1].plan is plan


async def test_learning_answers_with_the_slot() -> None:
    slot = await call("slot.learn", name="A1")
    assert (slot.name, slot.target_usb, slot.board_usb) == ("A1", "1-2.1", "03EB:2FF4")
    assert (await refused("slot.learn", name="A9")).code is ErrorCode.UNKNOWN_SLOT


async def test_a_rescue_is_a_chained_job_without_count_on_that_slot() -> None:
    station = FakeStation()
    job = await call("slot.rescue", station, name="A2", unit=1, images=[BOOT_FILE])
    assert (job.slots, job.count, job.plan) == (("A2",), None, PlanKind.CHAINED)
    recipe = station.recipes[1]
    assert (recipe.flash, recipe.erase) == (LOADER, True), "the image that was given goes before the unit's own"
    assert recipe.firmware == (await station.recipe_to_rescue(1)).firmware
    assert (await refused("slot.rescue", name="A2", unit=7)).code is ErrorCode.UNKNOWN_UNIT
    assert (await refused("slot.rescue", name="A9", unit=7)).code is ErrorCode.UNKNOWN_SLOT
    assert (await refused("slot.rescue", name="A2", images=[APP_FILE])).code is ErrorCode.RECIPE_INVALID


def test_what_is_refused_before_any_board_is_touched_is_wrong_usage() -> None:
    refusals = (ErrorCode.NOT_PAIRED, ErrorCode.NOTHING_TO_RESCUE)
    assert {FAILURES[code].exit for code in refusals} == {Exit.REFUSED}
    failures = (
        ErrorCode.BOOTLOADER_NOT_SEEN,
        ErrorCode.BOARD_UNEXPECTED,
        ErrorCode.APPLICATION_NOT_SEEN,
        ErrorCode.TOOL_MISSING,
        ErrorCode.TOOL_FAILED,
    )
    assert {FAILURES[code].exit for code in failures} == {Exit.FAILED}

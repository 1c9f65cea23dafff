"""ST-Links as hotplugged programmers: which devices are claimed, and what becomes of those that cannot be used."""

import pytest
from tests.unit.programmers.stlink_rig import PORT, Rig

from ispd.errors import ErrorCode, ProgrammerError
from ispd.model.part import Interface
from ispd.programmers.registry import claimant, load_drivers
from ispd.transport.contract import PortKind, UsbIdentity
from vbench.virtual_time import virtual

DRIVERS = load_drivers()
ST = 0x0483
USABLE = (0x3748, 0x374A, 0x374B, 0x3752, 0x374E, 0x374F, 0x3753, 0x3754)
REFUSED = (0x3744, 0x374D)
OTHERS = (0x5740, 0xDF11, 0x3256)
"""A virtual COM port of ST's firmware library, the system bootloader, a Nucleo's example."""


@pytest.mark.parametrize("product", [*USABLE, *REFUSED])
def test_an_st_link_is_claimed_as_a_device_and_never_by_its_serial_port(product: int) -> None:
    usb = UsbIdentity(vendor_id=ST, product_id=product, manufacturer="STMicroelectronics", product="STM32 STLink")
    claiming = claimant(DRIVERS, PortKind.USB, usb)
    assert claiming is not None
    assert (claiming.kind, claiming.interface) == ("stlink", Interface.SWD)
    assert claimant(DRIVERS, PortKind.SERIAL, usb) is None


@pytest.mark.parametrize(
    ("vendor", "product"), [*((ST, other) for other in OTHERS), (0x0484, 0x3748), (0x1EAF, 0x0003)]
)
def test_nothing_else_is_claimed_for_its_maker_or_its_number(vendor: int, product: int) -> None:
    usb = UsbIdentity(vendor_id=vendor, product_id=product, manufacturer="STMicroelectronics", product="STM32 STLink")
    assert claimant(DRIVERS, PortKind.USB, usb) is None


@pytest.mark.parametrize(
    ("product", "code", "cure"),
    [
        (0x3744, ErrorCode.PROGRAMMER_CANNOT, "use an ST-Link/V2"),
        (0x374D, ErrorCode.PROGRAMMER_IS_BOOTLOADER, "re-plug it"),
    ],
)
@virtual
async def test_those_that_cannot_be_used_say_why_and_what_to_do(product: int, code: ErrorCode, cure: str) -> None:
    rig = Rig(None, product_id=product)
    with pytest.raises(ProgrammerError) as refused:
        await DRIVERS["stlink"].open(rig, PORT)
    assert (refused.value.code, rig.is_closed) == (code, True)
    assert cure in refused.value.hint

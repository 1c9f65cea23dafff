"""Which device means what for which slot: the rules, one by one and against each other."""

from dataclasses import replace
from typing import Literal

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.errors import LocalProtocolError
from ispd.model.part import Interface
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.registry import Driver, load_drivers
from ispd.station.hotplug import Meaning, Role, meaning_of, own_bootloaders
from ispd.station.spec import SlotSpec
from ispd.transport.contract import PortChange, PortEvent, PortKind, UsbIdentity

LOADERS = own_bootloaders(load_bootloaders(load_parts()))


class UsbDriver:
    """Claims what calls itself a USBasp."""

    kind = "usbish"
    interface: Literal[Interface.ISP] = Interface.ISP
    port_kind = PortKind.USB
    default_baud: int | None = None

    def claims(self, usb: UsbIdentity) -> bool:
        return str(usb) == "16C0:05DC" and (usb.manufacturer, usb.product) == ("www.fischl.de", "USBasp")

    async def open(self, *_arguments: object, **_options: object) -> IspProgrammer:
        raise LocalProtocolError("rules open nothing")


DRIVERS: dict[str, Driver] = {"stk500v1": load_drivers()["stk500v1"], "usbish": UsbDriver()}

USBASP = UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="USBasp")
FLASHER = UsbIdentity(
    vendor_id=0x16C0, product_id=0x0483, manufacturer="Teensyduino", product="USB Serial", serial="12345"
)
CATERINA = UsbIdentity(vendor_id=0x1B4F, product_id=0x9205)
LEONARDO = UsbIdentity(vendor_id=0x2341, product_id=0x8036)
DFU_16U2 = UsbIdentity(vendor_id=0x03EB, product_id=0x2FEF)
CH340 = UsbIdentity(vendor_id=0x1A86, product_id=0x7523, product="USB Serial")

MADE = SlotSpec(name="1-1.4", path="1-1.4")
CONFIGURED = SlotSpec(name="A1", programmer="stk500v1", path="1-1.4")
USB_CONFIGURED = SlotSpec(name="A1", programmer="usbish", path="1-1.4")
FIXED = SlotSpec(name="F1", programmer="stk500v1", port="/dev/ttyACM0")
WITH_BOARD = SlotSpec(name="B1", programmer="usbish", path="1-2", target_usb="1-1.4")
ELSEWHERE = SlotSpec(name="1-1.3", path="1-1.3")


def came(usb: UsbIdentity, kind: PortKind = PortKind.SERIAL) -> PortEvent:
    port = "/dev/ttyACM0" if kind is PortKind.SERIAL else "usb:1-1.4"
    return PortEvent(change=PortChange.ADDED, kind=kind, path="1-1.4", port=port, usb=usb, properties={})


def programmer(spec: SlotSpec) -> Meaning:
    return Meaning(Role.PROGRAMMER, spec)


STRANGER = Meaning(Role.STRANGER)
USB = PortKind.USB


@pytest.mark.parametrize(
    ("event", "known", "expected"),
    [
        # a claimed device makes a slot of its own place, once, whatever other slots there are
        (came(FLASHER), (), programmer(MADE)),
        (came(FLASHER), (ELSEWHERE,), programmer(MADE)),
        (came(FLASHER), (ELSEWHERE, MADE), programmer(MADE)),
        (came(USBASP, USB), (MADE,), programmer(MADE)),
        # the other event of the same device says nothing
        (came(FLASHER, USB), (MADE,), STRANGER),
        (came(LEONARDO, USB), (CONFIGURED,), STRANGER),
        (came(USBASP), (MADE,), STRANGER),
        # what shares its ids with programmers is none
        (came(replace(FLASHER, serial="54321")), (MADE,), STRANGER),
        (came(replace(FLASHER, product="USB_Serial")), (), STRANGER),
        (came(replace(FLASHER, manufacturer="PJRC")), (), STRANGER),
        (came(replace(USBASP, product="LED Ring"), USB), (MADE,), STRANGER),
        (came(CH340), (), STRANGER),
        (came(CH340), (MADE,), STRANGER),
        # unless somebody asked for it
        (came(CH340), (CONFIGURED,), programmer(CONFIGURED)),
        (came(replace(FLASHER, serial="54321")), (CONFIGURED,), programmer(CONFIGURED)),
        (came(replace(USBASP, product="USBasp clone"), USB), (USB_CONFIGURED,), programmer(USB_CONFIGURED)),
        # but only for this kind of port
        (came(CH340), (USB_CONFIGURED,), STRANGER),
        (came(USBASP, USB), (CONFIGURED,), STRANGER),
        # at a board's place everything is a board
        (came(USBASP, USB), (WITH_BOARD,), Meaning(Role.BOARD, WITH_BOARD)),
        (came(FLASHER), (WITH_BOARD,), Meaning(Role.BOARD, WITH_BOARD)),
        (came(CATERINA), (MADE, WITH_BOARD), Meaning(Role.BOARD, WITH_BOARD)),
        (replace(came(FLASHER), path="1-1.4:2"), (WITH_BOARD,), Meaning(Role.BOARD, WITH_BOARD)),  # its second tty
        # on a programmer's place a bootloader is that programmer's
        (came(CATERINA), (MADE,), Meaning(Role.BOOTLOADER, MADE)),
        (came(CATERINA), (CONFIGURED,), Meaning(Role.BOOTLOADER, CONFIGURED)),
        (came(CATERINA, USB), (CONFIGURED,), Meaning(Role.BOOTLOADER, CONFIGURED)),
        (came(DFU_16U2, USB), (CONFIGURED,), Meaning(Role.BOOTLOADER, CONFIGURED)),
        (came(CATERINA), (ELSEWHERE,), STRANGER),
        # a device node that is configured is nobody else's
        (came(FLASHER), (FIXED,), STRANGER),
        (came(CATERINA), (FIXED,), Meaning(Role.BOOTLOADER, FIXED)),
        (came(USBASP, USB), (FIXED,), programmer(MADE)),
        # USBaspLoader shows what a USBasp shows: opening it tells
        (came(replace(USBASP, serial="x"), USB), (USB_CONFIGURED,), programmer(USB_CONFIGURED)),
    ],
)
def test_rules(event: PortEvent, known: tuple[SlotSpec, ...], expected: Meaning) -> None:
    assert meaning_of(event, known, DRIVERS, LOADERS) == expected


@pytest.mark.parametrize(
    "usb",
    [
        UsbIdentity(vendor_id=0x1A86, product_id=0x7523, product="USB Serial"),
        UsbIdentity(
            vendor_id=0x0403, product_id=0x6001, manufacturer="FTDI", product="FT232R USB UART", serial="A6008isP"
        ),
        UsbIdentity(vendor_id=0x10C4, product_id=0xEA60, manufacturer="Silicon Labs", serial="0001"),
        UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="LED Ring"),
        UsbIdentity(vendor_id=0x16C0, product_id=0x05DC),
        UsbIdentity(vendor_id=0x16C0, product_id=0x05DF, manufacturer="www.fischl.de", product="USBasp"),
        UsbIdentity(
            vendor_id=0x16C0, product_id=0x0483, manufacturer="Teensyduino", product="USB Serial", serial="1234560"
        ),
        CATERINA,
        DFU_16U2,
    ],
    ids=str,
)
def test_no_driver_claims_what_may_be_anything(usb: UsbIdentity) -> None:
    claims = [driver.kind for driver in load_drivers().values() if driver.claims(usb)]
    assert claims == []


def test_the_catalog_names_the_bootloaders_of_boards_that_serve_as_programmers() -> None:
    for usb in ("1B4F:9203", "1B4F:9205", "1B4F:9207", "2341:0036", "2341:0037", "2A03:0036", "2A03:0037", "03EB:2FEF"):
        assert usb in LOADERS
    assert not {"16C0:05DC", "16C0:05DF", "16C0:0483", "2341:8036", "1B4F:9206"} & LOADERS.keys()

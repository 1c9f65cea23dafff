"""ST-Links that cannot be used have slots that say so; what USB tells of one that is closed is shown where it is plain text."""

from pathlib import Path

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.station import SlotState
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.station import Knowledge, Station
from vbench.hardware import BenchHardware
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware, odd_serial
from vbench.virtual_time import InlineWorker, VirtualClock, virtual

ODD = "00FF6C0649801B0A00140267"
V1, OLD, GOOD = "1-1.1", "1-1.2", "1-1.3"


@virtual
async def test_each_st_link_that_is_no_good_says_why_and_the_good_one_beside_it_works(tmp_path: Path) -> None:
    serial = odd_serial(bytes.fromhex(ODD))
    hardware, parts = BenchHardware(), load_parts()
    hardware.add("V1", StLink(StLinkFirmware(product_id=0x3744)), path=V1)
    hardware.add("OLD", StLink(StLinkFirmware(jtag=10, third=0), serial=serial), path=OLD)
    hardware.add("GOOD", StLink(serial=serial), path=GOOD)
    clock = VirtualClock()
    journal = await Journal.open(tmp_path / "journal.db", InlineWorker(), now=clock.wall().isoformat())
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=parts, bootloaders=load_bootloaders(parts), drivers=load_drivers()),
        clock=clock,
        specs=[],
        watch_hotplug=True,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        await clock.sleep(60)
        slots = {slot.name: slot for slot in station.slots()}
        serials = {one.path: one.serial for one in station.programmers()}
        await station.stop()
    await journal.aclose()
    states = {name: slot.state for name, slot in slots.items()}
    assert states == {V1: SlotState.QUARANTINED, OLD: SlotState.QUARANTINED, GOOD: SlotState.IDLE}
    for name, words, cure in ((V1, "ST-Link/V1", "use an ST-Link/V2"), (OLD, "V2J10S0", "STSW-LINK007")):
        failure = slots[name].failure
        assert failure is not None
        assert (failure.code, words in failure.message, cure in failure.hint) == ("programmer-cannot", True, True)
    assert serials == {V1: "2C1219002B135937334D4E00", OLD: None, GOOD: ODD}

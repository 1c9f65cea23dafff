"""A programmer that somebody closed under a session, as hotplug does when its plug is pulled, is gone like any unplugged one."""

import pytest
from tests.conformance.beds import VIRTUAL_CASES, Case, OpenBed, Watch

from ispd.catalog.parts import load_parts
from ispd.errors import LinkClosedError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.wire import avr_isp
from vbench.target import AvrTarget


@pytest.mark.parametrize("case", VIRTUAL_CASES.values(), ids=VIRTUAL_CASES)
def test_a_closed_programmer_is_gone_and_nobodys_mistake(case: Case) -> None:
    part = load_parts().avr("atmega32u4")

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(AvrTarget(part)) as bed:
            programmer = bed.programmer
            await programmer.enter(part, None)
            await programmer.aclose()
            with pytest.raises(LinkClosedError):
                await programmer.transfer([avr_isp.read_signature(0)])
            with pytest.raises(LinkClosedError):
                await programmer.read(MemoryKind.FLASH, Span(0, 128), Watch())
            with pytest.raises(LinkClosedError):
                await programmer.write(part, MemoryKind.FLASH, [Segment(0, bytes(128))], Watch())
            with pytest.raises(LinkClosedError):
                await programmer.leave()
            with pytest.raises(LinkClosedError):
                await programmer.enter(part, None)

    case.run(session)

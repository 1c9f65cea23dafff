"""The table of slot states: complete, and closed in itself."""

import pytest

from ispd.model.station import SlotState
from ispd.station.slot_state import CHANGES, check_change


def test_every_state_has_a_row_and_a_way_in_and_out():
    assert set(CHANGES) == set(SlotState)
    reachable = {new for news in CHANGES.values() for new in news}
    assert reachable == set(SlotState)
    assert all(CHANGES.values())


def test_a_busy_slot_cannot_be_disabled_and_a_vacant_one_cannot_start():
    for old, new in ((SlotState.BUSY, SlotState.DISABLED), (SlotState.VACANT, SlotState.BUSY)):
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            check_change(old, new)
    check_change(SlotState.BUSY, SlotState.BUSY)

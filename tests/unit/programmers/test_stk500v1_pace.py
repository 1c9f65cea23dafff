"""The choice between blocks and single loads, from measured figures alone."""

import pytest

from ispd.programmers.stk500v1_pace import Decision, Pace, Way


def pace(universal_s: float) -> Pace:
    pace = Pace()
    pace.universal_s = universal_s
    return pace


def test_a_line_of_19200_baud_takes_blocks_without_a_trial() -> None:
    for page_bytes in (64, 128, 256):
        assert pace(0.0032).decide(page_bytes, 224) == Decision(Way.BLOCK, None)


def test_a_line_that_is_no_limit_takes_loads_without_a_trial() -> None:
    for page_bytes in (64, 128, 256):
        assert pace(0.00027).decide(page_bytes, 64) == Decision(Way.LOAD, None)


def test_in_between_each_way_is_tried_once_and_the_faster_kept() -> None:
    for load_s, block_s, better in ((0.072, 0.071, Way.BLOCK), (0.070, 0.071, Way.LOAD)):
        line = pace(0.00054)
        assert line.decide(128, 64) == Decision(Way.LOAD, 1)
        line.note_page(Way.LOAD, 128, load_s)
        assert line.decide(128, 63) == Decision(Way.BLOCK, 2)
        line.note_page(Way.BLOCK, 128, block_s)
        assert line.decide(128, 61) == Decision(better, None)
        assert line.decide(64, 64).pages is not None, "another page size is another measurement"


def test_a_short_write_is_no_place_for_trials() -> None:
    assert pace(0.00054).decide(128, 7) == Decision(Way.BLOCK, None)
    assert pace(0.00040).decide(128, 7) == Decision(Way.LOAD, None)


def test_a_slow_first_load_is_believed() -> None:
    line = pace(0.0003)
    line.note_page(Way.LOAD, 128, 0.4)
    assert line.decide(128, 60).way is Way.BLOCK


def test_deciding_without_a_measurement_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="measured"):
        Pace().decide(128, 1)

"""What a Bus Pirate's line takes: nothing that could fill a FIFO of four bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.programmers.buspirate_pace import FIFO_BYTES, STREAM_BAUDS, Blocks, Pace

BAUDS = (115_200, 250_000, 800_000, 2_000_000)
SPEEDS = (31_250, 125_000, 250_000, 1_000_000, 2_000_000)

paces = st.builds(Pace, is_usb=st.just(False), baud=st.sampled_from(BAUDS), blocks=st.sampled_from(Blocks))


def most_waiting(count: int, line_byte_s: float, spi_byte_s: float) -> int:
    """Return how many of ``count`` bytes wait at worst: all come one after another, each is taken when SPI is free."""
    taken_at, worst = 0.0, 0
    for number in range(count):
        taken_at = max(taken_at + spi_byte_s, (number + 1) * line_byte_s)
        arrived = min(count, int(taken_at / line_byte_s + 1e-9))
        worst = max(worst, arrived - number - 1)
    return worst


@given(pace=paces, sck_hz=st.sampled_from(SPEEDS))
def test_a_bulk_transfer_and_the_byte_behind_it_never_overrun_the_fifo(pace: Pace, sck_hz: int) -> None:
    data = 4 * pace.bulk_instructions(sck_hz)
    assert most_waiting(data + 1, pace.byte_s, pace.spi_byte_s(sck_hz)) <= FIFO_BYTES


@given(pace=paces, sck_hz=st.sampled_from(SPEEDS))
def test_only_a_line_slower_than_spi_is_run_ahead_on(pace: Pace, sck_hz: int) -> None:
    runs_ahead = pace.bulk_window(sck_hz).ahead_bytes is None
    assert runs_ahead == (pace.spi_byte_s(sck_hz) <= pace.byte_s)
    assert pace.window.ahead_bytes == 0
    if runs_ahead and pace.baud == 115_200:
        # PIC 16 MHz / 4 / 35, FTDI 3 MHz / 26
        behind = 17 * pace.bulk_run(sck_hz) * (1 - (4e6 / 35) / (3e6 / 26))
        assert behind < FIFO_BYTES


@given(pace=paces, sck_hz=st.sampled_from(SPEEDS))
def test_a_streamed_block_is_long_only_where_spi_keeps_up(pace: Pace, sck_hz: int) -> None:
    limit = pace.block_bytes(sck_hz)
    match pace.blocks:
        case Blocks.NONE:
            assert limit == 0
        case Blocks.BUFFERED:
            assert limit == 4096
        case Blocks.STREAMED:
            spi_fifo = 7
            assert most_waiting(limit, pace.byte_s, 8 / sck_hz) <= FIFO_BYTES + spi_fifo


@pytest.mark.parametrize(
    ("sck_hz", "baud"), [(31_250, 1), (125_000, 1), (250_000, 250_000), (1_000_000, 800_000), (2_000_000, 800_000)]
)
def test_the_rate_is_the_fastest_that_spi_keeps_up_with(sck_hz: int, baud: int) -> None:
    assert Pace(is_usb=False, baud=1, blocks=Blocks.STREAMED).best_baud(sck_hz) == baud
    assert 4_000_000 % STREAM_BAUDS[0] == 4_000_000 % STREAM_BAUDS[1] == 0


@given(pace=paces, sck_hz=st.sampled_from(SPEEDS))
def test_a_reading_is_heard_stopping(pace: Pace, sck_hz: int) -> None:
    size = pace.read_block_bytes(sck_hz)
    assert 64 <= size <= 1024
    assert size % 64 == 0
    assert size * max(pace.byte_s, 4 * pace.spi_byte_s(sck_hz)) <= 0.1


def test_a_page_goes_the_way_that_is_over_first() -> None:
    wait_s = 0.0045
    for baud, sck_hz, is_block in [
        (2_000_000, 1_000_000, True),
        (115_200, 1_000_000, True),
        (250_000, 250_000, False),
        (250_000, 31_250, True),
    ]:
        assert Pace(is_usb=False, baud=baud, blocks=Blocks.BUFFERED).is_block_faster(129, sck_hz, wait_s) == is_block
    assert Pace(is_usb=False, baud=250_000, blocks=Blocks.STREAMED).is_block_faster(129, 250_000, wait_s)
    assert Pace(is_usb=True, baud=0, blocks=Blocks.BUFFERED).is_block_faster(129, 250_000, wait_s)

"""Progress bars, however their text is cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ispd.chain.progress import ByteBar, MarkBar

AVRDUDE = (
    "avrdude: AVR device initialized and ready to accept instructions\n\nReading | " + "#" * 50 + " | 100% 0.00s\n\n"
    "avrdude: erasing chip\navrdude: writing flash (3000 bytes) ...\n\nWriting | " + "#" * 50 + " | 100% 0.86s\n\n"
    "avrdude: 3000 bytes of flash written\n\nReading | " + "#" * 50 + " | 100% 0.20s\n\n"
)
DFU_PROGRAMMER = (
    "0%                            100%  Programming 0xBB8 bytes...\n[" + ">" * 32 + "]  Success\n"
    "0%                            100%  Reading 0x7000 bytes...\n[" + ">" * 32 + "]  Success\n"
)
TEENSY = "Teensy Loader, Command Line, Version 2.2\nFound HalfKay Bootloader\nProgramming" + "." * 24 + "\nBooting\n"
DFU_UTIL = (
    "Copying data from PC to DFU device\n\rDownload\t[                         ]   0%            0 bytes"
    + "".join(
        f"\rDownload\t[{'=' * (sent // 120):25}] {sent // 30:3}% {sent:12} bytes" for sent in range(1024, 3000, 1024)
    )
    + "\rDownload\t[=========================] 100%         3000 bytes\nDownload done.\n"
    "\rUpload\t[=========================] 100%        3000 bytes\n"
)
TOTAL = 3000


def bar_for(text: str) -> MarkBar | ByteBar:
    """Return the bar that the tool of this output uses."""
    if text == DFU_UTIL:
        return ByteBar("Download", total_bytes=TOTAL)
    opening, mark, marks = {
        AVRDUDE: ("Writing | ", "#", 50),
        DFU_PROGRAMMER: (" bytes...\n[", ">", 32),
        TEENSY: ("Programming", ".", 24),
    }[text]
    return MarkBar(opening, mark, marks=marks, total_bytes=TOTAL)


@given(
    text=st.sampled_from([AVRDUDE, DFU_PROGRAMMER, TEENSY, DFU_UTIL]), cuts=st.lists(st.integers(0, 600), max_size=40)
)
def test_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    """Any division gives the whole in the end, never goes back, and agrees with one piece at each place it is cut."""
    bar, passed = bar_for(text), 0
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    for start, stop in pairwise(places):
        more = bar.feed(text[start:stop])
        assert more >= 0
        passed += more
        assert passed == bar_for(text).feed(text[:stop])
    assert passed == TOTAL
    assert bar.rest() == 0


@given(
    text=st.text(st.sampled_from("#>.[]| \n\rDownloadWriting100%bytesProgramming"), max_size=300),
    size=st.integers(1, 9),
)
def test_noise_is_survived(text: str, size: int) -> None:
    """Output of any other shape claims nothing beyond the whole and nothing below zero."""
    for tool in (AVRDUDE, DFU_PROGRAMMER, TEENSY, DFU_UTIL):
        bar, passed = bar_for(tool), 0
        for start in range(0, len(text), size):
            passed += bar.feed(text[start : start + size])
            assert 0 <= passed <= TOTAL
        assert passed + bar.rest() == TOTAL


def test_a_bar_grows_as_it_is_drawn() -> None:
    """Half a bar is half the work; a count above the file's is cut; marks of a second bar do not count again."""
    avrdude = bar_for(AVRDUDE)
    assert avrdude.feed("Writing | " + "#" * 25) == TOTAL // 2
    assert avrdude.feed("#" * 10) == TOTAL // 5
    assert avrdude.feed(" | 70%\n\nWriting | " + "#" * 10) == 0
    assert bar_for(AVRDUDE).feed("Writing | " + "#" * 60) == TOTAL
    dfu_util = ByteBar("Download", total_bytes=1000)
    assert dfu_util.feed("\rDownload\t[=====     ]  16%         16") == 0
    assert dfu_util.feed("4 bytes") == 164
    assert dfu_util.feed("\rDownload\t[==========] 100%         1016 bytes") == 836
    assert dfu_util.feed("\rDownload\t[=====     ]  50%          500 bytes") == 0

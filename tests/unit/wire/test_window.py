"""The window pump against a receiver that reads nothing while it works, byte by byte."""

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import WordAddress
from ispd.wire.engine import Chain, Request
from ispd.wire.stk500v1 import BlockMemory, LoadAddress, ProgramPage, ReadPage, Sync, Universal
from ispd.wire.window import UART_AHEAD_BYTES, Window, WindowPump

requests_ = st.lists(
    st.one_of(
        st.just(Sync()),
        st.binary(min_size=4, max_size=4).map(Universal),
        st.integers(1, 128).map(lambda words: ProgramPage(bytes(2 * words))),
        st.integers(1, 256).map(lambda size: ReadPage(BlockMemory.EEPROM, size)),
    ),
    max_size=24,
)
windows = st.builds(
    Window,
    ahead_bytes=st.one_of(st.none(), st.integers(0, 80)),
    ahead_requests=st.integers(0, 20),
)


def reply_to(request: Request[object], number: int) -> bytes:
    """Return a good reply that can be told from its neighbours'."""
    match request:
        case Universal():
            return bytes((0x14, number & 0xFF, 0x10))
        case ReadPage(size_bytes=size):
            return bytes((0x14, *((number + index) & 0xFF for index in range(size)), 0x10))
        case _:
            return b"\x14\x10"


def chunks(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


@given(requests_, windows, st.lists(st.integers(1, 40), min_size=1))
def test_any_window_and_any_chunking_give_the_same_replies(
    batch: list[Request[object]], window: Window, cuts: list[int]
) -> None:
    pump = WindowPump(batch, window)
    sizes = iter(cuts * 10_000)
    sent = bytearray()
    answered_bytes = 0
    heard: list[object] = []
    for number, request in enumerate(batch):
        sent += pump.outgoing()
        answered_bytes += len(request.encode())
        ahead = len(sent) - answered_bytes
        assert ahead >= 0, "the oldest request must be sent completely"
        assert window.ahead_bytes is None or ahead <= window.ahead_bytes
        for piece in chunks(reply_to(request, number), sizes):
            heard += list(pump.incoming(piece))
    assert pump.outgoing() == b""
    assert pump.is_idle
    assert bytes(sent) == b"".join(request.encode() for request in batch)
    assert heard == [request.decode(reply_to(request, number)) for number, request in enumerate(batch)]


@given(requests_, windows, st.binary(min_size=1, max_size=300))
def test_noise_raises_only_remote_protocol_errors(batch: list[Request[object]], window: Window, noise: bytes) -> None:
    pump = WindowPump(batch, window)
    pump.outgoing()
    answered = 0
    with contextlib.suppress(RemoteProtocolError):
        for _reply in pump.incoming(noise):
            answered += 1
            pump.outgoing()
    assert answered <= min(len(batch), len(noise) // 2)


def test_the_next_block_travels_while_the_sketch_is_busy_and_never_beyond_its_ring() -> None:
    pages = [ProgramPage(bytes(128)) for _ in range(3)]
    pump = WindowPump(pages, Window(ahead_bytes=UART_AHEAD_BYTES))
    assert len(pump.outgoing()) == 133 + 60
    assert pump.unsent_bytes == 73
    assert pump.outgoing() == b""
    assert len(list(pump.incoming(b"\x14\x10"))) == 1
    assert len(pump.outgoing()) == 73 + 60
    list(pump.incoming(b"\x14\x10"))
    assert len(pump.outgoing()) == 73
    list(pump.incoming(b"\x14\x10"))
    assert pump.is_idle


def test_the_start_of_a_chain_may_be_answered_before_its_end_was_sent() -> None:
    chains = [Chain((LoadAddress(WordAddress(0x40 * number)),), ProgramPage(bytes(128))) for number in (0, 2)]
    pump = WindowPump(chains, Window(ahead_bytes=60))
    assert len(pump.outgoing()) == 137 + 60
    assert len(list(pump.incoming(b"\x14\x10\x14\x10\x14\x10"))) == 1
    assert len(pump.outgoing()) == 77
    assert len(list(pump.incoming(b"\x14\x10"))) == 1
    assert pump.is_idle


def test_a_whole_answer_before_the_whole_request_is_an_error() -> None:
    pump = WindowPump([ProgramPage(bytes(128))] * 2, Window(ahead_bytes=60))
    pump.outgoing()
    with pytest.raises(RemoteProtocolError, match="before it was sent"):
        list(pump.incoming(b"\x14\x10\x14\x10"))


def test_a_stop_finishes_what_was_begun_and_begins_nothing() -> None:
    begun: list[int] = []
    stopped = False

    def source() -> Iterator[ProgramPage]:
        for number in range(5):
            begun.append(number)
            yield ProgramPage(bytes(128))

    pump = WindowPump(source(), Window(ahead_bytes=60), stop=lambda: stopped)
    pump.outgoing()
    stopped = True
    list(pump.incoming(b"\x14\x10"))
    assert len(pump.outgoing()) == 73, "the second block had begun and must be completed"
    list(pump.incoming(b"\x14\x10"))
    assert pump.outgoing() == b""
    assert pump.is_idle
    assert begun == [0, 1]


def test_replies_before_an_error_are_not_lost() -> None:
    pump = WindowPump([Sync(), Sync(), Sync()], Window(ahead_bytes=None))
    pump.outgoing()
    replies = pump.incoming(b"\x14\x10\x14\x10\x15")
    assert [next(replies), next(replies)] == [None, None]
    with pytest.raises(RemoteProtocolError, match="NO_SYNC"):
        next(replies)


def test_bytes_nobody_asked_for_are_an_error() -> None:
    pump = WindowPump([Sync()], Window(ahead_bytes=None))
    pump.outgoing()
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        list(pump.incoming(b"\x14\x10\x14"))


def test_an_empty_request_would_never_be_answered() -> None:
    class Nothing(Sync):
        def encode(self) -> bytes:
            return b""

    with pytest.raises(LocalProtocolError):
        WindowPump([Nothing()], Window(ahead_bytes=None)).outgoing()

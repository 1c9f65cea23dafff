"""Framing: any cut of the stream gives the same messages, and only declared errors come out of random bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.errors import ErrorCode, RefusedError
from ispd.surfaces.jsonrpc.framing import Framing, FramingKind

LIMIT = 40
HEADER_LIMIT = 64

Outcome = list[bytes | ErrorCode]


def read(stream: bytes, cuts: list[int]) -> Outcome:
    """Return the messages of ``stream`` when it arrives cut at ``cuts``, and the error that ended it, if one did."""
    framing = Framing(max_message_bytes=LIMIT, max_header_bytes=HEADER_LIMIT)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    outcome: Outcome = []
    try:
        for start, stop in pairwise(edges):
            framing.receive(stream[start:stop])
            while (message := framing.next_message()) is not None:
                outcome.append(message)
        if (rest := framing.finish()) is not None:
            outcome.append(rest)
    except RefusedError as error:
        outcome.append(error.code)
        with pytest.raises(RefusedError):  # it stays an error, whatever else is asked
            framing.next_message()
    return outcome


def lines(messages: list[bytes]) -> bytes:
    return b"".join(message + b"\n" for message in messages)


def headers(messages: list[bytes]) -> bytes:
    return b"".join(b"Content-Length: %d\r\n\r\n%b" % (len(message), message) for message in messages)


cuts = st.lists(st.integers(0, 400), max_size=12)
json_like = st.binary(max_size=LIMIT - 1).map(lambda body: b"{" + body.replace(b"\n", b" ").strip())


@given(st.lists(json_like, max_size=8), cuts)
def test_lines_survive_any_chunking(messages: list[bytes], at: list[int]):
    assert read(lines(messages), at) == messages


@given(st.lists(st.binary(max_size=LIMIT), min_size=1, max_size=6), cuts)
def test_headers_survive_any_chunking(messages: list[bytes], at: list[int]):
    assert read(headers(messages), at) == messages


fragments = st.sampled_from(
    [
        b"Content-Length: 3\r\n\r\n",
        b"Content-Length: 99\r\n\r\n",
        b"\r\n",
        b"\n",
        b"{}",
        b"C",
        b"content-type: x\r\n",
        b" " * 30,
    ]
)


@given(st.lists(st.binary(max_size=30) | fragments, max_size=12).map(b"".join), cuts)
def test_random_bytes_give_the_same_in_any_chunking(stream: bytes, at: list[int]):
    outcome = read(stream, at)
    assert outcome == read(stream, [])
    assert outcome == read(stream, list(range(len(stream))))
    errors = [entry for entry in outcome if isinstance(entry, ErrorCode)]
    assert set(errors) <= {ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST}
    assert all(len(entry) <= LIMIT for entry in outcome)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (b"{}\n", [b"{}"]),
        (b"\r\n \t{}\r\n\r\n[]", [b"{}", b"[]"]),
        (b"{" * LIMIT + b"\n", [b"{" * LIMIT]),
        (b"{" * (LIMIT + 1), [ErrorCode.INVALID_REQUEST]),
        (b"{}\n" + b"{" * (LIMIT + 1) + b"\n", [b"{}", ErrorCode.INVALID_REQUEST]),
        (b"content-length:2\r\nContent-Type: application/json\r\n\r\n{}", [b"{}"]),
        (b"Content-Length: 2\r\n\r\n{}{}", [b"{}", ErrorCode.PARSE_ERROR]),
        (b"Content-Length: 41\r\n\r\n", [ErrorCode.INVALID_REQUEST]),
        (b"Content-Length: 9999999999\r\n\r\n", [ErrorCode.PARSE_ERROR]),
        (b"Content-Length: -1\r\n\r\n", [ErrorCode.PARSE_ERROR]),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", [ErrorCode.PARSE_ERROR]),
        (b"Content-Type: x\r\n\r\n{}", [ErrorCode.PARSE_ERROR]),
        (b"Content-Length 2\r\n\r\n{}", [ErrorCode.PARSE_ERROR]),
        (b"C" * HEADER_LIMIT, [ErrorCode.PARSE_ERROR]),
        (b"Content-Length: 2\n\n{}", [ErrorCode.PARSE_ERROR]),
    ],
)
def test_each_limit_and_each_malformed_header(stream: bytes, outcome: Outcome):
    assert read(stream, []) == outcome


@pytest.mark.parametrize(
    ("kind", "first"), [(FramingKind.LINES, b"{}\n"), (FramingKind.HEADERS, b"Content-Length: 2\r\n\r\n{}")]
)
def test_answers_are_framed_like_the_requests(kind: FramingKind, first: bytes):
    framing = Framing()
    framing.receive(first)
    assert framing.next_message() == b"{}"
    assert framing.kind is kind
    assert framing.encode(b"{}") == first
    assert not framing.has_partial

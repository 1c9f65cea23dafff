"""Decoding: stricter than JSON libraries, and cheap to refuse."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.errors import ErrorCode, RefusedError
from ispd.surfaces.jsonrpc.codec import MAX_DEPTH, MAX_TOKENS, decode, encode

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(values)
def test_plain_values_round_trip(value: object):
    assert decode(encode(value)) == value
    assert decode(json.dumps(value).encode()) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8NaIinfty1e9-. ', max_size=40).map(str.encode))
def test_only_declared_errors_come_out_of_random_bytes(data: bytes):
    try:
        encode(decode(data))  # what was accepted can be said again
    except RefusedError as error:
        assert error.code in (ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST)  # noqa: PT017 - success is fine as well


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"nope", b"{} {}", b"'a'", b"\xff", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'{"x":{"a":1,"a":1}}',
        b"NaN", b"[Infinity]", b"[-Infinity]", b"1e999", b"[-1e999]", b'"\\ud800"', b'{"\\uDFFF":1}', b'"\\ude00\\ud83d"',
        b"1" * 41, b"-" + b"9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_json_here(data: bytes):
    with pytest.raises(RefusedError) as caught:
        decode(data)
    assert caught.value.code is ErrorCode.PARSE_ERROR


def test_a_pair_of_surrogates_is_a_character():
    assert decode(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5_000])
def test_deep_nesting_is_refused(opening: bytes, depth: int):
    closing = b"]" if opening == b"[" else b"}"
    with pytest.raises(RefusedError) as caught:
        decode(opening * depth + b"1" + closing * depth)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert decode(opening * (MAX_DEPTH - 1) + b"1" + closing * (MAX_DEPTH - 1)) is not None


def test_a_crowded_message_is_refused_before_it_is_parsed():
    crowded = b"[" + b"0," * (2 * 1024 * 1024) + b"0]"
    began = time.process_time()
    with pytest.raises(RefusedError) as caught:
        decode(crowded)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    # Parsing it would take some 200 ms of every board's time, counting takes 10.
    assert time.process_time() - began < 0.1
    assert decode(b"[" + b"0," * (MAX_TOKENS - 2) + b"0]")[0] == 0


def test_what_is_no_part_of_the_api_is_not_encoded():
    with pytest.raises(NotImplementedError):
        encode(object())

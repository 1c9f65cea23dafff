"""Dumps as files: what another program reads back is what the board held."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intelhex import IntelHex

from ispctl.errors import RefusedFileError
from ispctl.hexfile import check_ending, encode_for, intel_hex


@given(st.binary(min_size=1, max_size=100))
def test_another_reader_agrees(content: bytes):
    assert IntelHex(io.StringIO(intel_hex(content))).tobinstr() == content


def test_beyond_64_kib():
    content = bytes(range(256)) * 600
    assert IntelHex(io.StringIO(intel_hex(content))).tobinstr() == content


def test_the_ending_tells_the_format():
    assert encode_for(Path("a.BIN"), b"\x01") == b"\x01"
    assert encode_for(Path("a.hex"), b"\x01") == b":0100000001FE\n:00000001FF\n"
    check_ending(Path("a.eep"))
    with pytest.raises(RefusedFileError):
        check_ending(Path("a"))
    with pytest.raises(RefusedFileError):
        check_ending(Path("a.bin"), raw=False)

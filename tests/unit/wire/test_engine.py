"""Chains: several requests that travel as one."""

import pytest

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import WordAddress
from ispd.wire.engine import Chain
from ispd.wire.stk500v1 import BlockMemory, LoadAddress, ReadPage, Universal


def test_a_chain_fails_with_its_first_failing_member_and_says_what_is_missing() -> None:
    chain = Chain((Universal(b"\x4d\x00\x01\x00"), LoadAddress(WordAddress(0))), ReadPage(BlockMemory.FLASH, 2))
    assert chain.encode() == bytes.fromhex("564D000100 20 55000020 7400024620")
    good = bytes.fromhex("14 00 10 14 10 14 AA BB 10")
    assert [chain.missing(good[:count]) for count in range(10)] == [3, 4, 3, 2, 2, 1, 3, 2, 1, 0]
    assert chain.decode(good) == b"\xaa\xbb"
    with pytest.raises(RemoteProtocolError, match="LoadAddress"):
        chain.decode(bytes.fromhex("14 00 10 15 14 AA BB 10"))


def test_a_chain_of_one_is_a_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Chain((), LoadAddress(WordAddress(0)))

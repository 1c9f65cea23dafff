"""The serial link: deadlines, cancellation, and the memory of lost framing. All on virtual time."""

import anyio
import pytest
from tests.unit.transport.script import ScriptedPort

from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError
from ispd.transport.link import DRAIN_S, SILENCE_S, SerialLink
from ispd.wire.stk500v1 import ProgramPage, Sync, Universal
from ispd.wire.window import Window, WindowPump
from vbench.virtual_time import virtual

UART = Window(ahead_bytes=60)
OK = b"\x14\x10"


def link_to(*answers: list[tuple[float, bytes]]) -> tuple[SerialLink, ScriptedPort]:
    """Return a link in sync whose port gives one answer for each write."""
    replies = iter(answers)
    port = ScriptedPort(lambda _sent: next(replies, []))
    link = SerialLink(port)
    link.confirm_sync()
    return link, port


@virtual
async def test_replies_come_back_in_order_however_they_are_cut() -> None:
    link, port = link_to([(0.01, b"\x14"), (0.01, b"\x01\x10\x14\x02"), (0.01, b"\x10")])
    seen: list[int] = []
    batch = [Universal(bytes(4)), Universal(bytes(4))]
    assert await link.exchange(WindowPump(batch, UART), deadline_s=1, on_reply=seen.append) == [1, 2]
    assert seen == [1, 2]
    assert port.sent == [batch[0].encode() + batch[1].encode()], "both fit the window and travel in one write"
    assert anyio.current_time() == pytest.approx(0.03)


@virtual
async def test_silence_ends_the_exchange_and_the_link_remembers_what_it_owes() -> None:
    link, _port = link_to()
    with pytest.raises(LinkTimeoutError):
        await link.exchange(WindowPump([ProgramPage(bytes(128)), ProgramPage(bytes(128))], UART), deadline_s=60)
    assert anyio.current_time() == pytest.approx(SILENCE_S)
    assert not link.in_sync
    assert link.epoch == 1
    assert link.owed_bytes == 133 - 60
    with pytest.raises(RemoteProtocolError, match="out of step"):
        await link.exchange(WindowPump([Sync()], UART), deadline_s=1)
    link.confirm_sync()
    assert link.owed_bytes == 0


@virtual
async def test_the_batch_deadline_holds_though_every_answer_is_in_time() -> None:
    link, _port = link_to(*[[(1.5, OK)]] * 10)
    with pytest.raises(LinkTimeoutError, match=r"within 4\.0 s"):
        await link.exchange(WindowPump([Sync()] * 10, Window(ahead_bytes=0)), deadline_s=4.0)
    assert anyio.current_time() == pytest.approx(4.0)


@virtual
async def test_a_protocol_error_puts_the_link_out_of_sync_once() -> None:
    link, _port = link_to([(0.0, b"\x15")])
    with pytest.raises(RemoteProtocolError):
        await link.exchange(WindowPump([Sync()], UART), deadline_s=1)
    assert (link.in_sync, link.epoch) == (False, 1)
    link.lose_sync()
    assert link.epoch == 1


@virtual
async def test_cancelling_finishes_what_was_begun_and_stays_in_sync() -> None:
    link, port = link_to([(0.1, OK)], [(0.1, OK)], [(0.1, OK)])
    with anyio.move_on_after(0.05):
        await link.exchange(WindowPump([ProgramPage(bytes(128))] * 3, UART), deadline_s=10)
    assert link.in_sync
    assert b"".join(port.sent) == ProgramPage(bytes(128)).encode() * 2, "the block that had begun was completed"
    assert anyio.current_time() == pytest.approx(0.2)


@virtual
async def test_cancelling_a_dead_exchange_ends_and_marks_the_link() -> None:
    link, _port = link_to()
    with anyio.move_on_after(0.5):
        await link.exchange(WindowPump([ProgramPage(bytes(128))], UART), deadline_s=10)
    assert not link.in_sync
    assert anyio.current_time() == pytest.approx(0.5 + DRAIN_S)


@virtual
async def test_unplugging_is_told_at_once_and_also_while_draining() -> None:
    link, port = link_to()
    async with anyio.create_task_group() as tasks:
        await port.aclose()
        with pytest.raises(LinkClosedError):
            await link.exchange(WindowPump([Sync()], UART), deadline_s=10)
        tasks.cancel_scope.cancel()
    assert anyio.current_time() == 0


@virtual
async def test_stop_returns_fewer_replies_and_keeps_the_link_in_sync() -> None:
    link, _port = link_to(*[[(0.1, OK)]] * 9)
    done: list[None] = []
    pump = WindowPump([ProgramPage(bytes(128))] * 9, UART, stop=lambda: len(done) >= 3)
    replies = await link.exchange(pump, deadline_s=10, on_reply=done.append)
    assert len(replies) == len(done) == 4, "the fourth had begun before the third was answered"
    assert link.in_sync


@virtual
async def test_listening_ends_after_the_mark_after_silence_or_at_its_limit() -> None:
    link, port = link_to()
    port.inject([(0.1, b"noise"), (0.1, OK), (0.5, b"late")])
    assert await link.listen(limit_s=1.0, until=OK) == b"noise" + OK
    assert await link.listen(limit_s=1.0, quiet_s=0.2) == b""
    assert anyio.current_time() == pytest.approx(0.4)
    assert await link.listen(limit_s=1.0) == b"late"
    assert anyio.current_time() == pytest.approx(1.4)


@virtual
async def test_closing_ends_the_conversation() -> None:
    link, port = link_to([(0, OK)])
    await link.aclose()
    assert port.closed
    with pytest.raises(RemoteProtocolError):
        await link.exchange(WindowPump([Sync()], UART), deadline_s=1)

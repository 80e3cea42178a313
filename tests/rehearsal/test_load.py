"""The load generator, before small servers of its own: what it counts is what happened.

Runs last tenths of a second, on loopback; bounds on durations leave room for a busy machine.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from drills.load.generator import length, run
from drills.load.plan import LoadPlan, flags_bodies
from drills.load.report import Histogram, Report, Slot, Stats, draw, table

RATE = 200.0


def answer(status: int = 200, body: bytes = b"{}", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


class Peer(asyncio.Protocol):
    """One connection of a server that hands each request to `reply`."""

    def __init__(self, reply: Callable[["Peer", bytes], None]) -> None:
        self._reply = reply

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reply(self, data)


@asynccontextmanager
async def serving(reply: Callable[[Peer, bytes], None]) -> AsyncIterator[str]:
    """The URL of a server that replies so."""
    peers: list[Peer] = []

    def peer() -> Peer:
        peers.append(Peer(reply))
        return peers[-1]

    server = await asyncio.get_running_loop().create_server(peer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/flags?v=2"
    finally:
        server.close()
        for each in peers:
            each.transport.abort()
        await asyncio.sleep(0)  # For transports to close their sockets.


def always(*pieces: bytes) -> Callable[[Peer, bytes], None]:
    return lambda peer, _: [peer.transport.write(piece) for piece in pieces] and None


async def report_of(reply: Callable[[Peer, bytes], None], **plan: Any) -> Report:
    async with serving(reply) as url:
        return await asyncio.wait_for(run(LoadPlan(**{"url": url, "phases": ((0.2, RATE),), **plan})), 5)


def counts(stats: dict[Any, Stats]) -> dict[str, int]:
    return {outcome: each.count for outcome, each in stats.items()}


async def test_run__everything_answered__counts_each_request_once() -> None:
    """What was due was sent, answered and counted, in the time line too."""
    seen: list[bytes] = []

    def reply(peer: Peer, data: bytes) -> None:
        seen.append(data)
        peer.transport.write(answer())

    report = await report_of(reply, bodies=flags_bodies("phc_x", 2), headers=("X-Test: 1",))
    assert len(seen) == report.due == 40
    assert (counts(report.first), report.retried, report.statuses) == ({"ok": 40}, {}, {200: 40})
    assert seen[0].startswith(b"POST /flags?v=2 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Test: 1\r\n" in seen[0]
    assert [json.loads(it.partition(b"\r\n\r\n")[2])["distinct_id"] for it in seen[:3]] == ["u0", "u1", "u0"]
    assert (sum(it.due for it in report.slots), sum(it.goodput for it in report.slots)) == (40, 40)
    assert report.reconnects == 0


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ((answer(200, b'{"errorsWhileComputingFlags":true}'),), "partial"),
        ((answer(503),), "shed"),
        ((answer(429),), "limited"),
        ((answer(500),), "other"),
        ((b"HTTP/1.1 204 None\r\n\r\n",), "ok"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",), "ok"),
    ],
)
async def test_run__kind_of_answer__has_its_outcome(pieces: tuple[bytes, ...], outcome: str) -> None:
    """Refusals are told from answers, and partial answers from whole ones."""
    assert counts((await report_of(always(*pieces))).first) == {outcome: 40}


async def test_run__stalled_server__shows_it_to_all_that_became_due_meanwhile() -> None:
    """Even on one connection, a stall of 300 ms counts for each request that was due in it: no coordinated omission."""
    replies = 0

    def reply(peer: Peer, _: bytes) -> None:
        nonlocal replies
        replies += 1
        wait_s = 0.3 if replies == 20 else 0.0
        asyncio.get_running_loop().call_later(wait_s, peer.transport.write, answer())

    report = await report_of(reply, phases=((0.6, RATE),), connections=1)
    ok = report.first["ok"]
    assert ok.count == 120
    # 60 of 120 became due while nothing was answered, evenly over the stall.
    assert ok.p90_ms > 180
    assert ok.max_ms > 295


async def test_run__connection_closed_with_each_answer__connects_anew() -> None:
    """Connection: close is honoured, and each connection counted."""

    def reply(peer: Peer, _: bytes) -> None:
        peer.transport.write(answer(200, b"{}", "Connection: close"))
        peer.transport.close()

    report = await report_of(reply)
    assert counts(report.first) == {"ok": 40}
    assert report.connections + report.reconnects == 40


async def test_run__body_until_the_end_of_the_connection__is_an_answer() -> None:
    """Without a length, the end of the connection ends the answer."""

    def reply(peer: Peer, _: bytes) -> None:
        peer.transport.write(b"HTTP/1.1 200 OK\r\n\r\nsome")
        peer.transport.write(b" more")
        peer.transport.close()

    assert counts((await report_of(reply)).first) == {"ok": 40}


async def test_run__connection_lost__tells_before_an_answer_from_within_it() -> None:
    """Resets are errors, and half an answer is cut."""
    assert counts((await report_of(lambda peer, _: peer.transport.abort())).first) == {"error": 40}

    def half(peer: Peer, _: bytes) -> None:
        peer.transport.write(answer()[:-1])
        peer.transport.close()

    assert counts((await report_of(half)).first) == {"cut": 40}
    assert counts((await report_of(always(b"what?\r\n\r\n"))).first) == {"cut": 40}


async def test_run__nobody_listens__counts_errors() -> None:
    """A refused connection costs the attempt that waited for it."""
    async with serving(always()) as url:
        pass
    assert counts((await run(LoadPlan(url=url, phases=((0.1, RATE),)))).first) == {"error": 20}


async def test_run__no_answer__times_out_from_when_it_was_due() -> None:
    """Silence costs the timeout and the connection, also to those that wait for one, and the run ends in time."""
    report = await report_of(always(), connections=2, timeout_s=0.1)
    assert counts(report.first) == {"timeout": 40}
    assert report.first["timeout"].p50_ms >= 100
    assert report.seconds < 0.2 + 0.1 + 1


async def test_run__queue_for_a_connection_full__does_not_send() -> None:
    """Beyond the bound attempts are not sent, and the report warns of it."""
    report = await report_of(always(), connections=1, max_waiting=3, timeout_s=0.4)
    assert counts(report.first) == {"timeout": 4, "unsent": 36}
    assert 1 <= report.queued <= 3
    assert "36 attempts were not sent: too many waited for a connection" in report.warnings


async def test_run__retries__come_on_top_and_are_counted_apart() -> None:
    """A failed request is sent again as often as the plan says, and what it gains is goodput."""
    seen = 0

    def reply(peer: Peer, _: bytes) -> None:
        nonlocal seen
        seen += 1
        peer.transport.write(answer(503 if seen <= 20 else 200))

    report = await report_of(reply, phases=((0.1, 100.0), (1.5, 0.0)), retries=3, retry_delay_s=0.05)
    assert counts(report.first) == {"shed": 10}
    assert counts(report.retried) == {"shed": 10, "ok": 10}
    assert report.goodput_per_s * report.seconds == pytest.approx(10)
    assert sum(slot.retried for slot in report.slots) == 20


async def test_run__retries_that_fail_too__end() -> None:
    """No request is sent more often than planned, and none after the schedule."""
    storm = await report_of(always(answer(503)), phases=((0.1, 100.0), (1.5, 0.0)), retries=2, retry_delay_s=0.05)
    assert (counts(storm.first), counts(storm.retried)) == ({"shed": 10}, {"shed": 20})
    late = await report_of(always(answer(503)), phases=((0.1, 100.0),), retries=2, retry_delay_s=0.2)
    assert (counts(late.first), late.retried) == ({"shed": 10}, {})


async def test_run__phases__follow_one_another() -> None:
    """Each phase has its rate, and the time line shows which was when."""
    report = await report_of(always(answer()), phases=((0.2, 100.0), (0.2, 400.0), (0.2, 0.0)))
    assert report.due == 100
    by_phase = [sum(it.due for it in report.slots if round(it.at_s * 10) // 2 == phase) for phase in range(3)]
    assert by_phase == pytest.approx([20, 80, 0], abs=20)


async def test_run__by_phase__counts_from_when_attempts_were_sent() -> None:
    """What the server alone took leaves out the wait for a connection, and each phase has its own."""

    def reply(peer: Peer, _: bytes) -> None:
        asyncio.get_running_loop().call_later(0.02, peer.transport.write, answer())

    report = await report_of(reply, phases=((0.2, 100.0), (1.0, 0.0)), connections=1)
    during, after = report.by_phase
    assert during["ok"].count + after["ok"].count == 20
    assert 20 <= after["ok"].p50_ms < report.first["ok"].p90_ms


async def test_run__probe__has_its_own_connection_and_outcomes() -> None:
    """Health is asked for beside the load, also when that gets no answer."""
    seen: list[bytes] = []

    def reply(peer: Peer, data: bytes) -> None:
        if data.startswith(b"GET"):
            seen.append(data)
            peer.transport.write(answer())

    report = await report_of(reply, bodies=(b"{}",), connections=1, timeout_s=0.1, probe="/_liveness")
    assert set(counts(report.first)) == {"timeout"}
    assert counts(report.probe) == {"ok": 2}
    assert seen[0].startswith(b"GET /_liveness HTTP/1.1\r\n")


async def test_run__cancelled__leaves_no_connection() -> None:
    """Whoever gives up a run gets its sockets closed."""
    under_way = asyncio.Event()
    lost = asyncio.Event()

    def reply(peer: Peer, _: bytes) -> None:
        under_way.set()
        peer.connection_lost = lambda _: lost.set()  # type: ignore[method-assign]

    async with serving(reply) as url:
        running = asyncio.create_task(run(LoadPlan(url=url, phases=((60.0, 100.0),))))
        await asyncio.wait_for(under_way.wait(), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.wait_for(lost.wait(), 5)
        assert running.cancelled()


async def test_run__watched__shows_each_slot_as_it_ends() -> None:
    """Who watches sees the same time line as the report."""
    seen: list[Slot] = []
    async with serving(always(answer())) as url:
        report = await run(LoadPlan(url=url, phases=((0.3, RATE),)), seen.append)
    assert len(seen) >= 3
    assert seen == report.slots


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_length__answer_in_pieces__is_known_at_its_last_byte(pieces: int) -> None:
    """However an answer is cut, it ends where it ends."""
    whole = answer(200, b"x" * 500)
    known = [at for at in range(pieces, len(whole) + pieces, pieces) if length(whole[:at]) <= len(whole[:at])]
    assert min(known) >= len(whole)
    assert length(whole) == len(whole)


def test_histogram__many_durations__is_within_one_percent() -> None:
    """Percentiles are close to exact ones, and the longest is exact."""
    histogram = Histogram()
    for number in range(1, 100_001):
        histogram.add(number / 1e5)
    assert histogram.at(50, 90, 99, 99.9) == pytest.approx([500, 900, 990, 999], rel=0.01)
    assert histogram.stats().max_ms == 1000
    assert Histogram().stats() == Stats(0, 0, 0, 0, 0, 0)


async def test_report__shown__is_a_table_a_drawing_and_json() -> None:
    """Each form holds the figures, also of a run without an answer."""
    for reply in (always(answer()), lambda peer, _: peer.transport.abort()):
        report = await report_of(reply, probe="/_readiness")
        assert "40 due" in table(report)
        assert ElementTree.fromstring(draw(report)).tag.endswith("svg")
        assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


async def test_command__json_and_plot__writes_both(tmp_path: Any) -> None:
    """The command line runs a plan of phases and prints the report."""
    async with serving(always(answer())) as url:
        path = ":".join(it or "." for it in sys.path)
        arguments = ("--phase", "0.1:100", "--phase", "0.1:0", "--flags-body", "phc_x", "--json", "--plot", "out.svg")
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "drills.load", url, *arguments,
            cwd=tmp_path, env={"PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, _ = await asyncio.wait_for(command.communicate(), 20)
    assert counts(msgspec.json.decode(told, type=Report).first) == {"ok": 10}
    assert (tmp_path / "out.svg").read_text().startswith("<svg")


async def test_run__sources__all_have_their_turn() -> None:
    """As many clients as addresses, each on a connection of its own, whose requests are spread evenly."""
    asked: Counter[str] = Counter()

    def reply(peer: Peer, _: bytes) -> None:
        asked[peer.transport.get_extra_info("peername")[0]] += 1
        peer.transport.write(answer())

    sources = tuple(f"127.1.0.{number}" for number in range(1, 6))
    async with serving(reply) as url:
        report = await run(LoadPlan(url=url, phases=((0.5, 50.0),), sources=sources))
    assert report.connections == 5
    assert set(asked) == set(sources)
    assert set(asked.values()) == {5}


async def test_command__plan_from_a_file__is_the_whole_plan(tmp_path: Path) -> None:
    """What another program has planned is sent as it is, from the moment it says."""

    def reply(peer: Peer, _: bytes) -> None:
        peer.transport.write(answer())

    async with serving(reply) as url:
        file = tmp_path / "plan.json"
        file.write_bytes(msgspec.json.encode(LoadPlan(url=url, phases=((0.2, 50.0),), bodies=(b"{}",))))
        begins = time.time() + 1.5
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "drills.load", "--plan", str(file), "--at", str(begins), "--json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, _ = await process.communicate()
    assert time.time() >= begins + 0.2
    assert msgspec.json.decode(told, type=Report).statuses == {200: 10}

"""Who is taken in, who waits, and who is refused at once; and that a place is given back whatever happens."""

import asyncio

import h11
import pytest

from gateway.errors import Overloaded
from tests.gateway.middleware.door import Door, asked, door, statuses
from tests.gateway.middleware.test_record import Sent, nothing
from tests.gateway.serving import settle

DEFINITIONS, BOOTSTRAP, STREAM, CAPTURE = "/flags/definitions", "/bootstrap", "/ofrep/v1/stream", "/batch/"
ORIGIN = (b"origin", b"https://example.com")


@pytest.mark.parametrize(("mode", "taken"), [("fixed", 2), ("off", 5)])
async def test_admission__more_than_the_limit__is_refused_unless_off(doors: list[Door], mode: str, taken: int) -> None:
    """concurrency.mode: fixed takes in as many as the limit says, off takes in all."""
    at = door(doors, mode=mode, limit=2, max_queued=0)
    answers = await at.come(times=5)
    assert len(at) == taken
    assert statuses(answers) == [None] * taken + [503] * (5 - taken)


@pytest.mark.parametrize("limit", [1, 3])
async def test_admission__fixed_limit__decides_how_many_are_inside(doors: list[Door], limit: int) -> None:
    """concurrency.limit: so many are inside at once, and each that leaves makes room for one."""
    at = door(doors, mode="fixed", limit=limit, max_queued=0)
    await at.come(times=limit)
    assert statuses(await at.come()) == [503]
    await at.let_all_go()
    assert statuses(await at.come()) == [None]


async def test_admission__refused__is_told_when_to_come_again(doors: list[Door]) -> None:
    """A refusal is a 503 with a sentence and Retry-After, which a page may read."""
    at = door(doors, mode="fixed", limit=1, max_queued=0)
    await at.come()
    (sent,) = await at.come(asked("/flags", ORIGIN))
    assert (sent[0]["status"], sent[1]["body"]) == (503, Overloaded().detail.encode())
    assert sent.header(b"retry-after") == b"1"
    assert sent.header(b"access-control-allow-origin") == b"https://example.com"


@pytest.mark.parametrize("max_queued", [0, 2])
async def test_admission__line__takes_so_many_and_lets_them_in_as_others_leave(
    doors: list[Door], max_queued: int
) -> None:
    """concurrency.max_queued: so many wait, in order, and get their answer once there is room."""
    at = door(doors, mode="fixed", limit=1, max_queued=max_queued)
    answers = await at.come(times=4)
    assert statuses(answers) == [None] * (1 + max_queued) + [503] * (3 - max_queued)
    for answered in range(1, 2 + max_queued):
        await at.let_all_go()
        assert statuses(answers)[: 1 + max_queued] == [204] * answered + [None] * (1 + max_queued - answered)


@pytest.mark.parametrize(("max_wait_ms", "status"), [(1, 503), (60_000, None)])
async def test_admission__long_wait__ends_with_a_refusal(
    doors: list[Door], max_wait_ms: int, status: int | None
) -> None:
    """concurrency.max_wait_ms: who has waited so long for its turn is refused."""
    at = door(doors, mode="fixed", limit=1, max_wait_ms=max_wait_ms)
    _, waiting = await at.come(times=2)
    await asyncio.sleep(0.02)  # The event loop's own timer: no clock of ours is in it.
    assert statuses([waiting]) == [status]
    assert len(at) == 1


async def test_admission__health__is_always_taken_in(doors: list[Door]) -> None:
    """Health neither needs a place nor takes one."""
    at = door(doors, mode="fixed", limit=1, max_queued=0)
    assert statuses(await at.come(times=2)) == [None, 503]
    for path in ("/_liveness", "/_readiness", "/_status"):
        assert at.admission.refuse(asked(path)) is None
        assert statuses(await at.come(asked(path))) == [None]
    assert at.admission.gates["flags"].in_flight == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("limit", "/flags"),
        ("definitions", DEFINITIONS),
        ("bootstrap", BOOTSTRAP),
        ("capture", CAPTURE),
    ],
)
async def test_admission__partition_is_full__leaves_the_others_alone(doors: list[Door], name: str, path: str) -> None:
    """concurrency.definitions, concurrency.bootstrap, concurrency.capture: each has places of its own, which others
    neither use nor lack."""
    room = dict.fromkeys(("limit", "definitions", "bootstrap", "streams", "capture"), 5)
    at = door(doors, mode="fixed", max_queued=0, **(room | {name: 1}))
    assert statuses(await at.come(asked(path), times=2)) == [None, 503]
    for other in {"/flags", DEFINITIONS, BOOTSTRAP, STREAM, CAPTURE} - {path}:
        assert statuses(await at.come(asked(other), times=5)) == [None] * 5


async def work(at: Door, *, own_s: float, windows: int, at_once: int = 20) -> None:
    """So many requests at once spend this time each, one window after the other."""
    for _ in range(windows):
        await at.come(times=at_once)
        at.clock.advance(own_s)
        await at.let_all_go()
        await at.let_all_go()


async def test_admission__process_is_crowded__follows_down_to_the_floor(doors: list[Door]) -> None:
    """concurrency.floor: requests that keep each other from the core shrink the limit so far."""
    for floor in (2, 12):
        at = door(doors, mode="adaptive", limit=20, floor=floor)
        await work(at, own_s=0.2, windows=40)
        assert at.limit() == floor


async def test_admission__process_has_room__follows_up_to_the_ceiling(doors: list[Door]) -> None:
    """concurrency.ceiling: while requests hardly spend time in here, the limit grows so far."""
    for ceiling in (25, 30):
        at = door(doors, mode="adaptive", limit=20, ceiling=ceiling)
        at.waited_s = 0.2
        await work(at, own_s=0.2, windows=40)
        assert at.limit() == ceiling


@pytest.mark.parametrize(("max_lag_ms", "is_smaller"), [(50, True), (500, False)])
def test_admission__event_loop_is_late__shrinks(max_lag_ms: int, is_smaller: bool) -> None:
    """concurrency.max_lag_ms: beyond it a busy process shrinks its limit, and an idle one only when late again."""
    for busy_ratio in (1.0, 0.1):
        at = Door(mode="adaptive", limit=100, max_lag_ms=max_lag_ms)
        at.admission.sample_lag(0.1, busy_ratio)
        assert (at.limit() < 100) == (is_smaller and busy_ratio == 1.0)
        at.admission.sample_lag(0.1, busy_ratio)
        assert (at.limit() < 100) == is_smaller


async def test_admission__reload__changes_the_limits_for_who_comes_next(doors: list[Door]) -> None:
    """What a reload sets holds from the next request on; who is inside stays."""
    at = door(doors, mode="fixed", limit=3, max_queued=0)
    answers = await at.come(times=3)
    at.change(mode="fixed", limit=1, max_queued=1, definitions=1)
    assert statuses(await at.come(times=2)) == [None, 503]
    assert statuses(await at.come(asked(DEFINITIONS), times=3)) == [None, None, 503]
    assert len(at) == 4
    await at.let_all_go()
    assert statuses(answers) == [204] * 3


async def test_admission__reload_of_something_else__keeps_what_was_learned(doors: list[Door]) -> None:
    """A limit that has adapted is not forgotten because other settings change."""
    at = door(doors, mode="adaptive", limit=100)
    at.admission.sample_lag(1.0, 1.0)
    learned = at.limit()
    at.change(mode="adaptive", limit=100)
    await at.come()
    assert at.limit() == learned < 100


@pytest.mark.parametrize("number", [0, 1])
async def test_admission__cancelled__gives_its_place_back(doors: list[Door], number: int) -> None:
    """Whoever is cancelled, inside or in line, leaves room for the next."""
    at = door(doors, mode="fixed", limit=1, max_queued=1)
    await at.come(times=2)
    await at.cancel(number)
    gate = at.admission.gates["flags"]
    assert (len(at), gate.in_flight, gate.queued) == (1, 1, 0)
    await at.let_all_go()
    assert repr(gate) == "<Gate 0/1 active, 0 queued>"


@pytest.mark.parametrize(("method", "version"), [("POST", "1.1"), ("HEAD", "1.1"), ("GET", "1.0")])
def test_refuse__no_room__is_a_whole_answer(method: str, version: str) -> None:
    """What an engine writes by itself reads like any other refusal, and says so where the connection ends with it."""
    at = Door(mode="fixed", limit=1, max_queued=0)
    assert at.admission.refuse(asked()) is None
    refusal = at.admission.refuse(asked("/flags", ORIGIN, method=method, version=version))
    assert refusal is not None
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/flags", headers=[("host", "flagstone")]))
    client.send(h11.EndOfMessage())
    client.receive_data(refusal)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    headers = dict(head.headers)
    assert (head.status_code, headers[b"retry-after"]) == (503, b"1")
    assert headers[b"content-length"] == b"%d" % len(Overloaded().detail)
    assert headers[b"access-control-allow-origin"] == b"https://example.com"
    assert (headers.get(b"connection") == b"close") == (version == "1.0")
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert body == (b"" if method == "HEAD" else Overloaded().detail.encode())
    assert client.trailing_data[0] == b""


async def test_refuse__let_in__keeps_the_place_for_the_app(doors: list[Door]) -> None:
    """The place that an engine asked for is the one that the request then has."""
    at = door(doors, mode="fixed", limit=2, max_queued=0)
    scope = asked()
    assert at.admission.refuse(scope) is None
    running = asyncio.create_task(at.admission(scope, nothing, Sent()))
    await settle()
    assert at.admission.gates["flags"].in_flight == len(at) == 1
    await at.let_all_go()
    await running
    assert at.admission.gates["flags"].in_flight == 0

"""Bodies that the management API reads by itself, as they come: what bounds them, and what becomes of the rest."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from config.edge import Concurrency
from config.management import Api
from config.reload import Live
from config.settings import Requests, Settings
from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, UnreadableBody
from gateway.metrics import Metrics
from gateway.middleware.admission import Admission
from gateway.middleware.body_limit import MIN_BYTES_PER_S, LimitBody
from gateway.middleware.record import RecordRequests
from gateway.refusing import reject
from gateway.server.requests import InFlight
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, request
from tests.gateway.serving import part, receiving

GONE: Message = {"type": "http.disconnect"}


class Reader:
    """Reads to the end, or to the first refusal, which it sends; `stops_after` that many messages at most."""

    def __init__(self, stops_after: int = 1000) -> None:
        self.got: list[Message] = []
        self.error: GatewayError | None = None
        self._stops_after = stops_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while len(self.got) < self._stops_after:
                self.got.append(await receive())
                if not self.got[-1]["more_body"]:
                    break
        except GatewayError as error:
            self.error = error
            await reject(send, error)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def upload() -> Scope:
    return {**request(), "method": "POST", "path": "/api/projects/1/persons", "state": {}}


def settings() -> Settings:
    return Settings(
        requests=Requests(max_body_bytes=10, max_decoded_bytes=10, body_timeout_s=0.1),
        api=Api(max_upload_bytes=100_000),
        concurrency=Concurrency(management=1, max_queued=0),
    )


async def read(reader: Reader, receive: Receive, clock: FakeClock | None = None) -> Sent:
    sent = Sent()
    live, clock, metrics = Live(settings()), clock or FakeClock(), Metrics()
    await RecordRequests(LimitBody(reader), live, clock, metrics)(upload(), receive, sent)
    return sent


async def test_coming_body__larger_than_other_requests__is_handed_on_in_pieces() -> None:
    """A stream is not held back until it has ended, and may be larger than what is."""
    reader = Reader()
    sent = await read(reader, receiving(part(b"0" * 50, more=True), part(b"1" * 50)))
    assert sent[0]["status"] == 200
    assert [len(message["body"]) for message in reader.got] == [50, 50]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([part(b"0" * 100_001, more=True), GONE], BodyTooLarge),
        ([part(b"01", more=True)], BodyTimeout),
        ([part(b"01", more=True), GONE], UnreadableBody),
    ],
)
async def test_coming_body__too_large_or_silent_or_cut_short__is_told(
    messages: list[Message], error: type[GatewayError]
) -> None:
    """Whoever reads a stream learns that no more of it comes, and why."""
    reader = Reader()
    sent = await read(reader, receiving(*messages))
    assert type(reader.error) is error
    assert sent[0]["status"] == error.status


async def test_coming_body__trickling__is_given_up() -> None:
    """A sender that is never silent, and never gets anywhere, keeps no place for hours."""
    reader, clock = Reader(), FakeClock()

    async def trickle() -> Message:
        await asyncio.sleep(0)
        clock.advance(0.05)
        return part(b"0", more=True)

    await read(reader, trickle, clock)
    assert isinstance(reader.error, BodyTimeout)
    assert len(reader.got) <= 3


async def test_coming_body__fast_enough__may_take_long() -> None:
    """A large upload takes its time, which only waiting for the sender counts against."""
    reader, clock = Reader(), FakeClock()
    left = [part(b"0" * (MIN_BYTES_PER_S // 10), more=True)] * 50 + [part(b"")]

    async def receive() -> Message:
        clock.advance(0.05)
        return left.pop(0)

    await read(reader, receive, clock)
    assert reader.error is None
    assert len(reader.got) == 51


async def test_coming_body__answered_early__is_taken_off_the_sender_first() -> None:
    """A sender reads no answer before it has sent everything, so the rest is read and dropped."""
    left = [part(b"1", more=True), part(b"2", more=True), part(b"3")]
    read_before_the_answer = []

    async def receive() -> Message:
        return left.pop(0)

    async def send(_: Message) -> None:
        read_before_the_answer.append(not left)

    app = RecordRequests(LimitBody(Reader(stops_after=1)), Live(settings()), FakeClock(), Metrics())
    await app(upload(), receive, send)
    assert read_before_the_answer == [True, True]


async def test_coming_body__that_is_late__is_answered_at_once_and_dropped_after() -> None:
    """Whoever sends too slowly is not waited for once more."""
    left = [part(b"1", more=True), part(b"2", more=True), part(b"3")]
    has_answered = asyncio.Event()

    async def receive() -> Message:
        if len(left) < 3:
            await has_answered.wait()
        return left.pop(0)

    async def send(_: Message) -> None:
        has_answered.set()

    reader = Reader()
    await RecordRequests(LimitBody(reader), Live(settings()), FakeClock(), Metrics())(upload(), receive, send)
    assert isinstance(reader.error, BodyTimeout)
    assert left == []


async def test_coming_body__answered_early__keeps_no_place_while_it_is_dropped() -> None:
    """Those who send on after a refusal keep nobody out."""
    live, clock, metrics = Live(settings()), FakeClock(), Metrics()
    admission = Admission(RecordRequests(LimitBody(Reader(stops_after=1)), live, clock, metrics), live, clock, metrics)
    gate = admission.gates["management"]
    places: list[tuple[int, int]] = []
    left = [part(b"1", more=True), part(b"2", more=True), part(b"3")]

    async def receive() -> Message:
        places.append((gate.in_flight, admission.arriving))
        return left.pop(0)

    await admission(upload(), receive, Sent())
    assert places == [(1, 0), (0, 1), (0, 1)]
    assert (gate.in_flight, admission.arriving) == (0, 0)


async def test_coming_body__no_place__is_refused_unread() -> None:
    """concurrency.management: beyond it, a call is refused like any other request that finds no place."""
    live, clock, metrics = Live(settings()), FakeClock(), Metrics()
    reader = Reader()
    admission = Admission(RecordRequests(LimitBody(reader), live, clock, metrics), live, clock, metrics)
    ticket = admission.gates["management"].place(1.0)
    assert ticket is not None
    sent = Sent()
    await admission(upload(), receiving(part(b"1")), sent)
    assert sent[0]["status"] == 503
    assert reader.got == []
    admission.gates["management"].leave(ticket, None)
    sent = Sent()
    await admission(upload(), receiving(part(b"1")), sent)
    assert sent[0]["status"] == 200


async def test_upload__older_than_any_request__is_not_swept_away() -> None:
    """What bounds other requests in time does not end a stream that goes on."""
    now = 0.0
    left = [part(b"1", more=True), part(b"2", more=True), part(b"3")]

    async def receive() -> Message:
        nonlocal now
        now += 1000
        in_flight.sweep(36)
        return left.pop(0)

    reader = Reader()
    app = RecordRequests(LimitBody(reader), Live(settings()), FakeClock(), Metrics())
    in_flight = InFlight(app, lambda: now)
    await in_flight(upload(), receive, Sent())
    assert len(reader.got) == 3

"""The witness of a drill: what it calls wrong, and what it lets pass."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drills import contents, witness
from drills.flagstone import Instance, over
from drills.model import Contents
from drills.witness import NotHealthy, Witness, differences
from gateway.errors import Overloaded
from tests.processes.conftest import wait_until

CONTENTS = Contents(projects=1, flags=12, persons=2)


def record(
    *, enabled: bool = True, variant: str | None = None, payload: str | None = None, **rest: Any
) -> dict[str, Any]:
    return {"enabled": enabled, "variant": variant, "metadata": {"payload": payload}, **rest}


def answer(flags: dict[str, Any], *, is_partial: bool = False) -> dict[str, Any]:
    return {"flags": flags, "errorsWhileComputingFlags": is_partial}


HEALTHY = {"one": record(variant="green", payload="{}"), "two": record(enabled=False)}
FAILED = record(enabled=False, failed=True)


class Fake:
    """What may be asked as an instance is, and answers as it is told."""

    name = "fake"

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.is_ready: Callable[[], bool] = lambda: True
        self.status = 200
        self.answer: dict[str, Any] = answer(HEALTHY)
        self.asked = 0


@pytest.fixture
def fake() -> Iterator[Fake]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(fake.answer).encode()
            self.send_response(fake.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            fake.asked += 1

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake = Fake(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield fake
        server.shutdown()
        thread.join(10)


@contextmanager
def watching(url: str, *instances: Any, bodies: tuple[bytes, ...] = (b'{"distinct_id": "u0"}',)) -> Iterator[Witness]:
    watch = Witness(url, instances, bodies)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


def looked(fake: Fake) -> None:
    """Returns when it has been asked some more."""
    asked = fake.asked
    wait_until(lambda: fake.asked >= asked + 4, "the witness asks")


@pytest.mark.parametrize(
    "told",
    [
        answer(HEALTHY),
        answer({**HEALTHY, "more": record()}),
        answer({**HEALTHY, "one": FAILED}, is_partial=True),
        answer({"one": FAILED, "two": FAILED}, is_partial=True),
    ],
)
def test_differences__as_it_was_or_said_to_have_failed__none(told: dict[str, Any]) -> None:
    """A flag that says that it failed is honest, and so is one more than there were."""
    assert list(differences(HEALTHY, told)) == []


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (answer({**HEALTHY, "one": record(variant="blue", payload="{}")}), "one: expected .*green.*got .*blue"),
        (answer({**HEALTHY, "one": record(variant="green")}), "one: expected .*{}.*got .*None"),
        (answer({**HEALTHY, "two": record()}), "two: expected .False.*got .True"),
        (answer({**HEALTHY, "one": record(enabled=False)}, is_partial=True), "one: expected"),
        (answer({**HEALTHY, "two": record(failed=True)}, is_partial=True), "two: expected .False"),
        (answer({"two": HEALTHY["two"]}, is_partial=True), "one: .*got None"),
        (answer({**HEALTHY, "one": FAILED}), "one: failed, but the answer calls itself whole"),
        ({"unreadable": "<html>"}, "no flags, but .*html"),
    ],
)
def test_differences__silent__are_told(told: dict[str, Any], what: str) -> None:
    """Another value, a missing flag, and a failure that is not admitted are wrong, each with its flag."""
    (found,) = differences(HEALTHY, told)
    assert re.match(what, found)


def test_witness__answers_become_wrong__is_seen_until_they_are_learnt(fake: Fake) -> None:
    """What it has seen is dated and told whole; learning makes the new answers the right ones."""
    with watching(fake.url, fake) as watch:
        looked(fake)
        assert watch.seen == []
        fake.answer = answer({**HEALTHY, "two": record()})
        wait_until(lambda: len(watch.seen) >= 2, "the wrong answer is seen")
        watch.learn()
        looked(fake)
        before = len(watch.seen)
        looked(fake)
    assert len(watch.seen) == before
    assert all(seen.is_wrong and not seen.is_unready and seen.at > 0 for seen in watch.seen)
    assert {seen.what.split(":")[0] for seen in watch.seen} == {"a client, u0", "fake, u0"}


def test_witness__refused__only_counts_for_who_says_to_be_ready(fake: Fake) -> None:
    """A refusal is not seen at the balancer, but it is at an instance that goes on calling itself ready."""
    with watching(fake.url, fake) as watch:
        fake.status = 503
        wait_until(lambda: watch.seen, "the refusal is seen")
        fake.is_ready = lambda: False
        looked(fake)
        before = len(watch.seen)
        looked(fake)
    assert len(watch.seen) == before
    assert all(seen.is_unready and not seen.is_wrong for seen in watch.seen)
    assert "fake answered 503" in watch.seen[0].what


@pytest.mark.parametrize(("status", "told"), [(429, {}), (503, {"unreadable": witness.BUSY})])
def test_witness__sent_away_for_a_moment__is_nothing_seen(fake: Fake, status: int, told: dict[str, Any]) -> None:
    """An instance that has too much to do is ready all the same."""
    with watching(fake.url, fake) as watch:
        fake.status, fake.answer = status, told
        looked(fake)
        looked(fake)
    assert watch.seen == []


def test_busy__as_the_service_says_it__is_what_the_witness_knows() -> None:
    """The one sentence that a drill has to know of flagstone."""
    assert Overloaded().detail == witness.BUSY


def test_witness__ready_only_before_it_failed__is_nothing_seen(fake: Fake) -> None:
    """An instance that fails and no longer says that it is ready has told everybody."""
    says: list[bool] = []
    with watching(fake.url, fake) as watch:
        fake.is_ready = lambda: bool(says and says.pop())
        fake.status = 503
        says.append(True)
        wait_until(lambda: not says, "it was ready once more")
        looked(fake)
    assert watch.seen == []


def test_witness__never_whole__does_not_begin(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a healthy answer there is nothing to compare with, and the trouble is told in time."""
    monkeypatch.setattr(witness, "PATIENCE_S", 0.3)
    fake.answer = answer({**HEALTHY, "one": FAILED}, is_partial=True)
    with pytest.raises(NotHealthy, match="no whole answers"), watching(fake.url, fake):
        pass


def test_witness__breaks__says_so_at_the_end(fake: Fake) -> None:
    """What keeps it from looking is not taken for nothing seen."""
    watch = Witness(fake.url, [fake], [b'{"distinct_id": "u0"}'])  # type: ignore[list-item]
    watch.begin()
    fake.is_ready = lambda: bool(1 / 0)
    wait_until(lambda: any(look.done() and look.exception() for look in watch._looks), "it breaks")
    with pytest.raises(ZeroDivisionError):
        watch.end()


def test_witness__instance_is_killed_and_started__sees_nothing(tmp_path: Path) -> None:
    """A real instance that is lost while it is watched, and comes back, gives no wrong answer."""
    (tmp_path / "contents.json").write_bytes(contents.document(CONTENTS))
    settings = over({"store": {"url": f"file:{tmp_path / 'contents.json'}"}}, {"server": {"lame_duck_s": 0}})
    instances = [Instance(name, settings, tmp_path / name) for name in ("one", "two")]
    try:
        for instance in instances:
            instance.start()
        for instance in instances:
            instance.wait_until_ready(30)
        with watching(instances[0].url, *instances, bodies=tuple(contents.bodies(CONTENTS))) as watch:
            instances[1].kill()
            instances[1].start()
            instances[1].wait_until_ready(30)
            assert instances[1].stop() == 0
        assert watch.seen == []
        assert len(watch._healthy) == len(contents.bodies(CONTENTS))
    finally:
        for instance in instances:
            instance.end()

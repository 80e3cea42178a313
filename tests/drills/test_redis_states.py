"""A Redis that is there and of no use: full, evicting, restarted. Nobody who asks for flags notices."""

import time
from collections.abc import Callable

import redis

from drills.servers import Redis, running
from tests.drills.conftest import Stage, assert_answered

Start = Callable[..., Stage]


def test_drill__redis_full__fills_fail_and_answers_do_not(start: Start) -> None:
    """A Redis that refuses writes costs the other processes a shared copy, and nobody an answer."""
    with running(Redis("--maxmemory", "1", "--maxmemory-policy", "noeviction")) as full:
        assert isinstance(full, Redis)
        stage = start(f"redis.url={full.url()}")
        run = stage.ask()
        assert set(run.statuses) == {200}
        assert run.is_exact
        time.sleep(0.3)
        assert stage.metric("cache_fills_total", 'outcome="failed"') == 1


def test_drill__redis_evicts__what_is_lost_is_filled_again_by_who_misses_it(start: Start) -> None:
    """A pointer whose document was evicted is a miss: the store serves, and the entry is filled anew."""
    first = start()
    assert first.ask().is_exact
    time.sleep(0.3)
    with redis.Redis(port=first.redis.port, socket_timeout=5) as client:
        (document,) = client.keys("flagstone:1:definitions:*")
        client.delete(document)
        second = start()
        run = second.ask()
        assert run.is_exact
        assert "source=store" in run.headers[-1]["x-flagstone-snapshot"]
        time.sleep(0.3)
        assert client.exists(document)


def test_drill__redis_restarts__answers_go_on_and_it_is_used_again(start: Start) -> None:
    """Announcements and look-ups find the new process by themselves."""
    with running(Redis()) as server:
        assert isinstance(server, Redis)
        stage = start(f"redis.url={server.url()}")
        healthy = stage.ask()
        server.stop()
        assert_answered(stage.ask(), healthy)
        server.start()
        deadline = time.monotonic() + 10
        while not stage.metric("feed_connected", 'source="redis"') and time.monotonic() < deadline:
            assert stage.ask(4).is_exact
            time.sleep(0.1)
        assert stage.metric("feed_connected", 'source="redis"') == 1

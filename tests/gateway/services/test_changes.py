"""Listening for changes: what is told arrives, and a lost connection is made again for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.services import changes
from gateway.services.changes import ChangeListener
from tests.fake_caches import FakeFeed
from tests.fakes import FakeClock
from tests.gateway.serving import settle


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def feed() -> FakeFeed:
    return FakeFeed()


@pytest.fixture
async def told(feed: FakeFeed, metrics: Metrics) -> AsyncIterator[list[int | None]]:
    """What a listener was told."""
    told: list[int | None] = []
    async with ChangeListener("redis", feed, told.append, FakeClock(), metrics, jitter=lambda: 0.0):
        await settle()
        yield told


async def test_listener__connection_comes_and_goes__is_known(feed: FakeFeed) -> None:
    """Whether announcements are listened for can be told at any time; before the first try nothing is lost."""
    listener = ChangeListener("redis", feed, lambda _: None, FakeClock(), Metrics(), jitter=lambda: 1.0)
    assert not listener.is_lost
    async with listener:
        await settle()
        assert not listener.is_lost
        feed.told.put_nowait(StoreUnavailable("lost"))
        await settle()
        assert listener.is_lost


async def test_listener__changes_come__are_passed_on_and_counted(
    feed: FakeFeed, told: list[int | None], metrics: Metrics
) -> None:
    """Each change reaches whoever holds snapshots."""
    for project_id in (3, 4):
        feed.told.put_nowait(project_id)
    await settle()
    assert told == [None, 3, 4]
    shown = metrics.render().decode()
    assert 'flagstone_changes_told_total{source="redis"} 2.0' in shown
    assert 'flagstone_feed_connected{source="redis"} 1.0' in shown
    assert 'flagstone_heartbeat_age_seconds{task="feed_redis"} 0.0' in shown


@pytest.mark.parametrize("error", [StoreUnavailable("lost"), RuntimeError("a bug in an adapter")])
async def test_listener__connection_is_lost__listens_again(
    feed: FakeFeed, told: list[int | None], metrics: Metrics, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """After each loss everything may have changed, which is told; nothing ends listening for good."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        feed.told.put_nowait(error)
        await settle()
    feed.told.put_nowait(5)
    await settle()
    assert (feed.connections, told) == (4, [None, None, None, None, 5])
    assert caplog.records


async def test_listener__feed_stays_away__is_tried_with_growing_pauses(feed: FakeFeed, metrics: Metrics) -> None:
    """Pauses double up to a longest one, and start over once the feed is back; closing leaves no task."""
    listener = ChangeListener("redis", feed, lambda _: None, FakeClock(), metrics, jitter=lambda: 0.0)
    before = asyncio.all_tasks()
    feed.refuses = True
    async with listener:
        await settle()
        assert feed.connections > 5
        assert listener._pause_s == changes.MAX_PAUSE_S
        assert 'flagstone_feed_connected{source="redis"} 0.0' in metrics.render().decode()
        feed.refuses = False
        await settle()
        assert listener._pause_s == changes.PAUSE_S
    assert asyncio.all_tasks() == before

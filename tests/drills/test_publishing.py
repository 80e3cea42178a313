"""Storms of edits, projects of any size, and kill -9: publishing stays within its bounds and ends with what is stored.

The long versions, with figures, are in bench/builder.py and bench/propagation.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from drills.servers import Postgres, Redis, running
from tests.conftest import ServerProcess
from tests.drills.chaos import SETTINGS as CHAOS_SETTINGS
from tests.drills.chaos import Chaos
from tests.drills.publishing import Asking, Projects, Worker, cache_of, opened

BOUND_KB = 128 * 1024
EDITS = 2000
PROJECTS = 500
PER_S = 100
CHAOS_S = 20

StartWorker = Callable[..., Worker]
StartServer = Callable[..., ServerProcess]


@pytest.fixture
async def projects(postgres: Postgres, database: str) -> AsyncIterator[Projects]:
    async with opened(postgres.url(database)) as found:
        yield found


@pytest.fixture
def settings(postgres: Postgres, redis_server: Redis, database: str) -> tuple[str, ...]:
    """Those that a worker and a gateway have in common."""
    return f"store.url={postgres.url(database)}", f"redis.url={redis_server.url()}", "redis.timeout_ms=500"


@pytest.fixture
def start_worker(settings: tuple[str, ...], tmp_path: Path) -> Iterator[StartWorker]:
    started: list[Worker] = []

    def start(*more: str) -> Worker:
        started.append(Worker(tmp_path, *settings, *more))
        return started[-1].wait_until_ready()

    yield start
    for worker in started:
        worker.end()


def gateway(start_server: StartServer, *settings: str) -> ServerProcess:
    chosen = (*settings, "builder.is_embedded=false", "disk.path=", "log.level=warning")
    return start_server(*(it for setting in chosen for it in ("--set", setting))).wait_until_ready()


async def test_worker__twice_the_members__takes_no_more_memory(
    projects: Projects, start_worker: StartWorker, redis_server: Redis
) -> None:
    """What a project has in flags, cohorts and members does not decide how much memory building and verifying take."""
    await projects.add([1], flags=3000, cohorts=100)
    peaks = []
    for _ in range(2):
        await projects.add_members(1, 1, 100_000)
        worker = start_worker("builder.verify_s=1", "builder.min_rest_ms=0")
        for _ in range(3):
            await projects.edit(1)
            await projects.until_clean()
        await worker.until_metric("verifications_total", 1)
        peaks.append(worker.peak_kb())
        worker.end()
    assert max(peaks) < BOUND_KB
    assert peaks[1] - peaks[0] < 8 * 1024
    async with cache_of(redis_server) as cache:
        assert await projects.differences(cache) == []


async def test_worker__a_burst_of_edits_of_one_project__is_few_builds(
    projects: Projects, start_worker: StartWorker
) -> None:
    """However fast somebody edits, a project is built seldom, and what the last edit says is published soon."""
    await projects.add([1])
    worker = start_worker()
    await projects.until_clean()

    async def editor() -> None:
        for _ in range(EDITS // 4):
            await projects.edit(1)

    before = worker.metric("builds_total")
    began = time.monotonic()
    await asyncio.gather(*(editor() for _ in range(4)))
    edited_s = time.monotonic() - began
    assert await projects.until_clean() < 6
    # The rests are 0.1 s, 0.2 s, 0.4 s and so on, up to 5 s.
    assert worker.metric("builds_total") - before <= 8 + edited_s / 5
    assert await projects.differences() == []


async def test_worker__one_project_at_a_time__goes_on_as_soon_as_one_is_built(
    projects: Projects, start_worker: StartWorker
) -> None:
    """A place that becomes free is noticed, also when nothing is told and the next look is far off."""
    await projects.add(range(1, 101))
    start_worker("builder.concurrency=1", "builder.poll_ms=60000", "builder.max_builds_per_s=1000")
    await projects.until_clean(20)


async def test_worker__all_projects_dirty_at_once__are_built_at_its_rate_while_gateways_answer(
    projects: Projects, start_worker: StartWorker, start_server: StartServer, settings: tuple[str, ...]
) -> None:
    """A change of everything is worked off steadily, and who asks for flags meanwhile does not notice."""
    ids = range(1, PROJECTS + 1)
    await projects.add(ids)
    worker = start_worker("builder.max_builds_per_s=1000", "builder.min_rest_ms=0")
    await projects.until_clean()
    worker.end()
    async with Asking(gateway(start_server, *settings).url) as asking:
        for project_id in ids:
            assert (await asking.ask(project_id)).status == 200
        stored = await projects.edit_all()
        assert stored == PROJECTS
        worker = start_worker(f"builder.max_builds_per_s={PER_S}")
        began = time.monotonic()
        seconds = []
        while (left := await projects.dirty()) > 0:
            took_s = time.monotonic() - began
            # A quarter of a second's worth may begin at once, and it began a moment before that was known.
            assert PROJECTS - left <= PER_S * (took_s + 1.25)
            assert took_s < 30
            asked_at = time.perf_counter()
            assert (await asking.ask(PROJECTS - left + 1)).status == 200
            seconds.append(time.perf_counter() - asked_at)
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > PROJECTS / PER_S - 1.25
        assert sorted(seconds)[len(seconds) * 9 // 10] < 0.2


async def test_drill__workers_redis_and_postgresql_are_killed_at_random__everything_agrees_afterwards(
    tmp_path: Path, start_server: StartServer
) -> None:
    """No answer is older than the one before, or mixed; what is stored, published, cached and served ends the same."""
    ids = range(1, 61)
    with running(Postgres("synchronous_commit=on")) as postgres, running(Redis()) as redis:
        assert isinstance(postgres, Postgres)
        assert isinstance(redis, Redis)
        backends = (f"store.url={postgres.url()}", f"redis.url={redis.url()}", "redis.timeout_ms=500")
        urls = [gateway(start_server, *backends, "snapshots.refresh_s=0.3").url for _ in range(2)]
        async with opened(postgres.url()) as projects, cache_of(redis) as cache:
            await projects.add(ids)
            chaos = Chaos(projects, ids, (postgres, redis), urls, lambda: Worker(tmp_path, *backends, *CHAOS_SETTINGS))
            async with chaos:
                seen = await chaos.rage(CHAOS_S)
                left = await chaos.until_equal(cache)
                complaints = chaos.complaints()
    assert set(seen.kills) == {"PostgreSQL", "Redis", "workers"}
    assert seen.edits > 100
    assert seen.wrong == []
    assert (left, complaints) == ([], [])

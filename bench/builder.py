"""What building takes: memory by size, builds by edits, the backlog when all changes, the most one worker can do.

`python -m bench.builder`; one of them with `--part memory`, `burst`, `backlog` or `ceiling`. `--chaos SECONDS` instead
kills everything for so long. Invariant: each part has servers and workers of its own, and ends them.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bench.stage import service
from drills.load.generator import run as run_load
from drills.load.plan import LoadPlan
from drills.load.report import Report
from drills.machine import machine
from drills.servers import Postgres, Redis, running
from tests.drills.chaos import SETTINGS as CHAOS_SETTINGS
from tests.drills.chaos import Chaos
from tests.drills.publishing import Projects, Worker, cache_of, opened, token_of

BOUND_KB: Final = 128 * 1024
"""What a worker may occupy at most, whatever the projects are like."""
REBUILDS: Final = 10
MEMBERS: Final = 1_000_000
FLAGS: Final = 20_000
COHORTS: Final = 500
BURST: Final = 100_000
EDITORS: Final = 6
DIRTY: Final = 10_000
LOADED: Final = 500
"""Projects that are asked for while all are dirty."""
RATE: Final = 200.0
CALM_S: Final = 15.0
NO_REST: Final = ("builder.min_rest_ms=0", "builder.max_rest_ms=0")


class Scene(NamedTuple):
    """Servers, and the workers and gateways that a part starts."""

    projects: Projects
    postgres: Postgres
    redis: Redis
    worker: Callable[..., Worker]
    gateway: Callable[..., str]


@contextlib.asynccontextmanager
async def scene(*options: str) -> AsyncIterator[Scene]:
    with contextlib.ExitStack() as stack:
        postgres, redis = Postgres(*options), Redis()
        stack.enter_context(running(postgres))
        stack.enter_context(running(redis))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = (f"store.url={postgres.url()}", f"redis.url={redis.url()}", "disk.path=")

        def worker(*more: str) -> Worker:
            started = Worker(folder, *settings, *more)
            stack.callback(started.end)
            return started.wait_until_ready()

        def gateway(*more: str) -> str:
            return stack.enter_context(service(*settings, "builder.is_embedded=false", *more)).url

        async with opened(postgres.url()) as projects:
            yield Scene(projects, postgres, redis, worker, gateway)


async def memory() -> bool:
    """The most memory of a worker that builds and verifies one project again and again, by what is in the project."""
    print("\n| flags | cohorts | members | document bytes | builds | build ms | verified | peak MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    peaks = []
    for flags, cohorts, members in ((1, 0, 0), (FLAGS, COHORTS, MEMBERS), (FLAGS, COHORTS, 2 * MEMBERS)):
        async with scene() as at:
            await at.projects.add([1], flags=flags, cohorts=cohorts)
            if members:
                await at.projects.add_members(1, 1, members)
            worker = at.worker("builder.verify_s=1", *NO_REST)
            took_s = []
            for _ in range(REBUILDS):
                version = await at.projects.edit(1)
                took_s.append(await at.projects.until_clean(60))
                published = await at.projects.published(1)
                assert published["version"] == version, (version, dict(published))
            await asyncio.sleep(5)
            peaks.append(worker.peak_kb())
            print(f"| {flags} | {cohorts} | {members} | {published['bytes']} | {worker.metric('builds_total'):.0f} "
                  f"| {min(took_s) * 1000:.0f}-{max(took_s) * 1000:.0f} | {worker.metric('verifications_total'):.0f} "
                  f"| {peaks[-1] / 1024:.1f} |", flush=True)  # fmt: skip
            assert not worker.errors, worker.errors
    return max(peaks) <= BOUND_KB and peaks[2] - peaks[1] < 8 * 1024


async def burst() -> bool:
    """How many builds a burst of edits of one project makes."""
    async with scene() as at:
        await at.projects.add([1], flags=20)
        worker = at.worker()
        await at.projects.until_clean()
        before = worker.metric("builds_total")
        began = time.monotonic()

        async def editor() -> int:
            version = 0
            for _ in range(BURST // EDITORS):
                version = await at.projects.edit(1)
            return version

        last = max(await asyncio.gather(*(editor() for _ in range(EDITORS))))
        edited_s = time.monotonic() - began
        published_s = await at.projects.until_clean()
        builds = worker.metric("builds_total") - before
        published = await at.projects.published(1)
        assert published["version"] == last
        print(f"\n{BURST} edits of one project in {edited_s:.1f} s over {EDITORS} connections: {builds:.0f} builds")
        print(f"the last was published {published_s:.2f} s later; the worker took {worker.cpu_s():.1f} s of CPU")
    return builds <= edited_s / 5 + 8


async def backlog() -> bool:
    """How a backlog of all projects goes down, and what requests notice of it."""
    async with scene() as at:
        await at.projects.add(range(1, DIRTY + 1), flags=5)
        async with _quick(at):
            await at.projects.until_clean(300)
        url = at.gateway()
        worker = at.worker()
        bodies = [{"token": token_of(it), "distinct_id": "u"} for it in range(1, LOADED + 1)]

        async def offer(seconds: float) -> Report:
            return await run_load(
                LoadPlan(
                    url=f"{url}/flags?v=2", phases=((seconds, RATE),), bodies=tuple(map(msgspec.json.encode, bodies))
                )
            )

        await offer(5)
        calm = await offer(CALM_S)
        await at.projects.edit_all()
        began = time.monotonic()
        storm = asyncio.create_task(offer(DIRTY / 200.0))
        told: list[str] = []
        while (left := await at.projects.dirty()) > 0:
            if time.monotonic() - began >= 5 * len(told):
                told.append(f"{left} after {time.monotonic() - began:.0f} s")
            assert time.monotonic() - began < 300
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - began
        noticed = await storm
        print(f"\n{DIRTY} projects dirty at once: {', '.join(told)}; none after {took_s:.1f} s, "
              f"{DIRTY / took_s:.0f} builds per second; peak {worker.peak_kb() / 1024:.1f} MiB")  # fmt: skip
        print("\n| requests | rate | p50 ms | p99 ms | longest ms | answered | others |\n|---|---|---|---|---|---|---|")
        for name, seen in (("calm", calm), ("meanwhile", noticed)):
            well = seen.first["ok"]
            others = {outcome: stats.count for outcome, stats in seen.first.items() if outcome != "ok"} or "none"
            figures = (f"{RATE:.0f}/s", *(f"{it:.1f}" for it in (well.p50_ms, well.p99_ms, well.max_ms)), well.count)
            print("|", " | ".join(map(str, (name, *figures, others))), "|")
    return noticed.first["ok"].count == noticed.due


@contextlib.asynccontextmanager
async def _quick(at: Scene) -> AsyncIterator[Worker]:
    """A worker without a limit, until the context is left."""
    worker = at.worker("builder.max_builds_per_s=100000", "builder.concurrency=8", *NO_REST)
    try:
        yield worker
    finally:
        worker.end()


async def ceiling() -> bool:
    """How many projects one worker builds per second, when nothing limits it."""
    print(
        "\n| concurrency | flags | builds per second | CPU of the worker | CPU ms per build |\n|---|---|---|---|---|",
        flush=True,
    )
    for flags in (5, 100):
        async with scene() as at:
            number = 4000 if flags == 5 else 1000
            await at.projects.add(range(1, number + 1), flags=flags)
            for concurrency in (1, 4, 8):
                await at.projects.edit_all()
                began = time.monotonic()
                worker = at.worker("builder.max_builds_per_s=100000", f"builder.concurrency={concurrency}", *NO_REST)
                starting_s, began = worker.cpu_s(), time.monotonic()
                todo = await at.projects.dirty()
                await at.projects.until_clean(300)
                took_s, cpu_s = time.monotonic() - began, worker.cpu_s() - starting_s
                print(f"| {concurrency} | {flags} | {todo / took_s:.0f} | {100 * cpu_s / took_s:.0f} % "
                      f"| {1000 * cpu_s / todo:.2f} |", flush=True)  # fmt: skip
                worker.end()
    return True


async def chaos(seconds: float) -> bool:
    """Kill workers, Redis and PostgreSQL at random, and compare everything when it is over."""
    async with scene("synchronous_commit=on") as at:
        await at.projects.add(range(1, 201), flags=5)
        gateways = [at.gateway("snapshots.refresh_s=0.3") for _ in range(2)]
        with tempfile.TemporaryDirectory() as folder:
            settings = (f"store.url={at.postgres.url()}", f"redis.url={at.redis.url()}", *CHAOS_SETTINGS)
            servers = (at.postgres, at.redis)
            async with (
                Chaos(at.projects, range(1, 201), servers, gateways, lambda: Worker(Path(folder), *settings)) as raging,
                cache_of(at.redis) as cache,
            ):
                seen = await raging.rage(seconds)
                left = [*await raging.until_equal(cache), *raging.complaints()]
        print(f"\n{seconds:.0f} s: {seen}\n{left or 'stored, published, in Redis and served: the same'}")
    return not (left or seen.wrong)


PARTS: Final[dict[str, Callable[[], Coroutine[Any, Any, bool]]]] = {
    "memory": memory, "burst": burst, "backlog": backlog, "ceiling": ceiling,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--chaos", type=float, metavar="SECONDS")
    chosen = parser.parse_args()
    print(machine())
    if chosen.chaos:
        return int(not asyncio.run(chaos(chosen.chaos)))
    kept = [asyncio.run(PARTS[part]()) for part in chosen.part or PARTS]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())

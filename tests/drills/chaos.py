"""Workers, Redis and PostgreSQL killed at random while projects are edited and gateways asked; then all is compared.

Who runs it, and for how long, is others' business. Invariant: what is killed is started again within a second, and
nothing that this starts outlives it.
"""

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import asyncpg

from drills.servers import Postgres, Redis
from gateway.stores.redis import RedisCache
from tests.drills.publishing import Asking, Projects, Worker

SETTINGS = (
    "builder.lease_s=1", "builder.verify_s=1", "builder.max_verifications_per_s=200", "builder.max_retry_s=1",
    "builder.max_rest_ms=500",
)  # fmt: skip
SETTLE_S = 20.0
EDITORS = 4
PAUSE_S = 0.02
RECOVERY_S = 10.0


class Seen:
    """What happened meanwhile; `wrong` has what never may."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.edits = 0
        self.edits_lost = 0
        self.answers = 0
        self.wrong: list[str] = []

    def __repr__(self) -> str:
        kills = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        return (
            f"killed {kills}; {self.edits} edits and {self.edits_lost} not committed; "
            f"{self.answers} answers, {len(self.wrong)} wrong {self.wrong[:5]}"
        )


class Chaos:
    """Use as an async context manager: it owns two workers. The projects are published when it is entered."""

    def __init__(
        self,
        projects: Projects,
        ids: Sequence[int],
        servers: tuple[Postgres, Redis],
        gateways: Sequence[str],
        start_worker: Callable[[], Worker],
    ) -> None:
        self._projects = projects
        self._ids = ids
        self._servers = servers
        self._urls = gateways
        self._start_worker = start_worker
        self._workers: list[Worker] = []
        self._every_worker: list[Worker] = []
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> "Chaos":
        async with AsyncExitStack() as opened:
            opened.callback(self._end_workers)
            self._workers = [self._begun().wait_until_ready() for _ in range(2)]
            self._gateways = [await opened.enter_async_context(Asking(url)) for url in self._urls]
            await self._projects.until_clean()
            for gateway in self._gateways:
                for project_id in self._ids:
                    await gateway.ask(project_id)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def rage(self, seconds: float) -> Seen:
        """Kill and start for so long."""
        seen = Seen()
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for gateway in self._gateways:
                tasks.create_task(self._keep_asking(gateway, ends_at, seen))
            for _ in range(EDITORS):
                tasks.create_task(self._keep_editing(ends_at, seen))
            tasks.create_task(self._keep_killing(ends_at, seen))
        return seen

    async def until_equal(self, cache: RedisCache) -> list[str]:
        """What is still not the same when there was time enough: stored, published, in Redis, served."""
        ends_at = time.monotonic() + SETTLE_S
        while (
            left := await self._projects.differences(cache) or await self._unserved()
        ) and time.monotonic() < ends_at:
            await asyncio.sleep(0.2)
        return left

    def complaints(self) -> list[str]:
        """What workers logged that no kill explains: something was published that is not what was stored, or a bug."""
        lines = [line for worker in self._every_worker for line in worker.errors.splitlines()]
        return [line for line in lines if re.search(r'"place":"(stored|published)"|_crashed"', line)]

    async def _unserved(self) -> list[str]:
        stored = await self._projects.versions()
        return [
            f"{project_id}: stored {version}, served {answer.version}"
            for gateway in self._gateways
            for project_id, version in stored.items()
            if (answer := await gateway.ask(project_id)).version != version
        ]

    async def _keep_asking(self, gateway: Asking, ends_at: float, seen: Seen) -> None:
        served: dict[int, int] = {}
        while time.monotonic() < ends_at:
            for project_id in self._ids:
                answer = await gateway.ask(project_id)
                seen.answers += 1
                before = served.get(project_id, 0)
                if answer.status != 200 or not answer.is_whole or answer.version < before:
                    seen.wrong.append(f"{project_id}: after version {before}, {answer}")
                served[project_id] = answer.version
                await asyncio.sleep(PAUSE_S / 4)

    async def _keep_editing(self, ends_at: float, seen: Seen) -> None:
        while time.monotonic() < ends_at:
            try:
                await self._projects.edit(random.choice(self._ids))
                seen.edits += 1
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                seen.edits_lost += 1
            await asyncio.sleep(PAUSE_S)

    async def _keep_killing(self, ends_at: float, seen: Seen) -> None:
        """Each at a time of its own, so that any of them may be away together."""

        async def one(name: str, kill: Callable[[], None], start: Callable[[], object]) -> None:
            while True:
                await asyncio.sleep(random.uniform(0.2, 4))
                if time.monotonic() > ends_at:
                    return
                await _aside(kill)
                seen.kills[name] += 1
                await asyncio.sleep(random.uniform(0, 1))
                await _aside(start)

        postgres, redis = self._servers
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one("PostgreSQL", partial(_kill_postgres, postgres), partial(_recover, postgres)))
            tasks.create_task(one("Redis", partial(_kill_redis, redis), redis.start))
            for number in range(len(self._workers)):
                tasks.create_task(one("workers", partial(self._end_worker, number), partial(self._replace, number)))

    def _end_worker(self, number: int) -> None:
        self._workers[number].end()

    def _end_workers(self) -> None:
        for worker in self._every_worker:
            worker.end()

    def _replace(self, number: int) -> None:
        self._workers[number] = self._begun().wait_until_ready()

    def _begun(self) -> Worker:
        self._every_worker.append(self._start_worker())
        return self._every_worker[-1]


async def _aside(call: Callable[[], object]) -> None:
    """Call it in a thread, and be cancelled only when it has returned."""
    calling = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        await asyncio.shield(calling)
    finally:
        await asyncio.wait({calling})


def _kill_postgres(postgres: Postgres) -> None:
    _kill(postgres, int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0]))


def _kill_redis(redis: Redis) -> None:
    with redis.client() as client:
        pid = client.info()["process_id"]
    _kill(redis, pid)


def _kill(server: Postgres | Redis, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    server.stop()  # Which finds that it has ended.


def _recover(postgres: Postgres) -> None:
    """Start it again, once the last of its processes have noticed that they are alone."""
    ends_at = time.monotonic() + RECOVERY_S
    while time.monotonic() < ends_at:
        with suppress(AssertionError):
            return postgres.start()
        time.sleep(0.1)
    return postgres.start()

"""How long an edit takes from its commit until every gateway answers with it.

`python -m bench.propagation`; one way with `--way healthy`, `silent` (nothing is announced, no Redis) or `sqlite`. Each
of 100 projects is edited once per second. Invariant: edits are due at a constant rate, however late those before are
served.
"""

import argparse
import asyncio
import contextlib
import itertools
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.stage import service
from drills.load.report import Histogram
from drills.machine import machine
from drills.servers import Postgres, Redis, running
from tests.drills.publishing import PATIENCE_S, REVISION, Asking, Worker, edited_flag, opened, token_of

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

PROJECTS: Final = 100
EDITS_PER_S: Final = 1.0
"""Of each project."""
FLAGS: Final = 20
WARM_S: Final = 3.0
LOOK_S: Final = 0.003
"""Between two looks at a gateway, which go round the projects awaited: more often, the looking would be the load."""
MAX_OPEN: Final = 2000

Edit = Callable[[int], Coroutine[Any, Any, int]]
"""Commits an edit of a project; its new version."""


class Seen:
    """When edits were served, by what had to happen for it."""

    def __init__(self) -> None:
        self.served = Histogram()
        self.late = Histogram()
        self.unserved = 0
        self.failed = 0


class Watcher:
    """Looks at one gateway, at a bounded rate, for the projects of which something is awaited."""

    def __init__(self, gateway: Asking, seen: Seen) -> None:
        self._gateway = gateway
        self._seen = seen
        self._awaited: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}

    async def until_served(self, project_id: int, version: int) -> None:
        """Returns once the gateway answers with this version or a later one."""
        served: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(project_id, []).append((version, served))
        await served

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for project_id in list(self._awaited):
                due = time.perf_counter() + LOOK_S
                await self._look(project_id)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _look(self, project_id: int) -> None:
        try:
            answer = await self._gateway.ask(project_id)
        except OSError:
            self._seen.failed += 1
            return
        self._seen.failed += answer.status != 200
        left = []
        for version, served in self._awaited.pop(project_id):
            if version > answer.version:
                left.append((version, served))
            elif not served.done():
                served.set_result(None)
        if left:
            self._awaited[project_id] = left


async def measure(edit: Edit, urls: list[str], seconds: float) -> Seen:
    """Edit at a constant rate for so long, after a time that does not count."""
    seen = Seen()
    open_edits: set[asyncio.Task[None]] = set()
    async with contextlib.AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(Asking(url)) for url in urls]
        for gateway, project_id in itertools.product(gateways, range(1, PROJECTS + 1)):
            await gateway.ask(project_id)
        watchers = [Watcher(gateway, seen) for gateway in gateways]
        for watcher in watchers:
            stack.callback(asyncio.create_task(watcher.keep_looking()).cancel)
        began = time.perf_counter()

        async def one(number: int, due: float) -> None:
            project_id = number % PROJECTS + 1
            version = await edit(project_id)
            committed_at = time.perf_counter()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*(watcher.until_served(project_id, version) for watcher in watchers))
            except TimeoutError:
                seen.unserved += 1
            if due - began > WARM_S:
                seen.late.add(committed_at - due)
                seen.served.add(time.perf_counter() - committed_at)

        for number in itertools.count():
            due = began + number / (PROJECTS * EDITS_PER_S)
            if due > began + WARM_S + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(open_edits) >= MAX_OPEN:
                raise SystemExit(f"more than {MAX_OPEN} edits are not served")
            task = asyncio.create_task(one(number, due))
            open_edits.add(task)
            task.add_done_callback(open_edits.discard)
        await asyncio.gather(*open_edits)
    return seen


@contextlib.asynccontextmanager
async def on_postgres(*, is_silent: bool) -> AsyncIterator[tuple[Edit, list[str]]]:
    """Two gateways and a worker of their own; silent, without announcements and without Redis."""
    with contextlib.ExitStack() as stack:
        postgres, redis = Postgres(), Redis()
        stack.enter_context(running(postgres))
        stack.enter_context(running(redis))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = [f"store.url={postgres.url()}", "disk.path="]
        settings += (
            ["definitions_pool.transaction_pooling=true", "writer_pool.transaction_pooling=true"]
            if is_silent
            else [f"redis.url={redis.url()}"]
        )
        async with opened(postgres.url()) as projects:
            await projects.add(range(1, PROJECTS + 1), flags=FLAGS)
            worker = Worker(folder, *settings)
            stack.callback(worker.end)
            worker.wait_until_ready()
            await projects.until_clean()
            serving = [stack.enter_context(service(*settings, "builder.is_embedded=false")) for _ in range(2)]
            yield projects.edit, [it.url for it in serving]


@contextlib.asynccontextmanager
async def on_sqlite() -> AsyncIterator[tuple[Edit, list[str]]]:
    """One gateway, which builds as well."""
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "flagstone.sqlite3"
        serving = stack.enter_context(service(f"store.url=sqlite:{path}"))
        connection = stack.enter_context(contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)))
        connection.execute("PRAGMA synchronous = NORMAL")

        def edit(project_id: int) -> int:
            connection.execute("BEGIN IMMEDIATE")
            bump = "UPDATE projects SET version = max(version + 1, ?) WHERE id = ? RETURNING version"
            ((version,),) = connection.execute(bump, (int(time.time() * 1000), project_id)).fetchall()
            document = edited_flag(REVISION).replace(REVISION, str(version))
            connection.execute("UPDATE flags SET document = ? WHERE project_id = ? AND id = 1", (document, project_id))
            connection.execute("COMMIT")
            return int(version)

        for project_id in range(1, PROJECTS + 1):
            shell = msgspec.json.encode({"id": project_id, "name": "P", "token": token_of(project_id)}).decode()
            connection.execute("INSERT INTO projects VALUES (?, ?, 1, ?)", (project_id, token_of(project_id), shell))
            flags = [(project_id, number, edited_flag(1, number)) for number in range(1, FLAGS + 1)]
            connection.executemany("INSERT INTO flags (project_id, id, document) VALUES (?, ?, ?)", flags)
        await asyncio.sleep(2)

        async def edit_aside(project_id: int) -> int:
            return edit(project_id)

        yield edit_aside, [serving.url]


async def run(way: str, seconds: float) -> Seen:
    stage = on_sqlite() if way == "sqlite" else on_postgres(is_silent=way == "silent")
    async with stage as (edit, urls):
        return await measure(edit, urls, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["healthy", "silent", "sqlite"], action="append")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each way (default: 60)")
    chosen = parser.parse_args()
    print(machine())
    print("\n| way | edits | p50 ms | p99 ms | longest ms | never served | failed answers | edits late, p99 ms |")
    print("|---|---|---|---|---|---|---|---|")
    lost = 0
    for way in chosen.way or ["healthy", "silent", "sqlite"]:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            seen = runner.run(run(way, chosen.seconds))
        p50, p99, longest = seen.served.at(50, 99, 100)
        (late,) = seen.late.at(99)
        figures = (
            seen.served.count,
            f"{p50:.0f}",
            f"{p99:.0f}",
            f"{longest:.0f}",
            seen.unserved,
            seen.failed,
            f"{late:.0f}",
        )
        print("|", " | ".join(map(str, (way, *figures))), "|", flush=True)
        lost += seen.unserved
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())

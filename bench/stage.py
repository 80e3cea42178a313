"""The stage of benchmarks that need real backends: PostgreSQL and Redis behind fault proxies, and a service process.

The servers, the proxies and the project are those of the drills. Invariant: leaving the stage stops what it started.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.faults import FaultProxy
from drills.servers import Postgres, Redis, running
from gateway.document import read_document
from gateway.stores.postgres import PostgresStore
from tests.drills.conftest import whole_project
from tests.publishing import publish


class Backends:
    """PostgreSQL with the drills' project in it, Redis, a folder for the disk, and a proxy before each server."""

    def __init__(
        self, postgres: FaultProxy, redis: FaultProxy, folder: Path, postgres_url: str, redis_url: str
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self.folder = folder
        self.settings = (f"store.url={postgres_url}", f"redis.url={redis_url}", f"disk.path={folder / 'snapshots'}")


@contextmanager
def backends() -> Iterator[Backends]:
    postgres, redis = Postgres(), Redis()
    with running(postgres), running(redis), tempfile.TemporaryDirectory() as folder:
        asyncio.run(_fill(postgres.url()))
        with FaultProxy("127.0.0.1", postgres.port) as before_db, FaultProxy("127.0.0.1", redis.port) as before_cache:
            urls = postgres.url(port=before_db.port), redis.url(before_cache.port)
            yield Backends(before_db, before_cache, Path(folder), *urls)


async def _fill(url: str) -> None:
    async with PostgresStore(Address(url), DefinitionsPool(), PersonsPool(), WriterPool()) as store:
        await store.migrate()
        document = msgspec.json.encode({"projects": [whole_project()]})
        await store.import_projects(read_document(document), lambda *_: None)
        await publish(store)


class Service:
    """`flagstone serve` with these settings, on free ports, once it is ready; `log` is where its log goes."""

    def __init__(self, *settings: str, log: int | None = None) -> None:
        chosen = ("server.port=0", "metrics.port=0", "log.level=error", "server.control_path=", *settings)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", *(it for setting in chosen for it in ("--set", setting))],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")},
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        self._metrics_url = self._process.stdout.readline().split()[-1]

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        told = httpx.get(self._metrics_url).text
        return sum(float(it) for it in re.findall(rf"^flagstone_{name}(?:\{{[^}}]*\}})? (\S+)$", told, re.MULTILINE))

    def memory_kb(self) -> int:
        return int(self.metric("resident_bytes") / 1024)

    def stop(self) -> int:
        """The exit code, after an orderly end."""
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.stdout.close()
        return self._process.wait(30)


@contextmanager
def service(*settings: str, log: int | None = None) -> Iterator[Service]:
    started = Service(*settings, log=log)
    try:
        yield started
    finally:
        started.stop()

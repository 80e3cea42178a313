"""What drills and benchmarks of publishing share: projects being edited, workers and gateways, and who asks them.

What is asserted and measured is theirs. Invariant: an edit writes the project's new version into the payload of its
first flag, so that any answer shows whether it is of the version that it says it is.
"""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import msgspec

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from config.backends import Redis as RedisSettings
from drills.servers import Redis
from gateway.ports import ETAG_CHARACTERS
from gateway.stores.postgres import PostgresStore
from gateway.stores.redis import RedisCache
from tests.builders import condition, flag, person, project

PATIENCE_S = 30.0
REVISION = "REVISION"
CONNECTIONS = 8
_EDIT = """
WITH project AS (
  UPDATE flagstone.projects SET version = flagstone.next_version(version) WHERE id = $1 RETURNING id, version
)
UPDATE flagstone.flags SET document = replace($2, 'REVISION', version::text)::json
FROM project WHERE project_id = project.id AND flags.id = 1 RETURNING version
"""
_EVERY = """
SELECT projects.id, token, projects.version, published.version, etag,
  ARRAY(SELECT part FROM flagstone.published_parts
        WHERE project_id = projects.id AND build = published.build ORDER BY number),
  ARRAY(SELECT document::text FROM flagstone.flags WHERE project_id = projects.id ORDER BY id),
  ARRAY(SELECT document::text FROM flagstone.cohorts WHERE project_id = projects.id ORDER BY id)
FROM flagstone.projects LEFT JOIN flagstone.published ON project_id = projects.id ORDER BY projects.id
"""
_MEMBERS = """
SET session_replication_role = replica;
WITH people AS (
  INSERT INTO flagstone.persons (project_id, properties)
  SELECT {project}, '{{}}' FROM generate_series(1, {number}) RETURNING id
)
INSERT INTO flagstone.cohort_members (person_id, cohort_id) SELECT id, {cohort} FROM people;
SET session_replication_role = DEFAULT;
"""
_HEAD = b"POST /flags?v=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def token_of(project_id: int) -> str:
    return f"phc_{project_id}"


def edited_flag(version: object, number: int = 1) -> str:
    """A flag as edits leave it, who change the first."""
    return msgspec.json.encode(flag(f"edited-{number}", id=number, payloads={"true": str(version)})).decode()


class Projects:
    """Projects in a PostgreSQL database, edited as other people would. Use `opened`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def add(self, ids: Sequence[int], *, flags: int = 1, cohorts: int = 0) -> None:
        """New projects, alike but for their ids and tokens."""
        version = int(time.time() * 1000)
        shells = [
            (it, token_of(it), version, msgspec.json.encode({**project(), "id": it, "token": token_of(it)}).decode())
            for it in ids
        ]
        others = [(number, _other_flag(number, cohorts)) for number in range(2, flags + 1)]
        first = (1, edited_flag(version))
        groups = [(number, _cohort(number)) for number in range(1, cohorts + 1)]
        async with self._pool.acquire() as connection, connection.transaction():
            for table, rows in (
                ("projects", shells),
                ("flags", [(it, *row) for it in ids for row in (first, *others)]),
                ("cohorts", [(it, *row) for it in ids for row in groups]),
            ):
                columns = (
                    ["id", "token", "version", "document"] if table == "projects" else ["project_id", "id", "document"]
                )
                await connection.copy_records_to_table(table, schema_name="flagstone", records=rows, columns=columns)

    async def add_members(self, project_id: int, cohort_id: int, number: int) -> None:
        """Persons who are in a static cohort."""
        await self._pool.execute(_MEMBERS.format(project=project_id, cohort=cohort_id, number=number), timeout=300)

    async def edit(self, project_id: int) -> int:
        """The project's version after another edit, which is committed."""
        version: int = await self._pool.fetchval(_EDIT, project_id, edited_flag(REVISION), timeout=10)
        return version

    async def edit_all(self) -> int:
        """Give every project a new version, all in one transaction; how many there are."""
        done = await self._pool.execute("UPDATE flagstone.projects SET version = flagstone.next_version(version)")
        return int(done.split()[-1])

    async def dirty(self) -> int:
        """How many projects are still to be built."""
        number: int = await self._pool.fetchval("SELECT count(*) FROM flagstone.builds WHERE dirty_since IS NOT NULL")
        return number

    async def versions(self) -> dict[int, int]:
        """The stored version of each project."""
        return dict(await self._pool.fetch("SELECT id, version FROM flagstone.projects"))

    async def published(self, project_id: int) -> Any:
        """Version and bytes of what is published."""
        statement = "SELECT version, bytes FROM flagstone.published WHERE project_id = $1"
        return await self._pool.fetchrow(statement, project_id)

    async def until_clean(self, within_s: float = PATIENCE_S) -> float:
        """Seconds until nothing is left to be built; fails when that takes longer than this."""
        began = time.monotonic()
        while (left := await self.dirty()) > 0:
            assert time.monotonic() - began < within_s, f"{left} projects are still dirty"
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def differences(self, cache: RedisCache | None = None) -> list[str]:
        """What is published, or in the cache, and is not what is stored."""
        found = []
        for project_id, token, stored, published, etag, parts, *rows in await self._pool.fetch(_EVERY):
            if published != stored:
                found.append(f"{project_id}: stored {stored}, published {published}")
                continue
            whole = b"".join(parts)
            document = msgspec.json.decode(whole)
            flags, cohorts = (list(map(msgspec.json.decode, it)) for it in rows)
            if hashlib.sha256(whole).hexdigest()[:ETAG_CHARACTERS] != etag:
                found.append(f"{project_id}: its etag is another document's")
            if (document["flags"], document["cohorts"]) != (flags, cohorts):
                found.append(f"{project_id}: version {stored} is published with another content")
            if cache is not None:
                cached = await cache.load_definitions(token)
                if cached is None or (cached.version, cached.document) != (stored, whole):
                    found.append(f"{project_id}: stored {stored}, in the cache {cached and cached.version}")
        return found


def _other_flag(number: int, cohorts: int) -> str:
    filters = [person("plan", f"plan-{number % 20}"), person("email", "@example.com", "icontains")]
    if cohorts:
        filters.append({"key": "id", "type": "cohort", "value": number % cohorts + 1, "operator": "in"})
    return msgspec.json.encode(flag(f"flag-{number}", condition(*filters, rollout=50), id=number)).decode()


def _cohort(number: int) -> str:
    """The first is a static one."""
    if number == 1:
        return '{"id":1,"name":"Chosen","is_static":true}'
    filters = {"type": "AND", "values": [person("plan", f"plan-{number}")]}
    document = {"id": number, "name": f"Cohort {number}", "filters": {"properties": filters}}
    return msgspec.json.encode(document).decode()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Projects]:
    """The projects of a database, whose schema is brought up to date; none yet in a new one."""
    async with PostgresStore(Address(url), DefinitionsPool(), PersonsPool(), WriterPool()) as store:
        await store.migrate()
    async with asyncpg.create_pool(url, min_size=0, max_size=CONNECTIONS, timeout=5, command_timeout=60) as pool:
        yield Projects(pool)


@asynccontextmanager
async def cache_of(redis: Redis) -> AsyncIterator[RedisCache]:
    """What gateways find in Redis."""
    async with RedisCache(RedisSettings(url=Address(redis.url()), timeout_ms=5000)) as cache:
        yield cache


class Worker:
    """`flagstone worker` with these settings."""

    def __init__(self, folder: Path, *settings: str) -> None:
        chosen = ("metrics.port=0", "log.level=warning", *settings)
        self._log = folder / f"worker-{time.monotonic_ns()}.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "worker", *(it for each in chosen for it in ("--set", each))],
                env={name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        self._metrics_url = ""

    def wait_until_ready(self) -> "Worker":
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            for line in self._stdout:
                if line.startswith("metrics are at"):
                    self._metrics_url = line.split()[-1]
                if line.startswith("flagstone worker is building"):
                    return self
        finally:
            watchdog.cancel()
        raise AssertionError(self.errors)

    @property
    def errors(self) -> str:
        """What it wrote to its log so far."""
        return self._log.read_text()

    def peak_kb(self) -> int:
        """The most memory it ever occupied, as the kernel says."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1])

    def cpu_s(self) -> float:
        """The processor's time that it took so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values whose labels include this text."""
        told = httpx.get(self._metrics_url, timeout=PATIENCE_S).text
        rows = re.findall(rf"^flagstone_{name}(?:\{{([^}}]*)\}})? (\S+)$", told, re.MULTILINE)
        return sum(float(value) for found, value in rows if labels in found)

    async def until_metric(self, name: str, least: float) -> None:
        """Returns once a metric is as high as this."""
        async with asyncio.timeout(PATIENCE_S):
            while self.metric(name) < least:
                await asyncio.sleep(0.1)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)
        self._stdout.close()


class Answer(NamedTuple):
    """What a gateway said of a project's flags. `version` is that of the definitions it says it answers with."""

    status: int
    version: int
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the flag is of the version that is named beside it."""
        return f'"payload":"{self.version}"'.encode() in self.body


class Asking:
    """Asks one gateway over connections that are kept, so many at once. Use as an async context manager."""

    def __init__(self, url: str, at_once: int = 16) -> None:
        self._port = int(url.rsplit(":", 1)[1])
        self._slots = asyncio.Semaphore(at_once)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> "Asking":
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def ask(self, project_id: int) -> Answer:
        """Raises OSError (TimeoutError among them) when there is no answer."""
        body = b'{"token":"%s","distinct_id":"u"}' % token_of(project_id).encode()
        async with self._slots, asyncio.timeout(PATIENCE_S):
            line = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = line
            try:
                writer.write(_HEAD % len(body) + body)
                told = (await reader.readuntil(b"\r\n\r\n")).lower()
                content = await reader.readexactly(_number(rb"\r\ncontent-length: (\d+)", told))
            except asyncio.IncompleteReadError as error:
                writer.close()
                raise ConnectionError from error
            except BaseException:
                writer.close()
                raise
            if b"\r\nconnection: close\r" in told:
                writer.close()
            else:
                self._idle.append(line)
        return Answer(int(told[9:12]), _number(rb"\r\nx-flagstone-snapshot: (\d+)", told), content)


def _number(pattern: bytes, text: bytes) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0

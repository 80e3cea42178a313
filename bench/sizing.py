"""How much hardware flagstone needs: prints the tables of docs/sizing.md, measured here and now.

`python -m bench.sizing`; one of them with `--part`. Workers are measured by the processor time that they use, so that
generator and databases may share the machine with them. Invariant: what is computed from settings is read from them.
"""

import argparse
import asyncio
import itertools
import math
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from bench import starving
from bench.evaluation import PROPERTIES, flag, project
from bench.gateway import Client
from bench.kit import children, processor_s
from bench.stage import Service, service
from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.machine import machine
from drills.servers import Postgres, Redis, Server, running
from gateway.document import read_document
from gateway.server.engines import new_event_loop
from gateway.stores.postgres import PostgresStore
from tests.publishing import publish

ENGINES: Final = ("uvicorn", "hypercorn")
COUNTS: Final = (10, 100, 500, 1000)
CONNECTIONS: Final = 32
ROUNDS: Final = 3
ROUND_S: Final = 0.7
WARM_UP_S: Final = 0.2
PEOPLE: Final = 500
PROJECTS: Final = (1, 10, 50, 200)
SIZES: Final = (10, 100, 1000)
SETTLE_S: Final = 20.0
STILL_S: Final = 0.4
IDLE: Final = 1000
PLANNED: Final = 0.6
"""Of what an instance can do: what it is planned for, and at what an autoscaler adds another."""
WANTED: Final = (1_000, 5_000, 20_000, 50_000)
LISTENING: Final = 1
"""Connections to PostgreSQL beside the pools'."""
GATEWAYS: Final = (2, 3, 5, 10)
BUILDERS: Final = 2

_MIB: Final = 1 << 20
_SETTINGS: Final = (
    "server.workers=1", "server.lame_duck_s=0", "server.max_memory_bytes=0", "concurrency.mode=fixed", "disk.path=",
    "limits.address=1000000/second", "limits.token=1000000/second", "builder.is_embedded=false", "log.level=info",
    "snapshots.max_bytes=17179869184", "redis.max_fills_per_s=10000", "redis.max_fill_bytes_per_s=1073741824",
    "persons_pool.statement_timeout_ms=2000", "persons_pool.acquire_timeout_ms=2000", "requests.budget_ms=5000",
)  # fmt: skip


class Asking(Client):
    """Asks for one person after the other."""

    partial = 0

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests

    @property
    def _request(self) -> bytes:  # type: ignore[override]
        return next(self._requests)

    def data_received(self, data: bytes) -> None:
        Asking.partial += b'"errorsWhileComputingFlags":true' in data
        super().data_received(data)


class Found(NamedTuple):
    """Microseconds of processor time per request: the worker's, and PostgreSQL's."""

    worker_us: float
    database_us: float


def request(token: str, person: int, *, with_properties: bool) -> bytes:
    asked: dict[str, object] = {"token": token, "distinct_id": f"u{person}"}
    body = msgspec.json.encode(asked | {"person_properties": PROPERTIES} if with_properties else asked)
    head = "POST /flags?v=2 HTTP/1.1\r\nHost: flagstone\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


@contextmanager
def serving(*settings: str) -> Iterator[Service]:
    """A service of one worker, whose log is written, and goes nowhere."""
    with service(*_SETTINGS, *settings, log=subprocess.DEVNULL) as started:
        yield started


def port_of(serving: Service) -> int:
    return int(serving.url.rpartition(":")[2])


def started_pid(server: Server) -> int:
    assert server._process is not None
    return server._process.pid


def all_s(pids: Sequence[int]) -> float:
    """Processor time of these together, but for those that have ended."""
    used_s = 0.0
    for pid in pids:
        with suppress(OSError):
            used_s += processor_s(pid)
    return used_s


def worker_of(serving: Service) -> int:
    (worker,) = children(serving.pid)
    return worker


async def fill(url: str, projects: Sequence[dict[str, Any]]) -> None:
    """Store and publish these."""
    async with PostgresStore(Address(url), DefinitionsPool(), PersonsPool(), WriterPool()) as store:
        await store.migrate()
        document = msgspec.json.encode({"projects": projects})
        await store.import_projects(read_document(document), lambda *_: None)
        await publish(store)


def documents(ids: Sequence[int], flags: int, people: int = 0) -> list[dict[str, Any]]:
    shared = {"flags": [flag(at) for at in range(flags)]}
    persons = [{"distinct_ids": [f"u{it}"], "properties": PROPERTIES} for it in range(people)]
    return [{"id": it, "token": f"phc_{it}", **shared, **({"persons": persons} if people else {})} for it in ids]


async def load(port: int, requests: Sequence[bytes], used_s: Callable[[], tuple[float, float]]) -> Found:
    """What each request took, in the least of some rounds."""
    loop, everyone = asyncio.get_running_loop(), itertools.cycle(requests)
    made = [await loop.create_connection(lambda: Asking(everyone), "127.0.0.1", port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_S)
    rounds = []
    for _ in range(ROUNDS):
        answered, before = Client.answered, used_s()
        await asyncio.sleep(ROUND_S)
        answered, after = Client.answered - answered, used_s()
        if answered:
            rounds.append(Found(*((now - then) / answered * 1e6 for now, then in zip(after, before, strict=True))))
    for transport, _ in made:
        transport.abort()
    await asyncio.sleep(WARM_UP_S)
    return min(rounds)


def throughput(postgres: Postgres) -> dict[tuple[str, int, bool], Found]:
    """By engine, flags, and whether what is stored of persons is needed."""
    found = {}
    ids = dict(enumerate(COUNTS, 1))
    projects = [it for number, flags in ids.items() for it in documents([number], flags, PEOPLE)]
    asyncio.run(fill(postgres.url(), projects))
    database = started_pid(postgres)
    for engine in ENGINES:
        with serving(f"store.url={postgres.url()}", f"server.engine={engine}") as started:
            worker = worker_of(started)

            def used_s(worker: int = worker) -> tuple[float, float]:
                return processor_s(worker), all_s(children(database))

            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                for (number, flags), is_stored in itertools.product(ids.items(), (False, True)):
                    asked = [request(f"phc_{number}", it, with_properties=not is_stored) for it in range(PEOPLE)]
                    found[engine, flags, is_stored] = runner.run(load(port_of(started), asked, used_s))
    return found


class Held(NamedTuple):
    """Resident bytes of a worker that holds so many projects, and what Redis has of them."""

    worker: int
    redis: int


def memory(postgres: Postgres, redis: Redis) -> dict[tuple[int, int], Held]:
    """By flags per project and projects."""
    found, cache = {}, redis.client()
    for number, flags in enumerate(SIZES):
        first = 10_000 * (number + 1)
        asyncio.run(fill(postgres.url(), documents(range(first, first + PROJECTS[-1]), flags)))
        with serving(f"store.url={postgres.url()}", f"redis.url={redis.url()}") as started, http() as client:
            asked = first
            for projects in PROJECTS:
                for it in range(asked, first + projects):
                    evaluate_once(client, started, f"phc_{it}")
                asked = first + projects
                until_still(cache.dbsize)
                used = sum(cache.memory_usage(key) or 0 for key in cache.scan_iter(count=1000))
                found[flags, projects] = Held(int(started.metric("resident_bytes")), used)
        cache.flushall()
    return found


def http() -> httpx.Client:
    return httpx.Client(timeout=30, trust_env=False)


def evaluate_once(client: httpx.Client, serving: Service, token: str) -> None:
    asked = {"token": token, "distinct_id": "u0", "person_properties": PROPERTIES}
    client.post(f"{serving.url}/flags?v=2", json=asked).raise_for_status()


def until_still(number: Callable[[], int]) -> None:
    """Until it is the same for a while, and not 0."""
    ends_at, before = time.monotonic() + SETTLE_S, 0
    while (now := number()) != before or not now:
        assert time.monotonic() < ends_at, now
        before = now
        time.sleep(STILL_S)


def idle_connection(engine: str, definitions: Path) -> float:
    """Bytes of a worker for each connection that was used once and is kept."""
    with serving(f"store.url=file:{definitions}", f"server.engine={engine}") as started:
        asked = request("phc_bench", 0, with_properties=True)
        with ExitStack() as stack, http() as client:
            evaluate_once(client, started, "phc_bench")
            before = started.metric("resident_bytes")
            for _ in range(IDLE):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(started))))
                connection.sendall(asked)
                connection.recv(1 << 16)
            return (started.metric("resident_bytes") - before) / IDLE


def capacity_table(found: dict[tuple[str, int, bool], Found]) -> str:
    lines = [
        f"| engine | flags {'| us | per second and core | to plan with ' * 2}| PostgreSQL, us |",
        "|---" * 9 + "|",
    ]
    for engine, flags in itertools.product(ENGINES, COUNTS):
        plain, stored = found[engine, flags, False], found[engine, flags, True]
        cells = (f"{it.worker_us:.0f} | {_per_s(it):,.0f} | {_planned(it):,.0f}" for it in (plain, stored))
        lines.append(f"| {engine} | {flags:,} | {' | '.join(cells)} | {stored.database_us:.0f} |")
    return "\n".join(lines)


def _per_s(found: Found) -> float:
    return 1e6 / found.worker_us


def _planned(found: Found) -> float:
    return PLANNED * _per_s(found)


def instances_table(found: dict[tuple[str, int, bool], Found]) -> str:
    """With one core each, and one more than is needed, so that one may fail."""
    columns = [(flags, is_stored) for flags in (10, 100, 1000) for is_stored in (False, True)]
    names = (f"{flags:,} flags{', stored' if is_stored else ''}" for flags, is_stored in columns)
    lines = [f"| requests per second | {' | '.join(names)} |", "|---" * (len(columns) + 1) + "|"]
    for wanted in WANTED:
        cells = (str(math.ceil(wanted / _planned(found["uvicorn", *column])) + 1) for column in columns)
        lines.append(f"| {wanted:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_table(found: dict[tuple[int, int], Held]) -> str:
    lines = [
        "| flags each | " + " | ".join(f"{it} project{'s'[: it > 1]}" for it in PROJECTS) + " | Redis, bytes a flag |"
    ]
    lines.append("|---" * (len(PROJECTS) + 2) + "|")
    for flags in SIZES:
        held = [found[flags, it] for it in PROJECTS]
        cells = " | ".join(f"{it.worker / _MIB:,.0f}" for it in held)
        lines.append(f"| {flags:,} | {cells} | {held[-1].redis / flags / PROJECTS[-1]:,.0f} |")
    return "\n".join(lines)


def pools_table() -> str:
    pools = DefinitionsPool().max_connections, PersonsPool().max_connections, WriterPool().max_connections
    each = sum(pools) + LISTENING
    lines = ["| gateways | builders | connections at most |", "|---|---|---|"]
    lines += [f"| {gateways} | {BUILDERS} | {each * (gateways + BUILDERS)} |" for gateways in GATEWAYS]
    return "\n".join([f"{each} for each worker and each builder.\n", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--part", choices=("requests", "memory", "connections", "starving", "pools"), action="append")
    parts = parser.parse_args().part or ("requests", "memory", "connections", "starving", "pools")
    print(machine())
    if "requests" in parts:
        with running(Postgres()) as postgres:
            found = throughput(postgres)
        print(f"\nRequests\n\n{capacity_table(found)}\n\nInstances\n\n{instances_table(found)}", flush=True)
        if Asking.partial:
            print(f"WARNING: {Asking.partial} answers were partial, so what they cost is not told")
    if "memory" in parts:
        with running(Postgres()) as postgres, running(Redis()) as redis:
            print(f"\nMiB of a worker\n\n{memory_table(memory(postgres, redis))}", flush=True)
    if "connections" in parts:
        with tempfile.TemporaryDirectory() as folder:
            definitions = Path(folder, "definitions.json")
            definitions.write_bytes(b'{"projects":[' + project(10) + b"]}")
            each = (f"{idle_connection(engine, definitions) / 1024:.0f} KiB on {engine}" for engine in ENGINES)
            print(f"\nAn idle connection: {', '.join(each)}", flush=True)
    if "starving" in parts:
        print(f"\nOne core\n\n{starving.table()}", flush=True)
    if "pools" in parts:
        print(f"\nConnections to PostgreSQL\n\n{pools_table()}")


if __name__ == "__main__":
    main()

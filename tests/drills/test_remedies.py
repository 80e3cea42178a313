"""What an operator does amid an outage: change a limit or a time in the file, and send SIGHUP; nobody is cut off by it.

That each setting does something is tested in tests/gateway/test_live_*.py. Invariant: the load goes on throughout, and
every single request is answered.
"""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from drills.faults import FaultProxy
from drills.servers import Postgres, Redis
from tests.conftest import ServerProcess
from tests.drills.conftest import Stage

PATIENCE_S = 30.0
SLOW_S = 0.15
"""By which each piece of a slow backend is late, in both directions."""

TIGHT: dict[str, dict[str, Any]] = {
    "server": {"workers": 2},
    "requests": {"budget_ms": 400, "answer_reserve_ms": 50},
    "persons_pool": {"max_connections": 4, "connect_timeout_ms": 100, "acquire_timeout_ms": 150,
                     "statement_timeout_ms": 150},
    "definitions_pool": {"connect_timeout_ms": 100, "acquire_timeout_ms": 150, "statement_timeout_ms": 150},
    "redis": {"timeout_ms": 50, "connect_timeout_ms": 50},
    "breakers": {"min_calls": 3, "open_s": 600.0, "max_open_s": 3600.0},
    "snapshots": {"refresh_s": 3600.0},
    "limits": {"address": "100000/second", "is_fleet_wide": True},
    "log": {"level": "warning"},
}  # fmt: skip
"""Under which a slow backend is given up, and its breaker stays open for longer than any test."""
PATIENT = {
    "connect_timeout_ms": 10_000, "acquire_timeout_ms": 10_000, "statement_timeout_ms": 10_000,
}  # fmt: skip
REMEDY: dict[str, dict[str, Any]] = TIGHT | {
    "requests": {"budget_ms": 25_000, "answer_reserve_ms": 50},
    "persons_pool": {"max_connections": 4, **PATIENT},
    "definitions_pool": PATIENT,
    "redis": {"timeout_ms": 5000, "connect_timeout_ms": 5000},
    "breakers": {"min_calls": 3, "open_s": 0.1, "max_open_s": 0.2},
    "snapshots": {"refresh_s": 0.3},
}


class Load:
    """`with Load(stage):` asks without a pause until its end."""

    def __init__(self, stage: Stage) -> None:
        self.statuses: Counter[int] = Counter()
        self._stage = stage
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive()

    def _ask(self) -> None:
        while not self._is_over.is_set():
            self.statuses.update(self._stage.ask(8, at_once=4).statuses)


class Service:
    """The stage with its settings in a file."""

    def __init__(self, stage: Stage, file: Path, backends: dict[str, dict[str, Any]]) -> None:
        self.stage = stage
        self._file = file
        self._backends = backends

    def put(self, settings: dict[str, dict[str, Any]]) -> None:
        """Have these in force, as an operator does."""
        before = self.reloads
        write(self._file, settings, self._backends)
        self.stage.server.tell(signal.SIGHUP)
        self.until(lambda: self.reloads > before, "a reload")

    @property
    def reloads(self) -> float:
        return self.stage.metric("reloads_total", 'result="changed"')

    def answered(self, dependency: str) -> float:
        return self.stage.metric("calls_total", f'dependency="{dependency}",outcome="ok"')

    def connections(self, pool: str) -> float:
        """How many are open."""
        return sum(self.stage.metric("pool_connections", f'pool="{pool}",state="{it}"') for it in ("in_use", "idle"))

    def is_open(self, dependency: str) -> bool:
        """Whether each worker leaves the dependency alone."""
        return self.stage.metric("breaker_state", f'dependency="{dependency}",state="open"') == 2

    def until(self, is_so: Callable[[], object], what: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < ends_at, f"never: {what}\n{self.stage.server.errors[-3000:]}"
            time.sleep(0.05)


def write(file: Path, *parts: dict[str, dict[str, Any]]) -> None:
    sections: dict[str, dict[str, Any]] = {}
    for part in parts:
        for section, values in part.items():
            sections.setdefault(section, {}).update(values)
    file.write_text("".join(
        f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        for section, values in sections.items()
    ))  # fmt: skip


@pytest.fixture
def service(
    postgres: Postgres,
    redis_server: Redis,
    template: str,
    tmp_path: Path,
    start_server: Callable[..., ServerProcess],
) -> Iterator[Service]:
    """Two workers over a copy of the database and an empty Redis, with every bound tight."""
    database = f"remedy_{time.monotonic_ns()}"
    postgres.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
    with (
        FaultProxy("127.0.0.1", postgres.port) as before_postgres,
        FaultProxy("127.0.0.1", redis_server.port) as before_redis,
    ):
        backends = {
            "store": {"url": postgres.url(database, before_postgres.port)},
            "redis": {"url": redis_server.url(before_redis.port)},
            "disk": {"path": str(tmp_path / "snapshots")},
        }
        file = tmp_path / "flagstone.toml"
        write(file, TIGHT, backends)
        server = start_server("--config", str(file)).wait_until_ready()
        stage = Stage(server, before_postgres, before_redis, database)
        yield Service(stage, file, backends)
        stage.close()
    postgres.execute(f"DROP DATABASE {database} WITH (FORCE)")


def test_drill__backends_slow_and_allowed_more_by_sighup__are_used_again_and_nobody_is_cut_off(
    service: Service,
) -> None:
    """persons_pool.statement_timeout_ms, redis.timeout_ms, breakers.open_s, snapshots.refresh_s: without a restart, and
    without a failed request, a slow database and a slow Redis are used again, and changes are looked for."""
    stage = service.stage
    service.until(lambda: stage.ask(8).is_exact, "exact answers")
    with Load(stage) as load:
        stage.postgres.set("delay", seconds=SLOW_S)
        stage.redis.set("delay", seconds=SLOW_S)
        service.until(lambda: service.is_open("persons") and service.is_open("limits"), "open breakers")
        assert not stage.ask(8).is_exact
        before = {name: service.answered(name) for name in ("persons", "limits", "definitions")}
        service.put(REMEDY)
        for name, answered in before.items():
            service.until(lambda name=name, answered=answered: service.answered(name) > answered + 5, name)  # type: ignore[misc]
        service.until(lambda: stage.ask(8).is_exact, "exact answers")
        stage.postgres.heal()
        stage.redis.heal()
        service.put(TIGHT | {"persons_pool": {**TIGHT["persons_pool"], "max_connections": 1}})
        service.until(lambda: service.connections("persons") <= 2, "one connection per worker")
        service.until(lambda: stage.ask(8).is_exact, "exact answers")
    assert set(load.statuses) == {200}
    assert load.statuses.total() > 50
    assert stage.metric("worker_exits_total") == stage.metric("worker_replacements_total") == 0

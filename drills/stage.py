"""The stage of a drill: PostgreSQL, PgBouncer, Redis, flagstones, a balancer, Prometheus, and proxies between them.

What is done to them is actions.py's. Invariant: whoever leaves the stage has stopped all that it started. Without what
it is about a drill is not run; without Prometheus, `missing` says what is not shown.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from drills import contents
from drills.balancer import HAProxy
from drills.faults import FaultProxy
from drills.flagstone import Builder, Instance, command
from drills.model import Drill, Topology, Value, merged
from drills.prometheus import Prometheus
from drills.servers import NotInstalled, PgBouncer, Postgres, Redis, running

Say = Callable[[str], None]

PATIENCE_S: Final = 60.0
POOLS: Final = ("definitions_pool", "persons_pool", "writer_pool")


@dataclass
class Stage:
    """What stands. `proxies` are those before "postgres" and "redis": one for each flagstone, in their order."""

    folder: Path
    postgres: Postgres
    redis: Redis | None
    pgbouncer: PgBouncer | None = None
    proxies: dict[str, list[FaultProxy]] = field(default_factory=lambda: {"postgres": [], "redis": []})
    instances: list[Instance] = field(default_factory=list)
    builder: Builder | None = None
    balancer: HAProxy | None = None
    prometheus: Prometheus | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where clients ask."""
        return self.balancer.url if self.balancer else self.instances[0].url

    @property
    def flagstones(self) -> list[Instance]:
        """All of them, as the proxies are numbered: the builder is the last."""
        return [*self.instances, *([self.builder] if self.builder else [])]

    @property
    def postgres_port(self) -> int:
        """Of what flagstone takes for PostgreSQL, behind the proxies."""
        return (self.pgbouncer or self.postgres).port


@contextmanager
def standing(drill: Drill, settings: dict[str, Value], check: str, say: Say) -> Iterator[Stage]:
    """The stage of a drill, once everything on it answers. Raises NotInstalled, CannotStart."""
    topology = drill.topology
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="flagstone-drill-")))
        say("starting PostgreSQL" + " and Redis" * topology.has_redis)
        postgres = Postgres(*topology.postgres)
        opened.enter_context(running(postgres))
        redis = Redis(*topology.redis) if topology.has_redis else None
        if redis:
            opened.enter_context(running(redis))
        stage = Stage(folder, postgres, redis)
        _put_in(stage, drill, say)
        if topology.has_pgbouncer:
            stage.pgbouncer = PgBouncer("127.0.0.1", postgres.port, *topology.pgbouncer)
            opened.enter_context(running(stage.pgbouncer))
        _start_flagstones(stage, topology, settings, opened, say)
        _start_prometheus(stage, drill.minute_s, opened, say)  # It takes as long as they do.
        for flagstone in stage.flagstones:
            flagstone.wait_until_ready(PATIENCE_S)
        if topology.has_balancer:
            stage.balancer = HAProxy([instance.port for instance in stage.instances], check)
            opened.enter_context(running(stage.balancer))
            stage.balancer.start()
        yield stage


def _put_in(stage: Stage, drill: Drill, say: Say) -> None:
    """Fill the database and publish what is in it."""
    say(f"filling the database: {drill.contents.projects} projects of {drill.contents.flags} flags")
    stores: dict[str, Value] = {"store.url": stage.postgres.url()}
    if stage.redis:
        stores["redis.url"] = stage.redis.url()
    settings = merged(stores, drill.topology.settings)
    (stage.folder / "contents.json").write_bytes(contents.document(drill.contents))
    for arguments in (("migrate",), ("import", str(stage.folder / "contents.json")), ("publish",)):
        command(settings, stage.folder, *arguments)


def _start_flagstones(
    stage: Stage, topology: Topology, settings: dict[str, Value], opened: ExitStack, say: Say
) -> None:
    def proxied(port: int, kind: str) -> int:
        proxy = opened.enter_context(FaultProxy("127.0.0.1", port))
        stage.proxies[kind].append(proxy)
        return proxy.port

    def made(name: str, kind: type[Instance]) -> Any:
        chosen: dict[str, Value] = {"store.url": stage.postgres.url(port=proxied(stage.postgres_port, "postgres"))}
        if stage.redis:
            chosen["redis.url"] = stage.redis.url(proxied(stage.redis.port, "redis"))
        if stage.pgbouncer:
            chosen.update({f"{pool}.transaction_pooling": True for pool in POOLS})
        if topology.has_balancer:
            chosen["proxies.trusted"] = "127.0.0.1"
        if topology.has_builder:
            chosen["builder.is_embedded"] = False
        folder = stage.folder / name
        folder.mkdir()
        flagstone = kind(name, merged(chosen, topology.settings, settings), folder)
        opened.callback(flagstone.end)
        flagstone.start()
        return flagstone

    say(f"starting {topology.instances} flagstones" + " and a builder" * topology.has_builder)
    stage.instances += [made(f"instance-{number}", Instance) for number in range(1, topology.instances + 1)]
    if topology.has_builder:
        stage.builder = made("builder", Builder)


def _start_prometheus(stage: Stage, minute_s: float, opened: ExitStack, say: Say) -> None:
    targets = {"flagstone": [instance.metrics for instance in stage.instances]}
    if stage.builder:
        targets["flagstone-worker"] = [stage.builder.metrics]
    try:
        stage.prometheus = Prometheus(targets, minute_s)
    except NotInstalled as reason:
        stage.missing.append(f"No Prometheus, so no alert is judged and no query: {reason}")
        say(stage.missing[-1])
        return
    opened.enter_context(running(stage.prometheus))
    stage.prometheus.start()

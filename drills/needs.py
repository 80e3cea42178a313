"""What a drill needs of the machine, and whether it is there, before anything is started.

Invariant: what is said to be there is found by the same search that starts it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drills.model import Drill
from drills.servers import NotInstalled, found, postgres_folder, redis_folder


class Need(NamedTuple):
    """`missing` says what is not there, and where it was looked for; "" when it is."""

    name: str
    missing: str
    is_optional: bool = False
    """Without it the drill is run, and shows less."""

    def __str__(self) -> str:
        return f"{self.name} (not here)" if self.missing else self.name


def needs(drill: Drill) -> list[Need]:
    """The servers of a drill."""
    return list(_needs(drill))


def _needs(drill: Drill) -> Iterator[Need]:
    yield Need("PostgreSQL", _missing("initdb", *postgres_folder()))
    if drill.topology.has_redis:
        yield Need("Redis", _missing("redis-server", *redis_folder()))
    if drill.topology.has_pgbouncer:
        yield Need("PgBouncer", _missing("pgbouncer"))
    if drill.topology.has_balancer:
        yield Need("HAProxy", _missing("haproxy"))
    yield Need("Prometheus", _missing("prometheus"), is_optional=True)


def _missing(program: str, *folders: Path) -> str:
    try:
        found(program, *folders)
    except NotInstalled as error:
        return str(error)
    return ""

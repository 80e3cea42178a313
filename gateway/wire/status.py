"""How the service stands, as JSON for programs and as a page for people: all for operators, a little for callers.

Nothing is found out here. Invariant: what is for callers has no names, no addresses, no errors and no numbers in it;
and a page has no scripts, and nothing in it that is not escaped.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from gateway.standing import (
    Freshness,
    Level,
    Reloaded,
    Standing,
    SupervisorReport,
    WorkerReport,
    WorkerState,
    joined,
    worst,
)

T = TypeVar("T")

JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"
_PRESENT: Final = ("accepting", "ready")
HEADERS: Final = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "vary": "Accept"}


class PublicStatus(Struct, frozen=True):
    """For callers."""

    status: Level
    since: datetime
    callers_see: tuple[str, ...]


class Part(Struct, frozen=True, omit_defaults=True):
    """One thing that the service depends on or does; `workers` names those in which it is so, unless it is in all."""

    name: str
    status: Level
    since: datetime | None = None
    why: str | None = None
    breaker: str | None = None
    callers_see: str | None = None
    workers: tuple[int, ...] = ()


class WorkerStatus(WorkerState, frozen=True, kw_only=True):
    """One process. Without a status it gave no answer in time."""

    status: Level | None = None
    generation: int | None = None
    snapshots: Freshness | None = None


class Status(Struct, frozen=True):
    """For operators."""

    status: Level
    since: datetime | None
    version: str
    generation: int
    callers_see: tuple[str, ...]
    parts: tuple[Part, ...]
    workers: tuple[WorkerStatus, ...]
    last_reload: Reloaded | None


def public_status(felt: WorkerReport) -> PublicStatus:
    """What callers are told."""
    return PublicStatus(felt.level, felt.since, _effects(felt.standings))


def full_status(reports: Mapping[int, WorkerReport], supervisor: SupervisorReport, version: str) -> Status:
    """What operators are told, made of what each worker and their supervisor know."""
    standings: dict[str, dict[int, Standing]] = {}
    for index, report in sorted(reports.items()):
        for standing in report.standings:
            standings.setdefault(standing.name, {})[index] = standing
    all_joined = [joined(tuple(of_worker.values())) for of_worker in standings.values()]
    own = _of_supervisor(reports, supervisor)
    level = worst(it.level for it in (*all_joined, *own) if it.level is not Level.UNKNOWN)
    begun = [it.since for it in (*all_joined, *own) if it.level is level and it.since is not None]
    # All is well since the last thing became so.
    since = (max if level is Level.OK else min)(begun, default=None)
    parts = [_part(it, standings[it.name]) for it in all_joined] + [_part(it, {}) for it in own]
    workers = tuple(_worker(it, reports.get(it.worker)) for it in supervisor.workers)
    return Status(
        level,
        since,
        version,
        supervisor.generation,
        _effects((*all_joined, *own)),
        tuple(parts),
        workers,
        supervisor.reload,
    )


def _of_supervisor(reports: Mapping[int, WorkerReport], supervisor: SupervisorReport) -> list[Standing]:
    present = [it.worker for it in supervisor.workers if it.state in _PRESENT]
    silent = [str(it) for it in present if it not in reports]
    problem = None
    if silent:
        problem = f"no answer from {', '.join(silent)}"
    elif len(present) < supervisor.wanted:
        problem = f"there are {len(present)} of {supervisor.wanted}"
    level = Level.OK if problem is None else Level.DEGRADED
    found = [Standing(name="workers", kind="workers", level=level, why=problem)]
    if (reload := supervisor.reload) is not None:
        level = Level.DEGRADED if reload.problems else Level.OK
        found.append(
            Standing(name="reload", kind="reload", level=level, since=reload.at, why=" ".join(reload.problems))
        )
    return found


def _effects(standings: Sequence[Standing]) -> tuple[str, ...]:
    # Of those that have no flags to answer with, none is answered with older ones.
    has_none = any(it.kind == "cold" and it.level is Level.FAILING for it in standings)
    told = (it.effect.text for it in standings if it.effect and not (has_none and it.kind == "definitions"))
    return tuple(dict.fromkeys(told))


def _part(standing: Standing, of_worker: Mapping[int, Standing]) -> Part:
    alike = tuple(index for index, it in of_worker.items() if it.level is standing.level)
    effect = standing.effect
    return Part(
        standing.name,
        standing.level,
        standing.since,
        standing.why or None,
        standing.breaker,
        None if effect is None else effect.text,
        alike if len(alike) < len(of_worker) else (),
    )


def _worker(state: WorkerState, report: WorkerReport | None) -> WorkerStatus:
    known = msgspec.structs.asdict(state)
    if report is None:
        return WorkerStatus(**known)
    return WorkerStatus(**known, status=report.level, generation=report.generation, snapshots=report.snapshots)


def is_for_people(query: str | None, accept: str) -> bool:
    """Whether a page is wanted: `format` of the query says so, else `Accept`, as a browser sends it."""
    return query == "html" if query else "text/html" in accept


def encode(status: PublicStatus | Status, *, as_page: bool) -> tuple[bytes, str]:
    """The body, and its media type."""
    if not as_page:
        return msgspec.json.encode(status), JSON
    return (_page(status) if isinstance(status, PublicStatus) else _full_page(status)).encode(), HTML


_STYLE: Final = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid #8884}td:nth-child(-n+3){white-space:nowrap}
.ok{color:#15803d}.degraded{color:#b45309}.failing{color:#b91c1c}.unknown{color:#6b7280}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.ok{color:#4ade80}.degraded{color:#fbbf24}
.failing{color:#f87171}.unknown{color:#9ca3af}}"""
_MEANING: Final = {
    Level.OK: "Everything is answered as it should be.",
    Level.DEGRADED: "Requests are answered; something is not as it should be.",
    Level.FAILING: "Most requests cannot be answered now.",
}


def _page(status: PublicStatus | Status, *more: str) -> str:
    effects = "".join(f"<li>{_text(it)}</li>" for it in status.callers_see)
    told = f"<p>What callers get:</p><ul>{effects}</ul>" if effects else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Feature flags: {status.status}</title><style>{_STYLE}</style></head>'
        f"<body><h1>Feature flags: {_level(status.status)}</h1><p>{_MEANING[status.status]}"
        f" Since {_text(status.since)}.</p>{told}{''.join(more)}</body></html>"
    )


def _full_page(status: Status) -> str:
    parts = _table(
        ("Part", "Status", "Since", "Why", "Breaker", "Callers get", "Workers"),
        status.parts,
        lambda it: (it.name, it.status, it.since, it.why, it.breaker, it.callers_see, ", ".join(map(str, it.workers))),
    )
    workers = _table(
        ("Worker", "State", "Status", "Age, s", "Settings", "Fresh", "Stale", "Expired", "Unavailable", "Oldest, s"),
        status.workers,
        lambda it: (it.worker, it.state, it.status, it.age_s, it.generation, *_counts(it.snapshots)),
    )
    reload = status.last_reload
    told = f", the last reload was {_text(reload.result)} at {_text(reload.at)}" if reload else ""
    return _page(
        status,
        f"<h2>Parts</h2>{parts}<h2>Workers and their projects</h2>{workers}",
        f"<p>Version {_text(status.version)}, settings generation {status.generation}{told}.</p>",
    )


def _counts(found: Freshness | None) -> tuple[object, ...]:
    if found is None:
        return ()
    return found.fresh, found.stale, found.expired, found.unavailable, round(found.oldest_s, 1)


def _table(head: Sequence[str], items: Sequence[T], cells: Callable[[T], Sequence[object]]) -> str:
    titles = "".join(f"<th>{it}</th>" for it in head)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells(item))}</tr>" for item in items)
    return f"<table><tr>{titles}</tr>{rows}</table>"


def _text(value: object) -> str:
    """The value, escaped; nothing for None."""
    if isinstance(value, Level):
        return _level(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return "" if value is None else escape(str(value))


def _level(level: Level) -> str:
    return f'<strong class="{level}">{level}</strong>'

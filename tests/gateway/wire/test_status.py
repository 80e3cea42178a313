"""How the service stands, in bytes: what is told to whom, and in which words."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.standing import (
    EFFECTS,
    Freshness,
    Level,
    Reloaded,
    Standing,
    SupervisorReport,
    WorkerReport,
    WorkerState,
)
from gateway.wire.status import HTML, JSON, Status, encode, full_status, is_for_people, public_status

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
DEGRADATION = (Path(__file__).parents[3] / "docs" / "degradation.md").read_text(encoding="utf-8")


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def report(*standings: Standing, **known: Any) -> WorkerReport:
    return WorkerReport(**{"level": Level.OK, "since": NOON, "standings": standings, **known})


def down(name: str, minutes: int, why: str = "it burns", level: Level = Level.DEGRADED) -> Standing:
    return Standing(name=name, kind=name, level=level, since=at(minutes), why=why)


def well(name: str) -> Standing:
    return Standing(name=name, kind=name, since=NOON)


def supervisor(*states: str, **known: Any) -> SupervisorReport:
    workers = tuple(
        WorkerState(worker=index, pid=100 + index, state=state, age_s=1.0) for index, state in enumerate(states)
    )
    return SupervisorReport(**{"generation": 3, "wanted": len(states), "workers": workers, **known})


def merged(reports: dict[int, WorkerReport], *states: str, **known: Any) -> Status:
    return full_status(reports, supervisor(*(states or ("ready", "ready")), **known), "1.2.3")


def test_full_status__all_well__is_ok_since_the_last_became_so() -> None:
    """The whole is well for no longer than each of its parts."""
    status = merged({0: report(well("redis")), 1: report(Standing(name="disk", kind="disk", since=at(5)))})
    assert (status.status, status.since, status.callers_see) == (Level.OK, at(5), ())


def test_full_status__one_worker_sees_an_outage__is_told_which() -> None:
    """The worst that any worker sees counts, since the first of them saw it, and the others are left out."""
    persons = [down("persons", 7), down("persons", 4, "late"), well("persons")]
    status = merged({index: report(it) for index, it in enumerate(persons)}, "ready", "ready", "ready")
    (part,) = [it for it in status.parts if it.name == "persons"]
    assert (status.status, status.since) == (Level.DEGRADED, at(4))
    assert (part.status, part.since, part.why, part.workers) == (Level.DEGRADED, at(4), "late", (0, 1))
    assert status.callers_see == (EFFECTS["persons"].text,) == (part.callers_see,)


def test_full_status__unknown__counts_for_nothing() -> None:
    """What nobody needs makes no outage of the whole."""
    status = merged({0: report(down("keys", 1, level=Level.UNKNOWN)), 1: report(well("redis"))})
    assert (status.status, status.callers_see) == (Level.OK, ())


@pytest.mark.parametrize(
    ("states", "answering", "level", "why"),
    [
        (("ready", "ready"), (0, 1), Level.OK, None),
        (("ready", "starting"), (0,), Level.DEGRADED, "there are 1 of 2"),
        (("ready", "ready"), (0,), Level.DEGRADED, "no answer from 1"),
        (("accepting", "ready"), (0, 1), Level.OK, None),
    ],
)
def test_full_status__workers_lacking_or_silent__are_told(
    states: tuple[str, ...], answering: tuple[int, ...], level: Level, why: str | None
) -> None:
    """A worker that hangs, or is not there, shows although it says nothing itself."""
    status = merged({index: report() for index in answering}, *states)
    (part,) = [it for it in status.parts if it.name == "workers"]
    assert (status.status, part.status, part.why) == (level, level, why)
    assert [it.status for it in status.workers] == [Level.OK if it in answering else None for it in range(2)]


def test_full_status__reload_refused__is_degraded_with_its_problems() -> None:
    """Settings that are not in force are told of until they are, with what is wrong with them."""
    refused = Reloaded(result="refused", at=at(2), problems=("log.level: expected one of",))
    status = merged({0: report(), 1: report()}, reload=refused)
    (part,) = [it for it in status.parts if it.name == "reload"]
    assert (status.status, part.since, part.why) == (Level.DEGRADED, at(2), "log.level: expected one of")
    assert status.last_reload == refused
    good = merged({0: report(), 1: report()}, reload=Reloaded(result="changed", at=at(2)))
    assert good.status is Level.OK


def test_public_status__outage__has_nothing_of_the_installation() -> None:
    """Callers learn what they get and since when: no part, no reason, no address, no number."""
    persons = down("persons", 3, "10.1.2.3 refused: password is hunter2")
    told = public_status(WorkerReport(level=Level.DEGRADED, since=at(3), standings=(persons,)))
    for as_page in (False, True):
        body = encode(told, as_page=as_page)[0].decode()
        assert not re.search(r"10\.1|hunter|breaker|postgres|redis", body, re.IGNORECASE)
        assert EFFECTS["persons"].text in body
    assert msgspec.json.decode(encode(told, as_page=False)[0]) == {
        "status": "degraded",
        "since": "2026-01-15T12:03:00Z",
        "callers_see": [EFFECTS["persons"].text],
    }


def test_public_status__there_are_no_flags__promises_no_older_ones() -> None:
    """Where nothing can be answered, callers are told that alone; where other projects can, both are true."""
    cold = Standing(name="projects", kind="cold", level=Level.FAILING)
    some = Standing(name="projects", kind="cold", level=Level.DEGRADED)
    told = [public_status(report(down("definitions", 1), it)).callers_see for it in (cold, some)]
    assert told == [(EFFECTS["cold"].text,), (EFFECTS["definitions"].text, EFFECTS["cold"].text)]


def test_effects__that_are_felt__name_no_part_of_the_installation() -> None:
    """What is shown to everybody says nothing of what the service is made of."""
    felt = " ".join(effect.text for effect in EFFECTS.values() if effect.is_felt)
    assert not re.search(r"redis|postgres|disk|worker|breaker|`", felt, re.IGNORECASE)


@pytest.mark.parametrize("kind", EFFECTS)
def test_effects__each__stands_in_the_table_of_the_document(kind: str) -> None:
    """What operators read during an outage is what the document says, word for word."""
    rows = [row.split("|")[2].replace("`", "") for row in DEGRADATION.splitlines() if row.count("|") > 3]
    assert any(EFFECTS[kind].text in row for row in rows)


def test_page__whatever_a_reason_says__cannot_become_markup() -> None:
    """A page has no scripts, and nothing that somebody else said is markup in it."""
    part = down("redis", 1, "<script>alert(1)</script>&\"'")
    whole = merged(
        {0: report(part, snapshots=Freshness(fresh=12, oldest_s=1.25)), 1: report()},
        reload=Reloaded(result="unchanged", at=at(9)),
    )
    body, media_type = encode(whole, as_page=True)
    page = body.decode()
    assert media_type == HTML
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme" in page
    for text in ("<td>12</td>", "2026-01-15 12:01:00 UTC", "1.2.3", "generation 3", "unchanged"):
        assert text in page
    assert encode(whole, as_page=False)[1] == JSON


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        (None, "text/html,application/xhtml+xml,*/*;q=0.8", True),
        (None, "*/*", False),
        (None, "", False),
        ("json", "text/html", False),
        ("html", "application/json", True),
    ],
)
def test_is_for_people__query_or_header__says_so(query: str | None, accept: str, expected: bool) -> None:
    """A browser gets a page, a program gets JSON, and whoever asks gets what they ask for."""
    assert is_for_people(query, accept) is expected

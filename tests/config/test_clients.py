"""Settings of what clients get beside flags that contradict each other, or say nothing that can be used."""

import pytest

from config.sources import load
from tests.config.test_edge import problems


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["quota.project=much"], 'quota.project: "much" is no rate such as 50/second'),
        (['quota.projects={"phc_0123456789": "x"}'], 'quota.projects: entry "...6789": "x" is no rate such as'),
        (["quota.project=5/hour"], "quota.project, quota.projects: a quota is per day or per month"),
        (['quota.projects={"phc_one": "5/2 day"}'], "quota.project, quota.projects: a quota is per day or per month"),
        (["capture.upstream=ftp://events"], "capture.upstream: starts with neither http:// nor https://"),
        (["capture.upstream=https://"], "capture.upstream: names nothing after https://"),
        (["capture.upstream=https:events"], "capture.upstream: names nothing after https://"),
        (["capture.upstream=https://events:x"], "capture.upstream: names nothing after https://"),
        (["capture.upstream=https://events/a b"], "capture.upstream: names nothing after https://"),
        (["capture.upstream=https://me:secret@events"], "capture.upstream: has a user or a password, which would"),
        (["capture.upstream=https://events/?to=x"], "capture.upstream: has more than a host, a port and a path"),
        (["capture.persons=true", "store.url=file:x.json"], "capture.persons, store.url: a file is only read"),
        (["limits.definitions=often"], 'limits.definitions: "often" is no rate such as 50/second'),
        (['limits.definitions_tokens={"a": "b"}'], 'limits.definitions_tokens: entry "a": "b" is no rate such as'),
    ],
)
def test_check__contradiction__is_told_with_its_settings(overrides: list[str], told: str) -> None:
    """A mistake keeps the service from starting, and from reloading, and names what to change."""
    (problem,) = problems(*overrides)
    assert problem.startswith(told)


@pytest.mark.parametrize(
    "override",
    [
        "quota.project=50000/day; 1000000/month",
        'quota.projects={"phc_one": "5/day", "phc_all": ""}',
        "capture.upstream=https://events.example.com",
        "capture.upstream=http://127.0.0.1:8080/ingest",
        "capture.upstream=http://[::1]:8080/",
    ],
)
def test_check__sensible__is_taken(override: str) -> None:
    """What people would write is understood."""
    assert load(None, {}, [override])

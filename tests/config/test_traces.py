"""Settings of traces that say nothing that can be used, and secrets among them."""

from importlib.metadata import PackageNotFoundError
from typing import Never

import pytest

from config import operating
from config.address import Address
from config.operating import Traces
from config.pairs import Pairs, SecretPairs
from config.reload import dumps, loads
from config.settings import Settings, check
from config.sources import load, render
from tests.config.test_edge import problems


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["traces.url=collector:4317"], "traces.url: starts with neither http:// nor https://"),
        (["traces.url=https://me:secret@collector"], "traces.url: has a user or a password, which would not be sent"),
        (["traces.url=http://c:4318/v1/traces/"], "traces.url: ends with /v1/traces, which is put after it anyway"),
        (["traces.headers=authorization"], "traces.headers: part 1 is no pair such as name=value"),
        (["traces.headers=a=b,=hush"], "traces.headers: part 2 is no pair such as name=value"),
        (["traces.headers=a=b,bad name=hush"], "traces.headers: part 2 is no header that can be sent"),
        (["traces.headers=a=one%0D%0Atwo"], "traces.headers: part 1 is no header that can be sent"),
        (["traces.headers=a="], "traces.headers: part 1 is no header that can be sent"),
        (["traces.headers=Content-Type=text/plain"], "traces.headers: content-type is not for anybody to choose"),
        (["traces.attributes=production"], "traces.attributes: part 1 is no pair such as name=value"),
        (["traces.sample_ratio=1.5"], "traces.sample_ratio: expected a number from 0"),
        (["traces.parents=all"], 'traces.parents: expected "nobody" or "inside" or "proxies" or "everybody"'),
    ],
)
def test_check__unusable__is_told_with_its_setting(overrides: list[str], told: str) -> None:
    """A mistake keeps the service from starting, names what to change, and repeats no secret."""
    (problem,) = problems(*overrides)
    assert problem.startswith(told)
    assert "hush" not in problem


@pytest.mark.parametrize(
    "override",
    [
        "traces.url=http://127.0.0.1:4318",
        "traces.url=https://otlp.example.com/otlp",
        "traces.headers=Authorization=Basic%20QWxhZGRpbjpvcGVuIHNlc2FtZQ==, x-scope-orgid=1,",
        "traces.attributes=deployment.environment.name=production,team=a%2Cb",
    ],
)
def test_check__sensible__is_taken(override: str) -> None:
    """What people would write is understood."""
    assert load(None, {}, [override])


def test_check__extra_is_missing__says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """traces.url: without what encodes them there would be none, which nobody should find out during an outage."""

    def missing(_: str) -> Never:
        raise PackageNotFoundError

    monkeypatch.setattr(operating, "version", missing)
    assert check(Settings()) == []
    (problem,) = check(Settings(traces=Traces(url=Address("http://collector:4318"))))
    assert str(problem) == "traces.url: needs what is not installed here: pip install 'flagstone[traces]'"


def test_pairs__text__is_names_and_values() -> None:
    """As in OpenTelemetry's variables: commas between, and anything else percent-encoded."""
    assert Pairs(" a = b ,c=d%2Ce=f,, =x,g").items() == [("a", "b"), ("c", "d,e=f")]
    assert not Pairs("")
    assert len({Pairs("a=b"), Pairs("a=b"), SecretPairs("a=b")}) == 2
    assert repr(Pairs("a=b")) == "Pairs('a=b')"


def test_headers__wherever_they_are_shown__are_masked() -> None:
    """A key for a vendor's collector is in no print of the settings, and reaches the workers all the same."""
    loaded = load(None, {}, ["traces.headers=Authorization=Bearer%20hush,x=hush"])
    assert 'headers = "Authorization=***,x=***"' in render(loaded)
    assert "hush" not in render(loaded) + repr(loaded) + str(loaded.settings.traces)
    assert loads(dumps(loaded.settings)) == loaded.settings
    assert loads(dumps(loaded.settings)).traces.headers.items()[0] == ("Authorization", "Bearer hush")

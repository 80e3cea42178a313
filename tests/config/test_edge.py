"""Settings of the edge that contradict each other, or say nothing that can be used."""

from typing import Any

import pytest

from config.sources import InvalidConfiguration, load


def problems(*overrides: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as refused:
        load(None, {}, overrides)
    return [str(problem) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["limits.address=fast"], 'limits.address: "fast" is no rate such as 50/second'),
        (['limits.routes={"flags": "often"}'], 'limits.routes: entry "flags": "often" is no rate such as 50/second'),
        (['limits.routes={"nowhere": "1/second"}'], 'limits.routes: "nowhere" is none of flags, decide, definitions,'),
        (['limits.tokens={"phc_0123456789": "x"}'], 'limits.tokens: entry "...6789": "x" is no rate such as 50/second'),
        (["limits.tokens=phc_one"], "limits.tokens: expected a table of rates"),
        (["limits.is_fleet_wide=true"], "limits.is_fleet_wide, redis.url: rates of all processes are counted in Redis"),
        (
            ["limits.is_fleet_wide=true", "redis.url=redis+cluster://redis"],
            "limits.is_fleet_wide, redis.url: rates of all processes are not counted in a cluster",
        ),
        (["concurrency.ceiling=1"], "concurrency.ceiling, concurrency.floor: a ceiling of 1 is below the floor of 2"),
        (["server.tls_key=key.pem"], "server.tls_certificate, server.tls_key: a certificate and its key are only"),
        (
            ["server.tls_key=k", "server.tls_certificate=c", "server.engine=uvicorn"],
            "server.engine, server.tls_certificate: TLS is spoken by the engine hypercorn only",
        ),
    ],
)
def test_check__contradiction__is_told_with_its_settings(overrides: list[str], told: str) -> None:
    """A mistake at the edge keeps the service from starting, and from reloading, and names what to change."""
    (problem,) = problems(*overrides)
    assert problem.startswith(told)


def test_load__tables_of_a_file__are_rates_by_name(tmp_path: Any) -> None:
    """In a file a table of rates is a table."""
    file = tmp_path / "flagstone.toml"
    file.write_text('[limits]\naddress = "5/second; 100/hour"\n[limits.tokens]\nphc_one = "1/minute"\n')
    limits = load(file, {}, []).settings.limits
    assert limits.address.windows == ((5, 1.0), (100, 3600.0))
    rates = limits.tokens.get("phc_one")
    assert rates is not None
    assert str(rates) == "1/minute"


def test_load__table_of_something_else__is_told(tmp_path: Any) -> None:
    """A table whose entries are no text is refused like any value of the wrong type."""
    file = tmp_path / "flagstone.toml"
    file.write_text("[limits]\ntokens = 5\n[limits.routes]\nflags = 7\n")
    with pytest.raises(InvalidConfiguration) as refused:
        load(file, {}, [])
    assert [problem.paths for problem in refused.value.problems] == [("limits.tokens",), ("limits.routes",)]

"""Metrics: closed sets of labels, a scrape that survives, and a listener of its own."""

import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from config.reload import Live
from config.settings import Settings
from gateway.metrics import Metrics, Phase
from gateway.middleware.record import RecordRequests
from tests.conftest import ServerProcess
from tests.fakes import FakeClock
from tests.gateway.serving import one_project, serving


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def shown(metrics: Metrics, start: str) -> list[str]:
    return [row for row in metrics.render().decode().splitlines() if row.startswith(f"flagstone_{start}")]


def test_render__before_anything_happened__has_the_series_that_alerts_watch(metrics: Metrics) -> None:
    """A counter that never counted is there with a zero, so that its first step shows as one."""
    assert 'flagstone_requests_total{endpoint="flags",status_class="5xx"} 0.0' in shown(metrics, "requests_total")
    assert len(shown(metrics, "facts_missing_total")) == 15
    assert 'flagstone_calls_total{dependency="persons",outcome="timeout"} 0.0' in shown(metrics, "calls_total")


def test_render__before_anything_happened__has_every_counter(metrics: Metrics) -> None:
    """No counter appears only with its first event: the rate of a series that starts at one is nothing."""
    names = [name for name, (kind, _) in metrics.families().items() if kind == "counter"]
    assert not [name for name in names if not shown(metrics, name.removeprefix("flagstone_") + "_total")]


def test_fact_missing__cause_nobody_knows__is_other(metrics: Metrics) -> None:
    """No value of a label comes from outside."""
    metrics.fact_missing("person", "something new")
    assert 'flagstone_facts_missing_total{cause="other",part="person"} 1.0' in shown(metrics, "facts_missing_total")


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [("/flags/", "flags"), ("/flags", "flags"), ("/decide", "decide"), ("/", "root"), ("/phc_x", "other")],
)
async def test_requests__by_their_path__are_counted_under_a_closed_set(
    metrics: Metrics, path: str, endpoint: str
) -> None:
    """However many paths clients make up, there is one series for all of them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})

    async def ignore(*_: Any) -> None:
        return None

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await RecordRequests(app, Live(Settings()), FakeClock(), metrics)(scope, ignore, ignore)  # type: ignore[arg-type]
    name = f'flagstone_requests_total{{endpoint="{endpoint}",status_class="4xx"}} 1.0'
    assert name in shown(metrics, "requests_total")
    assert shown(metrics, "requests_in_flight") == ["flagstone_requests_in_flight 0.0"]


def test_request__client_went_away__is_gone(metrics: Metrics) -> None:
    """A request without an answer is counted as that."""
    metrics.request_ended("flags", None, "gone", 0.1)
    name = 'flagstone_requests_total{endpoint="flags",status_class="gone"} 1.0'
    assert name in shown(metrics, "requests_total")


def test_render__a_callback_crashes__shows_the_others(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    """One broken gauge hides none of the others, and is told of."""

    def crash() -> None:
        raise RuntimeError("a bug")

    metrics.at_scrape(crash)
    metrics.at_scrape(lambda: metrics.snapshots_held.set(7))
    assert shown(metrics, "snapshots_held") == ["flagstone_snapshots_held 7.0"]
    assert [record.message for record in caplog.records] == ["metric_crashed"]


async def test_answer__phases__are_all_observed() -> None:
    """Where the time of a flag request goes is told, phase by phase."""
    seen: list[str] = []
    before = Metrics.phase

    def phase(self: Metrics, which: Phase, duration_s: float) -> None:
        seen.append(which.value)
        before(self, which, duration_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "phase", phase)
        async with serving(one_project()) as client:
            await client.ask()
    assert sorted(seen) == sorted(Phase)


@pytest.mark.parametrize("is_enabled", ["true", "false"])
def test_metrics_settings__decide_whether_and_where_they_are_served(
    start_server: Callable[..., ServerProcess], is_enabled: str
) -> None:
    """metrics.is_enabled, metrics.host, metrics.port: off, nothing listens; on, it listens there."""
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    chosen = ("metrics.host=127.0.0.2", f"metrics.port={port}", f"metrics.is_enabled={is_enabled}")
    start_server("--demo", *(it for setting in chosen for it in ("--set", setting))).wait_until_ready()
    if is_enabled == "true":
        assert httpx.get(f"http://127.0.0.2:{port}/metrics").status_code == 200
    else:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.2:{port}/metrics")

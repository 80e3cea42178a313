"""The listener for operators: what it serves, and how it holds them to their rates."""

import asyncio
from typing import Any

import httpx
import pytest

from config.edge import Limits
from config.rates import Rates
from config.reload import Live
from config.settings import Settings
from gateway.management import Management
from gateway.standing import Level
from gateway.wire.status import Status


async def rendered() -> bytes:
    return b"flagstone_up 1\n"


def live(**limits: Any) -> Live:
    return Live(Settings(limits=Limits(**limits)))


def client(settings: Live) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(Management(settings, rendered)), base_url="http://ops")


async def test_metrics__other_paths_and_methods__are_refused() -> None:
    """The listener for operators serves nothing else."""
    async with client(live()) as ops:
        answers = [
            await ops.request(method, path)
            for method, path in (("GET", "/metrics"), ("HEAD", "/metrics"), ("POST", "/metrics"), ("GET", "/flags"))
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 405, 404]
    assert answers[0].text == "flagstone_up 1\n"
    assert answers[0].headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_status__nobody_to_tell__is_not_there() -> None:
    """Where nothing but metrics is told, as by `flagstone worker`, there is no status."""
    async with client(live()) as ops:
        assert (await ops.get("/_status")).status_code == 404


async def test_status__told__is_for_programs_and_for_people() -> None:
    """limits.management: operators get it as JSON or as a page, at the rates of metrics, and never from a cache."""
    told = Status(Level.OK, None, "1", 0, (), (), (), None)

    async def tell() -> Status:
        return told

    app = Management(live(management=Rates("3/minute")), rendered, tell)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops") as ops:
        answers = [await ops.get("/_status", params=query) for query in ({}, {"format": "html"}, {}, {})]
    assert answers[0].json()["status"] == "ok"
    assert answers[0].headers["cache-control"] == "no-store"
    assert answers[1].headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in answers[1].headers["content-security-policy"]
    assert [it.status_code for it in answers] == [200, 200, 200, 429]


async def test_metrics__websocket__is_closed() -> None:
    """Nothing but HTTP is spoken there."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/metrics", "headers": []}
    await Management(live(), rendered)(scope, asyncio.sleep, send)  # type: ignore[arg-type]
    assert sent[0]["type"] == "websocket.close"


async def test_metrics__asked_too_often__is_refused_as_everywhere() -> None:
    """limits.management: beyond the rates the answer is the same 429 as for flags, with whole seconds."""
    async with client(live(management=Rates("3/minute"))) as ops:
        answers = [await ops.get("/metrics") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit-limit"] == "3"
    assert refused.headers["ratelimit-remaining"] == "0"
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("limits", [{"management": Rates("")}, {"management": Rates("1/minute"), "mode": "off"}])
async def test_metrics__without_a_limit__are_always_served(limits: dict[str, Any]) -> None:
    """limits.management: empty, or with limits off, nobody is refused."""
    async with client(live(**limits)) as ops:
        assert {(await ops.get("/metrics")).status_code for _ in range(30)} == {200}


async def test_metrics__limits_reloaded__hold_at_once() -> None:
    """New rates need no restart."""
    settings = live(management=Rates("1/minute"))
    async with client(settings) as ops:
        assert [(await ops.get("/metrics")).status_code for _ in range(2)] == [200, 429]
        settings.settings = live(management=Rates("100/minute")).settings
        assert (await ops.get("/metrics")).status_code == 200


async def test_metrics__environment_that_means_to_switch_limits_off__does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Neither a variable nor a .env file that lies around decides about limits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RATELIMIT_ENABLED=false\n")
    monkeypatch.setenv("RATELIMIT_ENABLED", "false")
    async with client(live(management=Rates("1/minute"))) as ops:
        assert [(await ops.get("/metrics")).status_code for _ in range(2)] == [200, 429]

"""Limits through the whole app: what a client is answered that is near its rate, and beyond it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config.edge import Limits, Proxies
from config.networks import Networks
from config.rates import Rates, RateTable
from config.settings import Settings
from gateway.middleware.rate_limit import EXEMPT
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, one_project, serving

BROWSER = {"origin": "https://shop.example"}
REFUSAL = {"type": "validation_error", "code": "rate_limit_exceeded", "detail": "Rate limit exceeded", "attr": None}


@asynccontextmanager
async def limited(clock: FakeClock | None = None, **limits: Any) -> AsyncIterator[Client]:
    """A client of the app under these limits, somewhere on the internet and behind a balancer that is trusted."""
    settings = Settings(limits=Limits(**limits), proxies=Proxies(trusted=Networks("127.0.0.1")))
    async with serving(one_project(), settings, clock) as client:
        client.headers["x-forwarded-for"] = "203.0.113.9"
        yield client


@pytest.mark.parametrize("limit", ["address", "token"])
async def test_limit__exceeded__is_429_as_clients_expect_it(limit: str) -> None:
    """A denied client gets PostHog's error, how long to wait in whole seconds, and the numbers of the rate."""
    rates: dict[str, Any] = {"address": Rates(""), limit: Rates("2/minute")}
    async with limited(**rates) as client:
        statuses = [(await client.ask()).status_code for _ in range(2)]
        answer = await client.ask()
    assert [*statuses, answer.status_code] == [200, 200, 429]
    assert answer.json() == REFUSAL
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["ratelimit-limit"] == "2"
    assert answer.headers["ratelimit-remaining"] == "0"
    assert answer.headers["ratelimit-reset"] == "60"


async def test_limit__obeyed_retry_after__lets_in_again() -> None:
    """Whoever waits as long as it was told is let in."""
    clock = FakeClock()
    async with limited(clock, address=Rates("7/second")) as client:
        for _ in range(8):
            answer = await client.ask()
        assert answer.headers["retry-after"] == "1"
        clock.advance(int(answer.headers["retry-after"]))
        assert (await client.ask()).status_code == 200


async def test_limit__exceeded_by_a_browser__can_be_read_there() -> None:
    """A refusal is as readable in a browser as an answer, and a preflight is never refused."""
    async with limited(address=Rates("1/minute")) as client:
        await client.post("/flags", json={"token": TOKEN, "distinct_id": "u1"})
        answer = await client.post("/flags", headers=BROWSER)
        assert answer.status_code == 429
        assert answer.headers["access-control-allow-origin"] == BROWSER["origin"]
        asked = {**BROWSER, "access-control-request-method": "POST"}
        assert (await client.options("/flags", headers=asked)).status_code == 200


async def test_limit__nearly_reached__is_told_in_a_header() -> None:
    """limits.warn_ratio: from 80 % on answers say so, in a header that scripts in a browser can read."""
    async with limited(address=Rates("10/minute")) as client:
        answers = [await client.post("/flags", json={"token": TOKEN, "distinct_id": "u"}, headers=BROWSER)
                   for _ in range(11)]  # fmt: skip
    warned = [answer.headers.get("x-posthog-rate-limit-warning") for answer in answers]
    assert warned == [None] * 7 + ["true"] * 3 + [None]
    assert "x-posthog-rate-limit-warning" in answers[7].headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", sorted(EXEMPT))
async def test_limit__health__is_exempt(path: str) -> None:
    """A balancer may ask how the service is as often as it likes, also amid a flood from the same address."""
    async with limited(address=Rates("1/minute")) as client:
        assert {(await client.get(path)).status_code for _ in range(20)} == {200}
        assert (await client.ask()).status_code == 200


async def test_limit__of_a_route__holds_for_its_paths() -> None:
    """limits.routes: /decide and /decide/ are one route, /flags and /flags/ another, and all else is `other`."""
    paths = ("/decide", "/decide/", "/flags", "/flags/", "/", "/nothing")
    routes = RateTable({"decide": "1/minute", "flags": "2/minute", "other": "1/minute"})
    async with limited(routes=routes) as client:
        body = {"token": TOKEN, "distinct_id": "u1"}
        statuses = [(await client.post(path, json=body)).status_code for path in paths]
    assert statuses == [200, 429, 200, 200, 405, 429]


async def test_limit__of_a_token__is_not_used_up_by_requests_that_name_none() -> None:
    """limits.token: a request without a token counts for nobody's project."""
    async with limited(token=Rates("1/minute")) as client:
        assert {(await client.ask(token="")).status_code for _ in range(5)} == {401}
        assert (await client.ask()).status_code == 200
        assert (await client.ask()).status_code == 429


async def test_suspended__balancer_is_not_trusted__readiness_says_what_to_set() -> None:
    """proxies.trusted: while it lacks the balancer, the service is ready, with a warning that names both."""
    settings = Settings(limits=Limits(address=Rates("1/minute")))
    async with serving(one_project(), settings) as client:
        assert (await client.get("/_readiness")).json() == {"status": "ready"}
        for _ in range(20):
            answer = await client.post("/flags", headers={"x-forwarded-for": "203.0.113.9"})
            assert answer.status_code != 429
        ready = await client.get("/_readiness")
    assert ready.status_code == 200
    (warning,) = ready.json()["warnings"]
    assert re.match(r"127\.0\.0\.1 sends forwarding headers but is not in proxies\.trusted", warning)

"""Settings that are replaced while requests are under way."""

import asyncio
import logging
from contextlib import nullcontext
from typing import Any

import httpx
import msgspec
import pytest

from config.edge import Proxies
from config.networks import Networks
from config.reload import Live
from config.settings import Requests, Settings
from gateway.app import create_app
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, lines
from tests.gateway.serving import TOKEN, one_project, running, settle

BODY = msgspec.json.encode({"token": TOKEN, "distinct_id": "u1"})


class Sender:
    """Sends a body in two halves, the second when `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self._halves = [(BODY[:10], True), (BODY[10:], False)]

    async def __call__(self) -> dict[str, Any]:
        if len(self._halves) == 1:
            await self.gate.wait()
        body, has_more = self._halves.pop(0)
        return {"type": "http.request", "body": body, "more_body": has_more}


def post() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/flags", "query_string": b"v=2", "headers": [],
            "http_version": "1.1", "scheme": "http", "client": ("10.0.0.1", 1)}  # fmt: skip


async def test_request__settings_replaced_meanwhile__runs_under_those_it_began_with() -> None:
    """A reload cannot split a request: what held when it arrived holds until it is answered."""
    live = Live(Settings())
    async with running(create_app(live, FakeClock(), lambda _: nullcontext(one_project()))) as app:
        before, sender = Sent(), Sender()
        request = asyncio.ensure_future(app(post(), sender, before))
        await settle()
        live.settings = Settings(requests=Requests(max_body_bytes=1, max_decoded_bytes=1))
        sender.gate.set()
        await request
        after, sender = Sent(), Sender()
        sender.gate.set()
        await app(post(), sender, after)
    assert (before[0]["status"], after[0]["status"]) == (200, 413)


async def test_request__proxies_replaced__the_next_one_is_read_by_the_new(caplog: pytest.LogCaptureFixture) -> None:
    """Whom to believe can be put right without a restart."""
    caplog.set_level(logging.INFO)
    live = Live(Settings())
    async with running(create_app(live, FakeClock(), lambda _: nullcontext(one_project()))) as app:
        transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://flagstone") as client:
            for trusted in ("", "10.0.0.0/8"):
                live.settings = Settings(proxies=Proxies(trusted=Networks(trusted)))
                await client.get("/", headers={"x-forwarded-for": "203.0.113.9"})
    assert [line["client"] for line in lines(caplog)] == ["10.0.0.1", "203.0.113.9"]

"""Admission before an app whose requests stay until they are let go: what tests of it stand on.

Nothing here listens or sleeps.
"""

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from config.edge import Concurrency
from config.reload import Live
from config.settings import Settings
from gateway.errors import Overloaded
from gateway.metrics import Metrics
from gateway.middleware.admission import Admission
from gateway.refusing import reject, with_cors
from gateway.telemetry import RequestRecord
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, answering, nothing
from tests.gateway.serving import settle


def asked(path: str = "/flags", *headers: tuple[bytes, bytes], method: str = "POST", version: str = "1.1") -> Scope:
    return {"type": "http", "method": method, "http_version": version, "path": path, "headers": headers, "state": {}}


class Door:
    """Admission before an app in which each request stays until it is let go."""

    def __init__(self, metrics: Metrics | None = None, **chosen: Any) -> None:
        self.clock = FakeClock()
        self.live = Live(Settings(concurrency=Concurrency(**chosen)))
        self.admission = Admission(self._app, self.live, self.clock, metrics or Metrics())
        self.inside: list[Scope] = []
        self.waited_s = 0.0
        """What requests say that they waited for others."""
        self.has_body = asyncio.Event()
        """Whether bodies come with their heads; cleared, clients send slowly."""
        self.has_body.set()
        self._may_leave = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self.inside)

    async def come(self, scope: Scope | None = None, times: int = 1) -> list[Sent]:
        """What has been sent to so many requests, and will be."""
        answers = [Sent() for _ in range(times)]
        for sent in answers:
            mine = {**(scope or asked()), "state": {}}
            self._tasks.append(asyncio.create_task(self.admission(mine, nothing, sent)))
        await settle()
        return answers

    async def let_all_go(self) -> None:
        self._may_leave.set()
        self._may_leave.clear()  # Those who come in only now stay.
        await settle()

    async def cancel(self, number: int) -> None:
        self._tasks[number].cancel()
        await settle()
        assert self._tasks[number].cancelled()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def change(self, **chosen: Any) -> None:
        """Reload with these settings."""
        self.live.settings = Settings(concurrency=Concurrency(**chosen))

    def limit(self) -> int:
        return self.admission.gates["flags"].limit.limit

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(self.clock, self.live.settings, 1, request_id="", method="", path="", user_agent="")
        scope["state"]["record"] = record
        await self.has_body.wait()
        try:
            if "admission" in scope["state"]:
                await scope["state"]["admission"].enter(scope)
        except Overloaded as error:
            record.error = error.code
            await reject(with_cors(scope, send), error)
            return
        record.waited_s += self.waited_s
        self.inside.append(scope)
        try:
            await self._may_leave.wait()
            await answering(scope, receive, send)
            record.status = 204
        finally:
            self.inside.remove(scope)


def door(doors: list[Door], **chosen: Any) -> Door:
    doors.append(Door(**chosen))
    return doors[-1]


def statuses(answers: list[Sent]) -> list[int | None]:
    """None where there is no answer yet."""
    return [sent[0]["status"] if sent else None for sent in answers]

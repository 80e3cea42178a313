"""An app's lifespan, begun and ended.

Invariant: what the app raises at its beginning is raised here as it is, for it says what is wrong.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """The state that the app's requests are to find, from when it has started until it is to stop."""
    state: dict[str, Any] = {}
    told: asyncio.Queue[Message] = asyncio.Queue()
    heard: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    lifespan = asyncio.ensure_future(app(scope, told.get, heard.put))

    async def step(name: str) -> None:
        told.put_nowait({"type": f"lifespan.{name}"})
        answer = asyncio.ensure_future(heard.get())
        await asyncio.wait({answer, lifespan}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() or answer.result()["type"] != f"lifespan.{name}.complete":
            answer.cancel()
            await lifespan  # Raises what went wrong.

    await step("startup")
    try:
        yield state
    finally:
        await step("shutdown")
        await lifespan

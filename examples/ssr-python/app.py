"""A shop that renders its page with the flags of whoever asks, and does without them rather than be late."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

FLAGSTONE_URL = os.environ.get("FLAGSTONE_URL", "http://127.0.0.1:8000")
TOKEN = os.environ.get("FLAGSTONE_TOKEN", "phc_demo")
PATIENCE_MS = int(os.environ.get("FLAGSTONE_TIMEOUT_MS", "50"))

HERE = Path(__file__).parent
PAGE = Template((HERE / "page.html").read_text(encoding="utf-8"))
# What runs in the browser is the same, whatever the server is written in.
BROWSER = HERE.parent / "ssr-node"
POSTHOG_JS = BROWSER / "node_modules/posthog-js/dist/module.no-external.js"
POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src {FLAGSTONE_URL}"

PLANS = {"ada": "team", "bob": "free"}
"""Stands for accounts; the shop knows the plan of everybody who is signed in."""

logger = logging.getLogger("uvicorn.error")


async def bootstrap_for(client: httpx.AsyncClient, visitor: dict[str, Any]) -> Any:
    """What posthog-js starts with; None where that cannot be had in time."""
    try:
        async with asyncio.timeout(PATIENCE_MS / 1000):
            answer = await client.post("/bootstrap", json={"token": TOKEN, **visitor})
            return answer.raise_for_status().json()
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        logger.warning("rendering without flags: %s", str(error) or "too late")
        return None


def rendered(user: str | None, person: dict[str, str], bootstrap: Any) -> str:
    """The whole page. Without flags it is the shop as everybody knows it."""
    flags = bootstrap["featureFlags"] if bootstrap else {}
    payload = bootstrap["featureFlagPayloads"].get("checkout-button") if bootstrap else None
    label = payload.get("label", "Add to basket") if isinstance(payload, dict) else "Add to basket"
    colour = flags.get("checkout-button")
    start = {"token": TOKEN, "api": FLAGSTONE_URL, "person": person, "bootstrap": bootstrap}
    return PAGE.substitute(
        # JSON that may stand in a script element: without "<", nothing in it can end the element.
        start=json.dumps(start).replace("<", "\\u003c"),
        hidden="" if flags.get("new-navigation") is True else " hidden",
        user=escape(f"Hello, {user}" if user else "Welcome"),
        colour=colour if colour in ("green", "blue") else "plain",
        label=escape(str(label)),
        footer="Rendered with flags in it" if bootstrap else "Rendered without flags",
    )


async def page(request: Request) -> HTMLResponse:
    """The page for one request; `?user=ada` stands for somebody who is signed in."""
    user = request.query_params.get("user")
    person = {"plan": PLANS.get(user or "", "none")}
    visitor: dict[str, Any] = {"cookie": request.headers.get("cookie"), "person_properties": person}
    if user:
        visitor["distinct_id"] = user
    bootstrap = await bootstrap_for(request.state.client, visitor)
    headers = {"content-security-policy": POLICY, "cache-control": "private, no-store"}
    return HTMLResponse(rendered(user, person, bootstrap), headers=headers)


async def posthog_js(_: Request) -> FileResponse:
    return FileResponse(POSTHOG_JS, media_type="text/javascript")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    headers = {"x-request-timeout-ms": str(PATIENCE_MS)}
    async with httpx.AsyncClient(base_url=FLAGSTONE_URL, headers=headers, timeout=None) as client:  # noqa: S113
        with suppress(httpx.HTTPError):  # Opens the connection, which the first visitor would have to wait for.
            await client.get("/_liveness", timeout=1)
        yield {"client": client}


app = Starlette(
    routes=[
        Route("/", page),
        Route("/static/posthog.js", posthog_js),
        Mount("/static", StaticFiles(directory=BROWSER / "static")),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "3001")))

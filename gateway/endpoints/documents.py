"""What browsers load beside flags: posthog-js's remote config, and answers to what there is nothing of.

Invariant: no service and no store is asked, so these answer as long as the process lives, and anybody may keep them.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.endpoints.methods import NotModified
from gateway.errors import NotFound
from gateway.wire.browser import CONFIG, NOTHING, config_script, is_token
from gateway.wire.etags import etag_of, is_known

JSON: Final = "application/json"
JAVASCRIPT: Final = "application/javascript; charset=utf-8"
CACHE_CONTROL: Final = "public, max-age=300, stale-while-revalidate=86400, stale-if-error=86400"


async def config(request: Request) -> ASGIApp:
    """Remote config as JSON, which posthog-js asks for where it may not load scripts."""
    _token(request)
    return _kept(request, CONFIG, JSON)


async def script(request: Request) -> ASGIApp:
    """Remote config as a script."""
    return _kept(request, config_script(_token(request)), JAVASCRIPT)


async def nothing(request: Request) -> ASGIApp:
    """That there are no surveys, or whatever else the path asks for."""
    return _kept(request, NOTHING[request.scope["path"].rstrip("/")], JSON)


def _token(request: Request) -> str:
    token: str = request.path_params["token"]
    if not is_token(token):
        raise NotFound
    return token


def _kept(request: Request, body: bytes, media_type: str) -> ASGIApp:
    etag = etag_of(body)
    if is_known(request.scope["state"]["headers"].get(b"if-none-match"), etag):
        return NotModified((b"etag", etag), (b"cache-control", CACHE_CONTROL.encode()))
    headers = {"etag": etag.decode(), "cache-control": CACHE_CONTROL, "x-content-type-options": "nosniff"}
    return Response(body, headers=headers, media_type=media_type)

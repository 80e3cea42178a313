"""What browsers load beside flags, as they see it: always there, the same for everybody, and kept by whoever may."""

import http.client
from collections.abc import Callable
from contextlib import closing

import pytest

from gateway.errors import StoreUnavailable
from gateway.middleware.paths import QUIET
from gateway.wire.browser import CONFIG, NOTHING
from tests.conftest import ServerProcess
from tests.gateway.serving import MemoryStore, one_project, serving

KEPT = "public, max-age=300, stale-while-revalidate=86400, stale-if-error=86400"
PATHS = ["/array/phc_a/config", "/array/phc_a/config.js", *QUIET, *(path + "/" for path in QUIET)]
WITHOUT_SCRIPTS = {
    "hasFeatureFlags": True,
    "supportedCompression": ["gzip", "gzip-js"],
    "sessionRecording": False,
    "capturePerformance": False,
    "heatmaps": False,
    "autocaptureExceptions": False,
    "autocapture_opt_out": True,
    "captureDeadClicks": False,
    "isAuthenticated": False,
    "toolbarParams": {},
    "elementsChainAsString": True,
    "defaultIdentifiedOnly": True,
    "analytics": {"endpoint": "/i/v0/e/"},
}


async def test_config__json__asks_for_flags_and_for_no_script() -> None:
    """posthog-js loads flags after it, and nothing else: above all it has no member for surveys, whatever its value."""
    async with serving(one_project()) as client:
        answer = await client.get("/array/phc_a/config")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == WITHOUT_SCRIPTS


async def test_config__script__leaves_the_same_for_this_token() -> None:
    """The script says what the JSON says, under this token alone, and that there are no site apps."""
    async with serving(one_project()) as client:
        answer = await client.get("/array/phc_a-Z9/config.js")
    assert answer.headers["content-type"] == "application/javascript; charset=utf-8"
    assert answer.text == (
        '(window._POSTHOG_REMOTE_CONFIG = window._POSTHOG_REMOTE_CONFIG || {})["phc_a-Z9"]'
        f' = {{"config": {CONFIG.decode()}, "siteApps": []}};\n'
    )


@pytest.mark.parametrize("file", ["config", "config.js"])
@pytest.mark.parametrize(
    "token", ["a%22b", "a%27", "a%3C%2Fscript%3E", "a%5Cb", "a.b", "a%0Ab", "a%E2%80%A8", "a" * 257, "", "a%2Fb"]
)
async def test_config__text_that_is_no_token__is_404(token: str, file: str) -> None:
    """Nothing that could mean something in a script gets into one."""
    async with serving(one_project()) as client:
        answer = await client.get(f"/array/{token}/{file}")
    assert answer.status_code == 404
    assert "a" * 10 not in answer.text


@pytest.mark.parametrize(("path", "body"), NOTHING.items())
@pytest.mark.parametrize("slash", ["", "/"])
async def test_nothing__asked_by_the_page__is_empty(path: str, slash: str, body: bytes) -> None:
    """Whoever asks for surveys and the like learns that there are none, rather than that something is wrong."""
    async with serving(one_project()) as client:
        answer = await client.get(f"{path}{slash}?token=phc_a")
    assert (answer.status_code, answer.content) == (200, body)


def test_nothing__quiet_paths__all_have_an_answer() -> None:
    """Every path that is counted as one of these is answered."""
    assert set(NOTHING) == set(QUIET)


@pytest.mark.parametrize("path", PATHS)
async def test_document__any__may_be_kept_and_is_compared_by_its_tag(path: str) -> None:
    """Browsers and CDNs keep it for minutes, and for a day when nobody answers; with its tag it is not sent again."""
    async with serving(one_project()) as client:
        first = await client.get(path, headers={"origin": "https://shop.example.com"})
        again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
        head = await client.head(path)
        other = await client.post(path)
    assert first.headers["cache-control"] == again.headers["cache-control"] == KEPT
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(first.content)))
    assert (other.status_code, other.headers["allow"]) == (405, "GET, OPTIONS, HEAD")


@pytest.mark.parametrize("path", PATHS)
async def test_document__everything_is_down__is_the_same(path: str) -> None:
    """No store is asked, so a service that has never seen one answers."""
    store = MemoryStore()
    store.error = StoreUnavailable("down")
    async with serving(store) as client:
        assert (await client.get(path)).status_code == 200
    assert store.calls == []


def test_document__on_each_engine__ends_where_it_should(
    engine: str, start_server: Callable[..., ServerProcess]
) -> None:
    """A HEAD and a 304 have no body, so that the next answer on the connection is understood."""
    server = start_server("--set", f"server.engine={engine}").wait_until_ready()
    path = "/array/phc_a/config.js"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(connection):
        connection.request("HEAD", path)
        head = connection.getresponse()
        assert (head.status, head.read()) == (200, b"")
        connection.request("GET", path, headers={"If-None-Match": head.headers["etag"]})
        unchanged = connection.getresponse()
        assert (unchanged.status, unchanged.read()) == (304, b"")
        connection.request("GET", path)
        whole = connection.getresponse()
        assert (whole.status, len(whole.read())) == (200, int(head.headers["content-length"]))

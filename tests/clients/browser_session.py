"""A real browser for the tests of browser clients: one for all tests, each of which opens pages in contexts of its own.

The pages come from a server of ours, another origin than flagstone's, so that CORS and preflights are real. Invariant:
the browser reaches nothing but 127.0.0.1, and whatever went wrong in a page is among its `troubles`.
"""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Playwright, Request, Response, async_playwright

from tests.servers import unavailable

CLIENTS = Path(__file__).parent / "browser" / "dist" / "clients.js"
EXTRACTED = Path(__file__).parents[2] / ".venv" / "browser" / "chromium"
T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a page is waited for before the test fails. Never reached when all is well."""

_HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Page</title><link rel="icon" href="data:,">'
_ARGUMENTS = [
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-blink-features=AutomationControlled",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]
# SDKs send nothing from a browser that says it is headless or automated, so it does not say so.
_UNBRANDED = "delete Navigator.prototype.userAgentData"
_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{} Safari/537.36"


def program() -> str:
    """The browser on the PATH, or the one that `make` extracted; without either the test is skipped."""
    names = ("chromium", "chromium-headless-shell", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None and not EXTRACTED.is_file():
        unavailable("Chromium is neither installed nor in .venv/browser")
    return found or str(EXTRACTED)


class Site:
    """Serves pages that tests write, and the bundled clients at /clients.js."""

    def __init__(self) -> None:
        if not CLIENTS.is_file():
            unavailable("the browser clients in tests/clients/browser are not installed")
        self._files = {"/clients.js": (CLIENTS.read_bytes(), {"content-type": "text/javascript"})}
        files = self._files

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_S

            def do_GET(self) -> None:
                body, headers = files.get(urlsplit(self.path).path, (b"", {}))
                self.send_response(200 if headers else 404)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, body: str, policy: str = "") -> str:
        """The URL of a page with this body from now on, under this Content-Security-Policy."""
        headers = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
        if policy:
            headers["content-security-policy"] = policy
        self._files["/"] = (f"{_HEAD}{body}".encode(), headers)
        return f"{self.origin}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)


class Sent:
    """A request that a page sent; `status` is None until it is answered."""

    def __init__(self, request: Request) -> None:
        self.method, self.url = request.method, urlsplit(request.url)
        self.headers = request.headers
        self.body = request.post_data_buffer or b""
        self.status: int | None = None
        self.response: Response | None = None

    def __repr__(self) -> str:
        return f"<{self.method} {self.url.path}?{self.url.query} {self.status}>"


class Chromium:
    """The browser, driven by a loop in a thread of its own, so that tests may have a loop too, or none."""

    def __init__(self) -> None:
        path = program()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()
        self._playwright, self._browser = self.wait(self._start(path))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, PATIENCE_S), self._loop).result()

    async def _start(self, path: str) -> tuple[Playwright, Browser]:
        playwright = await async_playwright().start()
        return playwright, await playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)

    @contextmanager
    def page(self, blocked: str = "", first: str = "", **options: Any) -> Iterator["Visit"]:
        """An empty page of somebody who was nowhere before.

        What the wildcards in `blocked` match cannot be reached. The script `first` runs before any of a page's own.
        """
        agent = _AGENT.format(self._browser.version)
        context = self.wait(self._browser.new_context(user_agent=agent, **options))
        try:
            self.wait(context.add_init_script(f"{_UNBRANDED}; {first}"))
            visit = Visit(self, self.wait(context.new_page()))
            if blocked:
                self.wait(context.route(blocked, lambda route: route.abort()))
            self.wait(visit.listen())
            yield visit
        finally:
            self.wait(context.close())

    def close(self) -> None:
        self.wait(self._browser.close())
        self.wait(self._playwright.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class Visit:
    """A page in a context of its own, with what it asked for and what went wrong in it."""

    def __init__(self, browser: Chromium, page: Page) -> None:
        self._browser = browser
        self.page = page
        self.sent: list[Sent] = []
        self.troubles: list[str] = []
        self.preflights: list[str] = []
        self._known: dict[Request, Sent] = {}

    async def listen(self) -> None:
        """From now on whatever happens in the page is noted."""
        page = self.page
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.troubles.append(f"uncaught: {error}"))
        page.on("request", self._on_request)
        page.on("requestfailed", lambda it: self.troubles.append(f"failed: {it.method} {it.url} {it.failure}"))
        page.on("response", self._on_response)
        # Only the browser's own protocol tells of preflights.
        session = await self.page.context.new_cdp_session(self.page)
        session.on("Network.requestWillBeSent", self._on_any_request)
        await session.send("Network.enable")

    def _on_any_request(self, event: dict[str, Any]) -> None:
        if event["request"]["method"] == "OPTIONS":
            self.preflights.append(urlsplit(event["request"]["url"]).path)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        self._known[request] = Sent(request)
        self.sent.append(self._known[request])

    def _on_response(self, response: Response) -> None:
        sent = self._known[response.request]
        sent.status, sent.response = response.status, response
        if response.status >= 400:
            self.troubles.append(f"status {response.status}: {response.request.method} {response.url}")

    def asked(self, path: str) -> list[Sent]:
        """What was sent to this path, whatever the slash at its end."""
        return [it for it in self.sent if it.url.path.rstrip("/") == path]

    @property
    def origins(self) -> set[str]:
        """Where the page asked for anything; data in the page itself is nowhere."""
        return {f"{it.url.scheme}://{it.url.netloc}" for it in self.sent if it.url.scheme not in ("data", "blob")}

    def answer(self, sent: Sent) -> Any:
        """The JSON that came back."""
        assert sent.response is not None
        return self._browser.wait(sent.response.json())

    def go(self, url: str) -> "Visit":
        self._browser.wait(self.page.goto(url))
        return self

    def reload(self) -> None:
        self._browser.wait(self.page.reload())

    def cookies(self) -> dict[str, str]:
        """What the page's own server is sent."""
        found = self._browser.wait(self.page.context.cookies(self.page.url))
        return {it["name"]: it["value"] for it in found}

    def picture(self) -> bytes:
        """What the page looks like, as PNG."""
        return self._browser.wait(self.page.screenshot())

    def run(self, script: str, argument: object = None) -> Any:
        """What the script comes to in the page."""
        return self._browser.wait(self.page.evaluate(script, argument))

    def until(self, condition: Callable[[], object]) -> None:
        """Return once it holds."""
        ends_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < ends_at, (self.troubles, self.sent)
            time.sleep(0.02)

    def wait_for(self, script: str, argument: object = None) -> None:
        """Return once the script is true in the page."""
        self.until(lambda: self.run(script, argument))


Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """One browser for all tests."""
    started = Chromium()
    yield started
    started.close()


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    yield served
    served.close()


@pytest.fixture
def visit(browser: Chromium) -> Iterator[Open]:
    """Opens an address as somebody new, and closes what was opened."""
    with ExitStack() as visits:
        yield lambda url, **options: visits.enter_context(browser.page(**options)).go(url)

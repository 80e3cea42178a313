"""The shops in examples/: what their pages say before any script has run, with flags, without, and under attack.

A browser drives them in tests/clients. Nothing here measures time; a page that waited for ever would fail by patience.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from drills.servers import free_port
from tests.builders import flag, project
from tests.conftest import PATIENCE_S, ServerProcess
from tests.servers import unavailable

EXAMPLES = Path(__file__).parents[1] / "examples"
NASTY = "</script><script>alert(1)</script><!--\"'&\u2028"
FLAGS = [
    flag(
        "checkout-button",
        variants={"control": 40, "green": 30, "blue": 30},
        payloads={"green": json.dumps({"label": NASTY}), "blue": json.dumps({"label": "Continue"})},
    ),
    flag("new-navigation", rollout=50),
]


class Page(HTMLParser):
    """What a browser sees of a page before it runs anything."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._is_inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._texts.append("")
        self._is_inside = True

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self._texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._is_inside = False

    def find(self, id_: str) -> tuple[dict[str, str | None], str]:
        """The attributes and the text of the element with this id."""
        (index,) = [index for index, (_, attributes) in enumerate(self.elements) if attributes.get("id") == id_]
        return self.elements[index][1], self._texts[index]

    @property
    def shown(self) -> tuple[str | None, str, bool]:
        """The colour of the button, what stands on it, and whether there is a banner."""
        button, label = self.find("buy")
        return button["class"], label, "hidden" not in self.find("banner")[0]

    @property
    def start(self) -> Any:
        """What posthog-js is going to be started with."""
        return json.loads(self.find("start")[1])


class Shop:
    """One of the examples in a process of its own."""

    def __init__(self, name: str, flagstone_url: str, patience_ms: int) -> None:
        program = sys.executable if name == "python" else shutil.which("node")
        if program is None:
            unavailable("node is not installed")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [program, "app.py" if name == "python" else "server.mjs"],
            cwd=EXAMPLES / f"ssr-{name}",
            env={
                **os.environ,
                "PORT": self.url.rpartition(":")[2],
                "FLAGSTONE_URL": flagstone_url,
                "FLAGSTONE_TOKEN": "phc_test",
                "FLAGSTONE_TIMEOUT_MS": str(patience_ms),
            },
        )

    def page(self, query: str = "", **headers: str) -> Page:
        answer = httpx.get(f"{self.url}/?{query}", headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 200
        return Page(answer.text)

    def wait_until_open(self) -> "Shop":
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            assert self._process.poll() is None
            with suppress(httpx.TransportError):
                httpx.get(self.url, timeout=PATIENCE_S)
                return self
            assert time.monotonic() < ends_at
            time.sleep(0.05)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)


@pytest.fixture(params=["node", "python"])
def open_shop(request: pytest.FixtureRequest) -> Iterator[Callable[..., Shop]]:
    """Opens the shop that is written in this language, and closes it in the end."""
    with ExitStack() as opened:

        def open_(flagstone_url: str, patience_ms: int = int(PATIENCE_S * 1000)) -> Shop:
            shop = Shop(request.param, flagstone_url, patience_ms)
            opened.callback(shop.end)
            return shop.wait_until_open()

        yield open_


@pytest.fixture
def flagstone(tmp_path: Path, engine: str, start_server: Callable[..., ServerProcess]) -> str:
    """The address of a server of FLAGS, on each of the engines."""
    definitions = tmp_path / "flags.json"
    definitions.write_text(json.dumps({"projects": [project(*FLAGS)]}))
    chosen = [f"store.url=file:{definitions}", f"server.engine={engine}", "bootstrap.budget_ms=60000"]
    chosen += ["requests.budget_ms=60000"]
    return start_server(*(it for setting in chosen for it in ("--set", setting))).wait_until_ready().url


def test_example__flags_can_be_had__are_in_the_page(flagstone: str, open_shop: Callable[..., Shop]) -> None:
    """Each visitor's page has the values of /flags in it before anything runs, and starts posthog-js with the same."""
    shop = open_shop(flagstone)
    seen = set()
    for user in map(str, range(12)):
        body = {"token": "phc_test", "distinct_id": user, "evaluation_runtime": "client"}
        flags = httpx.post(f"{flagstone}/flags?v=2", json=body, timeout=PATIENCE_S).json()["flags"]
        page = shop.page(f"user={user}")
        colour = flags["checkout-button"]["variant"]
        label = {"green": NASTY, "blue": "Continue"}.get(colour, "Add to basket")
        has_banner = flags["new-navigation"]["enabled"]
        assert page.shown == (colour if colour != "control" else "plain", label, has_banner)
        assert page.start["bootstrap"]["featureFlags"] == {"checkout-button": colour, "new-navigation": has_banner}
        assert page.start["bootstrap"]["distinctID"] == user
        seen.add(page.shown)
    assert len(seen) > 3


def test_example__visitor_comes_back__is_known_by_the_cookie(flagstone: str, open_shop: Callable[..., Shop]) -> None:
    """A visitor without a name has the flags of the id that posthog-js keeps, once there is one."""
    shop = open_shop(flagstone)
    first, second = shop.page().start["bootstrap"], shop.page().start["bootstrap"]
    assert first["distinctID"] != second["distinctID"]
    identity = quote(json.dumps({"distinct_id": first["distinctID"], "$user_state": "anonymous"}))
    again = shop.page(cookie=f"ph_phc_test_posthog={identity}").start["bootstrap"]
    names = ("distinctID", "isIdentifiedID", "deviceID", "featureFlags")
    assert [again[name] for name in names] == [first[name] for name in names]


def test_example__names_and_payloads_of_an_attacker__are_text(flagstone: str, open_shop: Callable[..., Shop]) -> None:
    """Nothing that a visitor or a flag says becomes an element of the page."""
    shop = open_shop(flagstone)
    harmless = [tag for tag, _ in shop.page("user=ada").elements]
    for user in (NASTY, "__proto__", NASTY * 20):
        identity = quote(json.dumps({"distinct_id": NASTY, "$device_id": NASTY}))
        page = shop.page(f"user={quote(user)}", cookie=f"ph_phc_test_posthog={identity}")
        assert [tag for tag, _ in page.elements] == harmless
        assert page.find("user")[1] == f"Hello, {user}"
        assert page.start["bootstrap"]["distinctID"] == user[:200]
        assert page.start["bootstrap"]["deviceID"] == NASTY


def test_example__flagstone_is_down_or_hangs__page_does_without(open_shop: Callable[..., Shop]) -> None:
    """A shop whose flags cannot be had in time is the shop as everybody knows it."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        for port, patience_ms in ((free_port(), PATIENCE_S * 1000), (hanging.getsockname()[1], 50)):
            page = open_shop(f"http://127.0.0.1:{port}", int(patience_ms)).page("user=ada")
            assert page.shown == ("plain", "Add to basket", False)
            assert page.start["bootstrap"] is None


def test_example__scripts_of_the_page__are_served(open_shop: Callable[..., Shop]) -> None:
    """The page finds everything that it needs to be taken over by posthog-js at the shop itself."""
    if not (EXAMPLES / "ssr-node" / "node_modules" / "posthog-js").is_dir():
        unavailable("posthog-js in examples/ssr-node is not installed")
    shop = open_shop("http://127.0.0.1:9")
    for name, start in (("posthog.js", ""), ("hydrate.js", "//"), ("view.js", "//"), ("shop.css", ":root")):
        answer = httpx.get(f"{shop.url}/static/{name}", timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == ("text/css" if "css" in name else "text/javascript")
        assert answer.text.startswith(start)

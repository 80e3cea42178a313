"""The shops in examples/ in a real browser: what the server rendered is what posthog-js leaves on the page."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.builders import condition, flag, person, project
from tests.clients.browser_session import Open, Visit
from tests.conftest import PATIENCE_S, ServerProcess
from tests.servers import unavailable
from tests.test_examples import EXAMPLES, Shop

pytestmark = pytest.mark.client

FLAGS = (
    flag(
        "checkout-button",
        variants={"control": 34, "green": 33, "blue": 33},
        payloads={"green": '{"label": "Buy now"}', "blue": '{"label": "Continue"}'},
    ),
    flag("new-navigation", rollout=50),
    # Nobody waits for a store to render this one, so that posthog-js asks for flags once it has taken over.
    flag("vip", condition(person("tier", "gold"))),
)
WATCH = """window.changes = [];
const seen = changed => changes.push(...changed.map(it => `${it.type} of ${it.target.id || it.target.nodeName}`));
document.addEventListener("readystatechange", () => {
    if (document.readyState !== "interactive") return;  // Everything is parsed, and no module has run.
    const everything = {subtree: true, childList: true, characterData: true, attributes: true};
    new MutationObserver(seen).observe(document.body, everything);
})"""
LOOK = "[buy.className, buy.textContent, banner.hidden]"

Start = Callable[..., ServerProcess]
OpenShop = Callable[..., Shop]


@pytest.fixture
def open_shop() -> Iterator[OpenShop]:
    """Opens the shop that is written in a language, and closes it in the end."""
    if not (EXAMPLES / "ssr-node" / "node_modules" / "posthog-js").is_dir():
        unavailable("posthog-js in examples/ssr-node is not installed")
    with ExitStack() as opened:

        def open_(language: str, flagstone_url: str) -> Shop:
            shop = Shop(language, flagstone_url, int(PATIENCE_S * 1000))
            opened.callback(shop.end)
            return shop.wait_until_open()

        yield open_


@pytest.fixture
def flagstone(tmp_path: Path, start_server: Start) -> str:
    """The address of a server of FLAGS, with a store that knows no persons."""
    definitions = tmp_path / "flags.json"
    definitions.write_text(json.dumps({"projects": [project(*FLAGS)]}))
    settings = (f"store.url=file:{definitions}", "bootstrap.budget_ms=60000", "requests.budget_ms=60000")
    return start_server(*(it for setting in settings for it in ("--set", setting))).wait_until_ready().url


def taken_over(page: Visit) -> Visit:
    """The same, once posthog-js has the page."""
    page.wait_for("document.documentElement.dataset.hydrated === 'true'")
    return page


@pytest.mark.parametrize("language", ["node", "python"])
def test_page__that_was_rendered_with_flags__is_taken_over_without_a_flicker(
    flagstone: str, open_shop: OpenShop, visit: Open, language: str
) -> None:
    """Nothing that can be seen changes once the page is parsed: not when scripts run, not when flags are fetched."""
    shop, seen = open_shop(language, flagstone), set()
    for user in ("ada", "bob", "carol", "dan"):
        rendered = shop.page(f"user={user}").shown
        page = taken_over(visit(f"{shop.url}/?user={user}", first=WATCH))
        page.wait_for("Object.values(localStorage).some(kept => kept.includes('vip'))")
        assert [it.status for it in page.asked("/flags")] == [200]
        colour, label, is_hidden = page.run(LOOK)
        assert (colour, label, not is_hidden) == rendered
        assert page.run("changes") == []
        assert page.troubles == []
        seen.add(rendered)
    page.run("() => { buy.className = 'other' }")
    page.wait_for("changes.length > 0")  # It would have been seen.
    assert len(seen) > 1


def test_page__without_scripts__looks_exactly_like_the_one_with_them(
    flagstone: str, open_shop: OpenShop, visit: Open
) -> None:
    """Before posthog-js has the page, and where scripts are off, not one pixel is different."""
    shop = open_shop("node", flagstone)
    for user in ("ada", "bob"):
        before = visit(f"{shop.url}/?user={user}", java_script_enabled=False)
        after = taken_over(visit(f"{shop.url}/?user={user}"))
        assert before.picture() == after.picture()


def test_page__that_was_rendered_before_flagstone_failed__stays_as_it_is(
    flagstone: str, open_shop: OpenShop, visit: Open
) -> None:
    """A browser that cannot reach flagstone shows what the server rendered."""
    shop = open_shop("node", flagstone)
    rendered = shop.page("user=ada").shown
    page = taken_over(visit(f"{shop.url}/?user=ada", first=WATCH, blocked=f"{flagstone}/**"))
    page.until(lambda: [it for it in page.troubles if "/flags/" in it])
    colour, label, is_hidden = page.run(LOOK)
    assert (colour, label, not is_hidden) == rendered
    assert page.run("changes") == []

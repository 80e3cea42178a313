"""Pages that start the released posthog-js with what /bootstrap answered, as a rendering server would write them."""

from typing import Any

import httpx
import pytest

from tests.builders import flag
from tests.clients.browser_session import PATIENCE_S, Open, Site, Visit
from tests.clients.connecting import MakeStage
from tests.clients.pages import loaded, posthog_page, refresh, values
from tests.clients.stage import ADA, EXPECTED, TOKEN, Stage, every_kind_of_flag

pytestmark = pytest.mark.client

KEYS = tuple(EXPECTED)
ALL_AT_ONCE = f"""window.atOnce = {{
    flags: Object.fromEntries({list(KEYS)}.map(key => [key, posthog.getFeatureFlag(key) ?? null])),
    payload: posthog.getFeatureFlagPayload('split'),
    distinctId: posthog.get_distinct_id()}}"""
"""What a page that is drawn right after `init` has to go by."""


def asked(server: Stage, cookies: dict[str, str] | None = None, **parameters: str) -> httpx.Response:
    """What /bootstrap answers the server that renders the page."""
    cookie = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
    headers = {"cookie": cookie} if cookie else {}
    parameters = {"token": TOKEN, **parameters}
    return httpx.get(f"{server.url}/bootstrap", params=parameters, headers=headers, timeout=PATIENCE_S)


def never_flickers(page: Visit) -> bool:
    """Whether every flag was the same whenever posthog-js spoke of flags."""
    seen: list[dict[str, Any]] = page.run("seen")
    return all(it["variants"] == seen[0]["variants"] for it in seen)


def test_page__that_was_rendered_with_flags__has_them_at_once_and_for_good(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """Values, payloads and the distinct id are there before anything is asked, and what is fetched is the same."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    bootstrap = asked(server, distinct_id="ada", facts="allow").json()
    page = visit(site.put(posthog_page(server.url, bootstrap=bootstrap, then=ALL_AT_ONCE)))
    assert page.run("atOnce") == {"flags": EXPECTED, "payload": {"width": 3}, "distinctId": "ada"}
    refresh(page)
    assert [it.status for it in page.asked("/flags")] == [200]
    assert values(page, *KEYS) == EXPECTED
    assert never_flickers(page)
    assert page.troubles == []


def test_page__that_was_rendered_with_flags__needs_no_flagstone(stage: MakeStage, site: Site, visit: Open) -> None:
    """With everything of flagstone's blocked, the page goes on with what it was rendered with."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    bootstrap = asked(server, distinct_id="ada", facts="allow").json()
    page = visit(site.put(posthog_page(server.url, bootstrap=bootstrap)), blocked=f"{server.url}/**")
    refresh(page)
    assert values(page, *KEYS) == EXPECTED
    assert page.run("posthog.getFeatureFlagPayload('split')") == {"width": 3}
    assert never_flickers(page)


def test_flags__that_would_have_cost_a_look_up__come_later_and_disturb_no_other(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """Rendered without stored facts, a page lacks the flags that need them until it asks; the others stay."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    bootstrap = asked(server, distinct_id="ada").json()
    assert bootstrap["incomplete"] == ["paid"]
    page = visit(site.put(posthog_page(server.url, bootstrap=bootstrap, then=ALL_AT_ONCE)))
    assert page.run("atOnce.flags") == EXPECTED | {"paid": None}
    assert page.asked("/flags") == []  # posthog-js takes what it was started with for complete.
    refresh(page)
    assert values(page, *KEYS) == EXPECTED
    assert page.run("seen.every(it => it.variants.split === 'blue' && it.variants.on)")


def test_visitor__who_was_here_before__is_known_by_the_cookie(stage: MakeStage, site: Site, visit: Open) -> None:
    """The cookie of posthog-js names the same person to the rendering server and to the page."""
    server = stage(flag("split", variants={"red": 50, "blue": 50}))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    before = values(page, "split"), page.run("posthog.get_distinct_id()")
    bootstrap = asked(server, cookies=page.cookies()).json()
    assert (bootstrap["featureFlags"], bootstrap["distinctID"]) == before
    assert bootstrap["isIdentifiedID"] is False
    page.go(site.put(posthog_page(server.url, bootstrap=bootstrap)))
    loaded(page)
    refresh(page)
    assert (values(page, "split"), page.run("posthog.get_distinct_id()")) == before
    assert never_flickers(page)
    assert page.troubles == []


def test_script__of_a_page_with_a_strict_policy__starts_it_as_well(stage: MakeStage, site: Site, visit: Open) -> None:
    """The script form runs under a nonce, and what it assigns is what `init` takes."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    element = asked(server, distinct_id="ada", facts="allow", format="script", nonce="n0").text
    first = "window.options = {bootstrap: window.__FLAGSTONE_BOOTSTRAP__}"
    body = posthog_page(server.url, nonce="n0", first=first, then=ALL_AT_ONCE)
    policy = f"default-src 'none'; img-src data:; connect-src {server.url}; script-src 'nonce-n0' 'strict-dynamic'"
    page = visit(site.put(element + body, policy))
    assert page.run("atOnce") == {"flags": EXPECTED, "payload": {"width": 3}, "distinctId": "ada"}
    loaded(page)
    refresh(page)
    assert never_flickers(page)
    assert page.troubles == []


ATTACKS = (
    "</script><script>window.harmed = true</script>",
    "<!--<script>window.harmed = true//",
    "</ScRiPt ><img src=x onerror='window.harmed = true'>",
    "'\"`);window.harmed = true;//${window.harmed = true}\\",
    "\u2028window.harmed = true\u2029]]>&lt;/script&gt;",
)


def test_attacks__in_whatever_others_write__are_only_text(stage: MakeStage, site: Site, visit: Open) -> None:
    """A key, a variant, a payload and a distinct id reach posthog-js as they are, and none of them is ever run."""
    server = stage(*(flag(text, variants={text: 100}, payloads={text: {text: text}}) for text in ATTACKS))
    for attack in ATTACKS:
        element = asked(server, distinct_id=attack, format="script").text
        first = "window.options = {bootstrap: window.__FLAGSTONE_BOOTSTRAP__}"
        page = visit(site.put(element + posthog_page(server.url, first=first)))
        assert values(page, *ATTACKS) == {text: text for text in ATTACKS}
        assert page.run("key => posthog.getFeatureFlagPayload(key)", attack) == {attack: attack}
        assert page.run("posthog.get_distinct_id()") == attack
        assert page.run("window.harmed === undefined && document.images.length === 0")

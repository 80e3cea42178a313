"""The released posthog-js in a real browser, against a real server process of another origin.

What a page gets while things fail is in test_posthog_js_degraded.py.
"""

import gzip
import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.builders import answer, condition, context, flag
from tests.clients.browser_session import Open, Sent, Site
from tests.clients.connecting import MakeStage
from tests.clients.pages import loaded, posthog_page, refresh, values
from tests.clients.stage import ADA, EXPECTED, TOKEN, every_kind_of_flag

pytestmark = pytest.mark.client

ANONYMOUS = EXPECTED | {"paid": False}
KEYS = tuple(EXPECTED)


def body_of(sent: Sent) -> Any:
    """What a request for flags said, whichever way it was encoded."""
    if sent.body.startswith(b"data="):
        return json.loads(b64decode(parse_qs(sent.body.decode())["data"][0]))
    return json.loads(gzip.decompress(sent.body) if sent.body.startswith(b"\x1f\x8b") else sent.body)


def test_page__with_nothing_but_a_token_and_a_host__loads_its_flags_without_a_complaint(
    stage: MakeStage, site: Site, visit: Open, engine: str
) -> None:
    """The first load gives flags, variants and payloads; nothing fails, warns, or goes anywhere else."""
    server = stage(*every_kind_of_flag(), group_types=["team"], settings=(f"server.engine={engine}",))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    assert values(page, *KEYS, "inactive") == {**ANONYMOUS, "inactive": None}
    assert page.run("posthog.getFeatureFlagPayload('split')") == {"width": 3}
    page.run("posthog.capture('bought', {}, {send_instantly: true})")
    page.until(lambda: [it for it in page.sent if it.status and it.url.path.startswith(("/e", "/i/v0/e"))])
    assert page.origins == {site.origin, server.url}
    assert page.troubles == []
    assert page.preflights == []


def test_identify__of_somebody_who_was_anonymous__keeps_the_variant(stage: MakeStage, site: Site, visit: Open) -> None:
    """A flag with experience continuity says after signing in what it said before, then and on every other device."""
    kept = flag("kept", variants={"red": 50, "blue": 50}, ensure_experience_continuity=True)
    variant = {id_: answer(kept, context(id_)).value for id_ in ("ada", *(f"anonymous-{n}" for n in range(20)))}
    before = next(id_ for id_ in variant if variant[id_] != variant["ada"])
    server = stage(kept, persons=[ADA])
    page = visit(site.put(posthog_page(server.url, bootstrap={"distinctID": before})))
    loaded(page)
    refresh(page, "posthog.identify('ada')")
    assert values(page, "kept") == {"kept": variant[before]}
    page.until(lambda: server.metric("override_writes_total", 'outcome="written"'))  # After the answer, but soon.
    refresh(page)
    assert values(page, "kept") == {"kept": variant[before]}
    asked = [body_of(it) for it in page.asked("/flags")]
    assert [it["distinct_id"] for it in asked] == [before, "ada", "ada"]
    assert [it.get("$anon_distinct_id") for it in asked] == [None, before, None]
    elsewhere = visit(site.put(posthog_page(server.url, bootstrap={"distinctID": "ada", "isIdentifiedID": True})))
    loaded(elsewhere)
    assert values(elsewhere, "kept") == {"kept": variant[before]}


def test_groups_and_properties__set_in_the_page__count_at_once(stage: MakeStage, site: Site, visit: Open) -> None:
    """Whoever joins a group or gets properties for flags has the flags that go with them, without a capture first."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    refresh(page, "posthog.setPersonPropertiesForFlags({plan: 'pro'})")
    assert values(page, *KEYS) == ANONYMOUS | {"paid": True}
    refresh(page, "posthog.group('team', 't1')")
    assert values(page, *KEYS) == ANONYMOUS | {"paid": True, "in-team": True}
    refresh(page, "posthog.resetGroups(); posthog.resetPersonPropertiesForFlags()")
    refresh(page)
    assert values(page, *KEYS) == ANONYMOUS


def test_bodies__compressed_or_not__get_the_same_flags(stage: MakeStage, site: Site, visit: Open) -> None:
    """Compressed as the remote config says, and as JSON, for which the browser asks first."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    compressed = visit(site.put(posthog_page(server.url)))
    plain = visit(site.put(posthog_page(server.url, disable_compression=True)))
    for page, kind, is_asked_first in ((compressed, "text/plain", False), (plain, "application/json", True)):
        loaded(page)
        assert values(page, *KEYS) == ANONYMOUS
        (asked,) = page.asked("/flags")
        assert asked.headers["content-type"] == kind
        assert body_of(asked)["token"] == TOKEN
        assert ("/flags/" in page.preflights) is is_asked_first
        assert page.troubles == []


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("script-src 'nonce-n0' 'strict-dynamic'", {}),
        ("script-src 'nonce-n0'", {"disable_external_dependency_loading": True}),
    ],
    ids=["strict-dynamic", "nonce-alone"],
)
def test_strict_policy__of_a_page__is_never_violated(
    stage: MakeStage, site: Site, visit: Open, policy: str, options: dict[str, Any]
) -> None:
    """A page that allows its own scripts and connections to flagstone, and nothing else, has its flags in silence."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    policy = f"default-src 'none'; base-uri 'none'; img-src data:; connect-src {server.url}; {policy}"
    page = visit(site.put(posthog_page(server.url, nonce="n0", **options), policy))
    loaded(page)
    assert values(page, *KEYS) == ANONYMOUS
    assert page.troubles == []


def test_flags_host__of_its_own__is_asked_for_flags_and_nothing_else(stage: MakeStage, site: Site, visit: Open) -> None:
    """A page whose events go elsewhere asks flagstone for flags alone, and needs nothing of the other."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    elsewhere = "http://127.0.0.1:9"
    page = visit(site.put(posthog_page(elsewhere, flags_api_host=server.url)), blocked=f"{elsewhere}/**")
    loaded(page)
    assert values(page, *KEYS) == ANONYMOUS
    assert {it.url.path for it in page.sent if server.url.endswith(it.url.netloc)} == {"/flags/"}


def test_products__that_are_not_flags__are_empty(stage: MakeStage, site: Site, visit: Open) -> None:
    """Whoever asks for surveys or early access gets none of them, and no error."""
    server = stage(flag("on"))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    assert page.run("new Promise(done => posthog.getEarlyAccessFeatures(done, true))") == []
    assert page.run("new Promise(done => posthog.getSurveys(done, true))") == []
    assert page.troubles == []


def test_edit__of_a_flag__reaches_an_open_page(stage: MakeStage, site: Site, visit: Open) -> None:
    """What an operator changes is there with the next refresh, and gone when it is deleted."""
    server = stage(flag("on"), flag("gone"))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    assert values(page, "on", "gone") == {"on": True, "gone": True}
    server.put(flag("on", condition(), variants={"second": 100}))
    server.put(flag("gone", active=False))

    def has_changed() -> bool:
        refresh(page)
        return values(page, "on", "gone") == {"on": "second", "gone": None}

    page.until(has_changed)
    assert page.troubles == []

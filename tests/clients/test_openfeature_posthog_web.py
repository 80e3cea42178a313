"""PostHog's own OpenFeature provider, and OpenFeature's for OFREP, in one page: two protocols, one truth."""

from typing import Any

import pytest

from tests.builders import condition, flag, person
from tests.clients.browser_session import Open, Site, Visit
from tests.clients.connecting import MakeStage
from tests.clients.pages import as_script, details, posthog_page, script, set_context
from tests.clients.stage import ADA, FACTS, TOKEN, every_kind_of_flag

pytestmark = pytest.mark.client

PEOPLE = ("ada", "ada-phone", *(f"visitor-{number}" for number in range(6)))
BOOLEANS = ("on", "off", "paid", "in-team", "above", "half", "adults")
STRINGS = ("split", "thirds", "sizes", "rare")


def flags() -> list[dict[str, Any]]:
    """Whatever may come out differently for somebody."""
    return [
        *every_kind_of_flag(),
        flag("half", rollout=50),
        flag("adults", condition(person("age", 18, "gte"), person("email", "@example.com", "icontains"))),
        flag("thirds", variants={"a": 33.3, "b": 33.3, "c": 33.4}, payloads={"a": '{"first": true}'}),
        flag("sizes", condition(person("plan", "pro"), variant="large"), variants={"small": 50, "large": 50}),
        flag("rare", rollout=20, variants={"x": 50, "y": 50}),
    ]


def page_with_both(url: str, distinct_id: str, context: dict[str, Any]) -> str:
    """The body of a page in which each of the providers has a domain of its own."""
    bootstrap = {"distinctID": distinct_id, "isIdentifiedID": True}
    ofrep = {"baseUrl": url, "headers": [["Authorization", f"Bearer {TOKEN}"]], "cacheMode": "disabled"}
    return posthog_page(url, bootstrap=bootstrap) + script(
        f"""OpenFeature.setContext({as_script({"targetingKey": distinct_id, **context})})
            .then(() => OpenFeature.setProviderAndWait("posthog", new PostHogWebProvider(posthog)))
            .then(() => OpenFeature.setProviderAndWait("ofrep", new OFREPWebProvider({as_script(ofrep)})))
            .catch(error => console.error(error)).then(() => window.ready = true)"""
    )


def said(page: Visit, domain: str) -> dict[str, Any]:
    """Value and variant of every flag, as this provider has them."""
    asked = [("Boolean", key) for key in BOOLEANS] + [("String", key) for key in STRINGS]
    found = {key: details(page, kind, key, domain) for kind, key in asked}
    return {key: (it["value"], it.get("variant")) for key, it in found.items()}


def test_providers__of_both_protocols__say_the_same_of_everybody(stage: MakeStage, site: Site, visit: Open) -> None:
    """Value and variant are equal for every flag and every person, from the start and after a change of context."""
    server = stage(*flags(), persons=[ADA], group_types=["team"])
    seen = set()
    for number, distinct_id in enumerate(PEOPLE):
        context = {"age": 10 + 3 * number, "email": f"{distinct_id}@example.com"}
        page = visit(site.put(page_with_both(server.url, distinct_id, context)))
        page.wait_for("window.ready")
        before = said(page, "ofrep")
        assert said(page, "posthog") == before
        set_context(page, {"targetingKey": distinct_id, **context, "plan": "pro", "groups": {"team": "t1"}})
        after = said(page, "ofrep")
        assert said(page, "posthog") == after
        assert after["in-team"][0] is True
        assert page.troubles == []
        seen |= {*before.items(), *after.items()}
    for key in ("half", "adults", "thirds", "sizes", "rare"):
        assert len({told for name, told in seen if name == key}) > 1, f"{key} says the same of everybody"


def test_providers__while_stored_properties_are_out_of_reach__fall_back_alike(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """What could not be answered is the page's own default with either provider, and nothing else is."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    server.lose(*FACTS)
    page = visit(site.put(page_with_both(server.url, "ada", {})))
    page.wait_for("window.ready")
    for domain in ("posthog", "ofrep"):
        found = {key: details(page, "Boolean", key, domain) for key in ("on", "off", "above", "paid")}
        assert {key: it["value"] for key, it in found.items()} == {
            "on": True,
            "off": False,
            "above": True,
            "paid": False,
        }
        assert [key for key, it in found.items() if it.get("errorCode")] == ["paid"]
        assert details(page, "String", "split", domain)["value"] == "blue"

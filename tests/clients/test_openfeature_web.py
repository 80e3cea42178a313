"""OpenFeature's released web SDK and its OFREP provider in a real browser, against a real server process.

That PostHog's own provider says the same is in test_openfeature_posthog_web.py.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills.servers import free_port
from tests.builders import condition, flag, person
from tests.clients.browser_session import Open, Site, Visit
from tests.clients.connecting import MakeStage
from tests.clients.pages import details, ofrep_page, set_context
from tests.clients.stage import ADA, FACTS, every_kind_of_flag
from tests.conftest import ServerProcess

pytestmark = pytest.mark.client

ADA_HERE = {"targetingKey": "ada"}
STRANGER = {"targetingKey": "stranger"}

Start = Callable[..., ServerProcess]


def settled(page: Visit) -> str:
    """What the provider has become, once it has."""
    page.wait_for("window.ready")
    status: str = page.run("client.providerStatus")
    return status


def value(page: Visit, key: str, kind: str = "Boolean") -> Any:
    return details(page, kind, key)["value"]


def test_provider__with_a_context__has_every_flag_without_a_complaint(
    stage: MakeStage, site: Site, visit: Open, engine: str
) -> None:
    """The provider is ready with values, variants and reasons; nothing fails, warns, or goes anywhere else."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"], settings=(f"server.engine={engine}",))
    page = visit(site.put(ofrep_page(server.url, {**ADA_HERE, "groups": {"team": "t1"}})))
    assert settled(page) == "READY"
    assert [value(page, key) for key in ("on", "off", "paid", "in-team", "above")] == [True, False, True, True, True]
    split = details(page, "String", "split")
    assert (split["value"], split["variant"]) == ("blue", "blue")
    assert details(page, "Boolean", "nowhere")["errorCode"] == "FLAG_NOT_FOUND"
    assert page.origins == {site.origin, server.url}
    assert page.troubles == []


def test_provider__before_its_context_is_known__waits_for_it(stage: MakeStage, site: Site, visit: Open) -> None:
    """Without a targeting key the provider is ready with the page's own defaults, and has flags once there is one."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    page = visit(site.put(ofrep_page(server.url, None)))
    assert settled(page) == "READY"
    assert value(page, "split", "String") == "default"
    set_context(page, STRANGER)
    assert (value(page, "on"), value(page, "split", "String")) == (True, "blue")
    assert page.troubles == []


def test_context__changed_back_and_forth__never_has_the_flags_of_another(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """Entity tags are of the context as well as of the definitions: a change of attributes is never answered 304."""
    paid = flag("paid", condition(person("plan", "pro")))
    server = stage(paid, settings=("streams.is_enabled=false",))  # Nothing is fetched but for a context.
    page = visit(site.put(ofrep_page(server.url, STRANGER | {"plan": "free"}, cacheMode="disabled")))
    assert settled(page) == "READY"
    for plan in ("pro", "free", "pro", "free"):
        set_context(page, STRANGER | {"plan": plan})
        assert value(page, "paid") is (plan == "pro")
    set_context(page, STRANGER | {"plan": "free"})
    asked = [it for it in page.asked("/ofrep/v1/evaluate/flags") if it.method == "POST"]
    assert [it.status for it in asked] == [200, 200, 200, 200, 200, 304]
    assert all("if-none-match" in it.headers for it in asked[1:])
    assert value(page, "paid") is False


def test_stored_properties__out_of_reach__cost_only_the_flags_that_need_them(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """A flag that could not be answered has the page's default and the reason; the others are exact."""
    server = stage(*every_kind_of_flag(), persons=[ADA], group_types=["team"])
    server.lose(*FACTS)
    page = visit(site.put(ofrep_page(server.url, ADA_HERE, cacheMode="disabled")))
    assert settled(page) == "READY"
    assert (value(page, "on"), value(page, "above"), value(page, "split", "String")) == (True, True, "blue")
    lost = details(page, "Boolean", "paid")
    assert (lost["value"], lost["errorCode"]) == (False, "GENERAL")
    assert lost["errorMessage"]
    server.heal()
    turns = itertools.count()

    def is_paid() -> bool:
        set_context(page, ADA_HERE | {"turn": next(turns)})
        return value(page, "paid") is True

    page.until(is_paid)


def test_token__that_no_project_has__is_fatal(stage: MakeStage, site: Site, visit: Open) -> None:
    """A wrong token is the only thing that ends a provider for good."""
    server = stage(flag("on"))
    page = visit(site.put(ofrep_page(server.url, STRANGER, token="phc_wrong")))
    assert settled(page) == "FATAL"
    assert value(page, "on") is False


def test_flagstone__without_anything_to_answer_from__is_no_reason_to_give_up(
    site: Site, visit: Open, start_server: Start
) -> None:
    """While nobody can tell whether the token is right, the provider is in error, which it may come back from."""
    nowhere = f"store.url=postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    server = start_server("--set", nowhere).wait_until_ready()
    page = visit(site.put(ofrep_page(server.url, STRANGER)))
    assert settled(page) == "ERROR"
    assert value(page, "on") is False


def test_rate_limit__reached__leaves_the_page_its_flags(stage: MakeStage, site: Site, visit: Open) -> None:
    """On a 429 the provider keeps what it has, and can read when to come back although it is of another origin."""
    server = stage(flag("on"), settings=("limits.token=2/hour", "streams.is_enabled=false"))
    page = visit(site.put(ofrep_page(server.url, STRANGER, cacheMode="disabled")))
    assert settled(page) == "READY"
    for turn in range(4):
        set_context(page, STRANGER | {"turn": turn})
    limited = [it.status for it in page.asked("/ofrep/v1/evaluate/flags") if it.method == "POST"]
    assert limited == [200, 200, 429]  # The last turn was not even sent.
    assert value(page, "on") is True
    assert page.run("client.providerStatus") in {"READY", "STALE"}


def test_stream__of_a_project__tells_the_page_of_an_edit(
    stage: MakeStage, site: Site, visit: Open, engine: str
) -> None:
    """A flag that an operator changes is changed in an open page, which does nothing for it."""
    server = stage(flag("on"), settings=(f"server.engine={engine}", "streams.spread_ms=100"))
    page = visit(site.put(ofrep_page(server.url, STRANGER)))
    assert settled(page) == "READY"
    page.until(lambda: [it.status for it in page.asked("/ofrep/v1/stream")] == [200])
    server.put(flag("on", rollout=0))
    page.until(lambda: value(page, "on") is False)
    assert "PROVIDER_CONFIGURATION_CHANGED" in page.run("heard")
    assert page.troubles == []


def test_flagstone__killed_and_started_again__costs_the_page_nothing_but_news(
    stage: MakeStage, site: Site, visit: Open, start_server: Start, tmp_path: Path
) -> None:
    """A page loaded without a server has what it stored; its stream comes back with the server, and so does news."""
    port = free_port()
    server = stage(flag("on"), flag("off", rollout=0), settings=(f"server.port={port}",))
    page = visit(site.put(ofrep_page(server.url, STRANGER)))
    assert settled(page) == "READY"
    server.server.end()
    set_context(page, STRANGER | {"more": 1})
    assert value(page, "on") is True
    page.reload()
    assert settled(page) in {"READY", "STALE"}
    assert (value(page, "on"), details(page, "Boolean", "on")["reason"]) == (True, "CACHED")
    server.put(flag("off", rollout=100))
    store = f"store.url=sqlite:{tmp_path / 'store.sqlite3'}"
    start_server("--set", store, "--set", f"server.port={port}").wait_until_ready()
    page.until(lambda: value(page, "off") is True)

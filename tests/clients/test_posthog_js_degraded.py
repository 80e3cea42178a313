"""What a page with the released posthog-js has while flagstone, or what it stands on, fails: its last values.

The page is a real one in a real browser, over a real server process that is really killed, limited or cut off.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from drills.servers import free_port
from tests.builders import flag
from tests.clients.browser_session import Open, Site, Visit
from tests.clients.connecting import MakeStage
from tests.clients.pages import loaded, posthog_page, refresh, values
from tests.clients.stage import ADA, EXPECTED, FACTS, every_kind_of_flag
from tests.conftest import ServerProcess

pytestmark = pytest.mark.client

KEYS = tuple(EXPECTED)
IDENTIFIED = {"distinctID": "ada", "isIdentifiedID": True}

Start = Callable[..., ServerProcess]


def statuses(page: Visit) -> list[int | None]:
    return [it.status for it in page.asked("/flags")]


def test_stored_properties__out_of_reach__leave_the_flags_that_need_them_as_they_were(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """Flags that could not be answered keep their values in the page; the others are new."""
    server = stage(*every_kind_of_flag(), group_types=["team"], persons=[ADA])
    page = visit(site.put(posthog_page(server.url, bootstrap=IDENTIFIED)))
    loaded(page)
    assert values(page, *KEYS) == EXPECTED
    server.lose(*FACTS)
    refresh(page, "posthog.group('team', 't1')")
    assert page.answer(page.asked("/flags")[-1])["errorsWhileComputingFlags"] is True
    assert values(page, *KEYS) == EXPECTED | {"in-team": True}
    server.heal()
    refresh(page, "posthog.resetGroups()")
    refresh(page)
    assert values(page, *KEYS) == EXPECTED
    assert set(statuses(page)) == {200}


def test_stored_properties__out_of_reach_from_the_start__cost_only_the_flags_that_need_them(
    stage: MakeStage, site: Site, visit: Open
) -> None:
    """A page that never had a value gets none for a flag that could not be answered, and all the others."""
    server = stage(*every_kind_of_flag(), group_types=["team"], persons=[ADA])
    server.lose(*FACTS)
    page = visit(site.put(posthog_page(server.url, bootstrap=IDENTIFIED)))
    loaded(page)
    assert values(page, *KEYS) == EXPECTED | {"paid": None}


def test_flagstone__killed_and_started_again__costs_the_page_nothing_but_news(
    stage: MakeStage, site: Site, visit: Open, start_server: Start, tmp_path: Path
) -> None:
    """An open page and one that is loaded anew keep their flags without a server, and refresh once there is one."""
    port = free_port()
    server = stage(*every_kind_of_flag(), group_types=["team"], settings=(f"server.port={port}",))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    before = values(page, *KEYS)
    assert before == EXPECTED | {"paid": False}
    server.server.end()
    refresh(page)
    assert values(page, *KEYS) == before
    page.reload()
    loaded(page)
    assert values(page, *KEYS) == before
    assert page.run("posthog.getFeatureFlagPayload('split')") == {"width": 3}
    server.put(flag("off", rollout=100))
    store = f"store.url=sqlite:{tmp_path / 'store.sqlite3'}"
    start_server("--set", store, "--set", f"server.port={port}").wait_until_ready()
    refresh(page)
    assert values(page, *KEYS) == before | {"off": True}


def test_flagstone__without_anything_to_answer_from__leaves_the_page_its_flags(
    stage: MakeStage, site: Site, visit: Open, start_server: Start
) -> None:
    """A server that starts while its store is gone answers 503, which the page can read, and keeps its flags."""
    port = free_port()
    server = stage(*every_kind_of_flag(), group_types=["team"], settings=(f"server.port={port}",))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    before = values(page, *KEYS)
    server.server.end()
    nowhere = f"store.url=postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    start_server("--set", nowhere, "--set", f"server.port={port}").wait_until_ready()
    refresh(page)
    assert statuses(page) == [200, 503]
    assert page.run("seen.at(-1).errorsLoading")
    assert values(page, *KEYS) == before


def test_rate_limit__reached__leaves_the_page_its_flags(stage: MakeStage, site: Site, visit: Open) -> None:
    """A 429, which the page can read although it is of another origin, changes no flag."""
    server = stage(*every_kind_of_flag(), settings=("limits.token=3/hour",))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    before = values(page, *KEYS)
    while statuses(page)[-1] == 200:
        refresh(page)
    assert statuses(page)[-1] == 429
    assert page.run("seen.at(-1).errorsLoading")
    assert values(page, *KEYS) == before
    assert before["split"] == "blue"


def test_quota__used_up__leaves_the_page_its_flags(stage: MakeStage, site: Site, visit: Open) -> None:
    """An answer that says the quota is used up is no answer without flags: the page keeps those it has."""
    server = stage(*every_kind_of_flag(), settings=("quota.project=1/day",))
    page = visit(site.put(posthog_page(server.url)))
    loaded(page)
    before = values(page, *KEYS)
    page.run("posthog.reloadFeatureFlags()")
    page.until(lambda: statuses(page) == [200, 200])
    told = [page.answer(it).get("quotaLimited") for it in page.asked("/flags")]
    assert told == [None, ["feature_flags"]]
    assert values(page, *KEYS) == before
    assert before["split"] == "blue"


def test_remote_config__that_is_blocked__costs_no_flag(stage: MakeStage, site: Site, visit: Open) -> None:
    """Without its remote config the SDK sends base64 in a form, and gets the same flags."""
    server = stage(*every_kind_of_flag(), group_types=["team"])
    page = visit(site.put(posthog_page(server.url)), blocked="**/array/**")
    loaded(page)
    assert values(page, *KEYS) == EXPECTED | {"paid": False}
    (asked,) = page.asked("/flags")
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.body.startswith(b"data=")

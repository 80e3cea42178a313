"""Events of released SDKs, unmodified: sent on by one service, and learned from by another."""

from typing import Any

import pytest

from tests.builders import condition, flag, person
from tests.clients.browser_session import Open, Site
from tests.clients.connecting import Connect, ConnectNode, MakeStage
from tests.clients.pages import loaded, posthog_page
from tests.clients.stage import Stage, Start, until
from tests.conftest import ServerProcess

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:posthog"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

SIZE = {"key": "size", "type": "group", "group_type_index": 0, "operator": "gt", "value": 10}
FLAGS = (
    flag("paid", condition(person("plan", "pro"))),
    flag("early", condition(person("wave", "first"))),
    flag("large", condition(SIZE), filters={"aggregation_group_type_index": 0}),
)


@pytest.fixture
def central(stage: MakeStage) -> Stage:
    """A service that learns persons."""
    return stage(*FLAGS, group_types=["company"], settings=("capture.persons=true",))


@pytest.fixture
def edge(central: Stage, start_server: Start, engine: str) -> ServerProcess:
    """One of no more than an upstream."""
    settings = (f"capture.upstream={central.url}", f"server.engine={engine}")
    return start_server(*(it for setting in settings for it in ("--set", setting))).wait_until_ready()


def flags_of(client: Any, distinct_id: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get_all_flags(distinct_id, **options)
    return found


def test_python__says_who_somebody_is__and_flags_know(central: Stage, edge: ServerProcess, connect: Connect) -> None:
    """What is set of persons and groups decides their flags soon, under every id, through a service in between."""
    sender, reader = connect(edge, send=True), connect(central)
    assert flags_of(reader, "eve", groups={"company": "acme"}) == {"paid": False, "early": False, "large": False}
    sender.set(distinct_id="eve", properties={"plan": "pro"})
    sender.set_once(distinct_id="eve", properties={"wave": "first"})
    sender.set_once(distinct_id="eve", properties={"wave": "second"})
    sender.alias("eve", "eve-phone")
    sender.group_identify("company", "acme", {"size": 11})
    sender.capture("bought", distinct_id="passer-by", properties={"price": 3})
    sender.flush()
    known = {"paid": True, "early": True, "large": True}
    until(lambda: flags_of(reader, "eve", groups={"company": "acme"}) == known)
    until(lambda: flags_of(reader, "eve-phone", groups={"company": "acme"}) == known)
    assert central.metric("learned_total", 'outcome="refused"') == 0


def test_node__says_who_somebody_is__and_flags_know(
    central: Stage, edge: ServerProcess, connect: Connect, connect_node: ConnectNode
) -> None:
    """The same, from another language; no call fails."""
    sender, reader = connect_node(edge), connect(central)
    sender.identify({"distinctId": "eve", "properties": {"$set": {"plan": "pro"}, "$set_once": {"wave": "first"}}})
    sender.alias({"distinctId": "eve", "alias": "eve-phone"})
    sender.groupIdentify({"groupType": "company", "groupKey": "acme", "properties": {"size": 11}})
    sender.flush()
    assert {status for _, status, _ in sender.requests()} == {200}
    known = {"paid": True, "early": True, "large": True}
    until(lambda: flags_of(reader, "eve-phone", groups={"company": "acme"}) == known)


def test_browser__identifies_somebody__and_flags_know(
    central: Stage, connect: Connect, site: Site, visit: Open
) -> None:
    """A page's events are taken without a complaint, and who was anonymous is the person from then on."""
    page = visit(site.put(posthog_page(central.url, bootstrap={"distinctID": "anonymous-1"})))
    loaded(page)
    page.run("posthog.identify('eve', {plan: 'pro'}, {wave: 'first'})")
    reader = connect(central)
    known = {"paid": True, "early": True, "large": False}
    until(lambda: flags_of(reader, "eve", groups={"company": "acme"}) == known)
    until(lambda: flags_of(reader, "anonymous-1", groups={"company": "acme"}) == known)
    assert page.troubles == []

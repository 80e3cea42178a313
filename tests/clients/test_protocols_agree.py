"""One truth: whatever protocol asks, and whether the SDK or the service concludes, a flag says the same of somebody."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.builders import condition, flag
from tests.clients.connecting import Connect, ConnectNode, MakeStage
from tests.clients.differences import NODE_DIFFERENCES, PYTHON_DIFFERENCES, Differences, Disagreements, with_leaves
from tests.clients.generated import generated_person, round_of
from tests.clients.protocols import PROTOCOLS, Truth, Who, items, known, single, truth
from tests.clients.stage import FACTS, SECRET, Stage, typed_flag
from tests.conftest import PATIENCE_S

pytestmark = pytest.mark.client

FLAGS = 40
PEOPLE = 120
KINDS = {"in-cohort-1", "in-cohort-2", "in-cohort-3", "group-rollout", "group-plan", "above"}
"""Flags that are more than conditions on a person."""
SINGLES = 4
"""Flags of each person that are asked for one by one as well."""


class World:
    """Generated definitions, people that the store knows, and people of whom only the request tells."""

    def __init__(self, chance: random.Random) -> None:
        _, self.flags, self.trees = round_of(chance, FLAGS)
        self.concluding = {it["key"] for it in self.flags}
        """What SDKs with definitions may tell by themselves."""
        self.flags += misread_flags()
        self.whole: list[Who] = []
        """People with everything that there is to know of them."""
        self.people: list[Who] = []
        """The same, every other one without what the store has."""
        self.persons: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        for number in range(PEOPLE):
            distinct_id, properties = generated_person(chance)
            key, plan = f"org-{number}", {"plan": chance.choice(("pro", "free"))}
            who = Who(distinct_id, properties, {"organization": key}, {"organization": plan})
            self.whole.append(who)
            if number % 2:
                self.people.append(who)
                continue
            self.people.append(who._replace(person_properties={}, group_properties={}))
            self.persons.append({"distinct_ids": [distinct_id], "properties": properties})
            self.groups.append({"type": "organization", "key": key, "properties": plan})

    def stage(self, make: MakeStage, *settings: str) -> Stage:
        cohorts = [{"id": int(id_), "filters": {"properties": tree}} for id_, tree in self.trees.items()]
        return make(
            *self.flags,
            cohorts=cohorts,
            persons=self.persons,
            groups=self.groups,
            group_types=["organization"],
            settings=("requests.budget_ms=10000", "bootstrap.budget_ms=10000", *settings),
        )

    def truth(self, http: httpx.Client, who: Who) -> Truth:
        return truth(http, who, {it["key"] for it in self.flags if it["filters"].get("multivariate")})

    def leaves(self, key: str) -> dict[str, Any]:
        """The flag, with the filters that it is decided by in the end."""
        (document,) = (it for it in self.flags if it["key"] == key)
        return with_leaves(document, self.trees, self.flags[0])


def misread_flags() -> list[dict[str, Any]]:
    """Flags with something in them that no SDK reads, so that all have to ask."""
    variants = [{"key": name, "weight": 40, "value": {"steps": name}} for name in ("short", "long")]
    split = {"id": "r", "rule_type": "experiment", "seed": "s", "experiment_id": 7, "variants": variants}
    by_person = {**condition(rollout=50), "aggregation_group_type_index": None}
    return [
        typed_flag("ratio", 0.5),
        typed_flag("count", 3),
        typed_flag("layout", {"columns": [1, 2]}),
        flag("signup", filters={"groups": [], "version": 2, "rules": [split]}),
        flag("held-out", filters={"holdout_groups": [{"variant": "holdout-9", "rollout_percentage": 30}]}),
        flag("mixed", by_person, condition(rollout=50), filters={"aggregation_group_type_index": 0}),
    ]


@pytest.fixture
def world() -> World:
    return World(random.Random(20260118))


@pytest.fixture
def shop(world: World, stage: MakeStage) -> Stage:
    return world.stage(stage)


@pytest.fixture
def http(shop: Stage) -> Iterator[httpx.Client]:
    with asking(shop) as client:
        yield client


def asking(shop: Stage) -> httpx.Client:
    return httpx.Client(base_url=shop.url, timeout=PATIENCE_S)


def assert_all_protocols_agree(http: httpx.Client, who: Who, flags: Truth) -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.ask(http, who) == protocol.says(flags), (name, who)
    for key in random.Random(who.distinct_id).sample(sorted(flags), SINGLES):
        assert single(http, who, key) == items(flags)[key], (key, who)


def test_protocols__of_generated_flags_and_people__say_the_same(world: World, stage: MakeStage, engine: str) -> None:
    """Values, variants and payloads are the same in every protocol, for any kind of flag and person, on each engine."""
    with asking(world.stage(stage, f"server.engine={engine}")) as http:
        for who in world.people:
            flags = world.truth(http, who)
            assert known(flags) == flags
            assert_all_protocols_agree(http, who, flags)


def test_python__concluding_by_itself__says_what_the_service_says(
    world: World, shop: Stage, http: httpx.Client, connect: Connect
) -> None:
    """Where posthog-python reaches a conclusion from our definitions, it is what every protocol says."""
    client = connect(shop, secret_key=SECRET, enable_local_evaluation=False)
    client.load_feature_flags()

    def conclude(who: Who) -> dict[str, Any]:
        return client.get_all_flags(
            who.distinct_id,
            person_properties=dict(who.person_properties),
            groups=dict(who.groups),
            group_properties={kind: dict(properties) for kind, properties in who.group_properties.items()},
            only_evaluate_locally=True,
        )

    assert_agrees(world, http, PYTHON_DIFFERENCES, conclude)


def test_node__concluding_by_itself__says_what_the_service_says(
    world: World, shop: Stage, http: httpx.Client, connect_node: ConnectNode
) -> None:
    """Where posthog-node reaches a conclusion from our definitions, it is what every protocol says."""
    client = connect_node(shop, secretKey=SECRET)
    assert client.waitForLocalEvaluationReady(10_000)

    def conclude(who: Who) -> dict[str, Any]:
        told = {"personProperties": who.person_properties, "groupProperties": who.group_properties}
        return client.getAllFlags(who.distinct_id, {**told, "groups": who.groups, "onlyEvaluateLocally": True})

    assert_agrees(world, http, NODE_DIFFERENCES, conclude)


def assert_agrees(
    world: World, http: httpx.Client, differences: Differences, conclude: Callable[[Who], dict[str, Any]]
) -> None:
    """An SDK concludes what it can, and differs nowhere but for a reason that has a name."""
    found, concluded = Disagreements(differences), Counter[str]()
    for who, whole in zip(world.people, world.whole, strict=True):
        flags = world.truth(http, who)
        for key, value in conclude(whole).items():
            concluded[key] += 1
            if value != flags[key].value:
                found.add((world.leaves(key), dict(whole.person_properties), 1), value, flags[key].value)
    assert not found.unnamed, "\n".join(found.unnamed[:12])
    assert KINDS <= concluded.keys() <= world.concluding
    assert concluded.total() > FLAGS * PEOPLE // 2


def test_protocols__while_persons_are_gone__lack_the_same_flags(world: World, shop: Stage, http: httpx.Client) -> None:
    """In an outage every protocol lacks the same flags, and says of all others what it says when all is well."""
    healthy = [world.truth(http, who) for who in world.people]
    shop.lose(*FACTS)
    lacking = 0
    for who, before in zip(world.people, healthy, strict=True):
        flags = world.truth(http, who)
        assert known(flags).items() <= before.items()
        lacking += len(flags) - len(known(flags))
        assert_all_protocols_agree(http, who, flags)
    assert lacking > PEOPLE

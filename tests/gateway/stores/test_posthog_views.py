"""The views over PostHog's tables: flagstone reads them, evaluates from them, and keeps overrides through them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.servers import Postgres
from evaluator.evaluate import evaluate
from evaluator.snapshot import build_snapshot
from evaluator.types import Context, Facts
from gateway.document import read_document
from gateway.errors import StoreError
from gateway.ports import FactsQuery, StoredFacts
from gateway.stores.postgres import PostgresStore

VIEWS = Path(__file__).parents[3] / "deploy" / "posthog-views.sql"

POSTHOG = Path(__file__).with_name("posthog.sql")


@pytest.fixture
async def store(postgres: Postgres, database: str) -> AsyncIterator[PostgresStore]:
    """A store over a PostHog database with one team in it; the views are applied twice, as upgrades do."""
    await asyncio.to_thread(
        postgres.execute, POSTHOG.read_text(), VIEWS.read_text(), VIEWS.read_text(), database=database
    )
    url = Address(postgres.url(database))
    async with PostgresStore(url, DefinitionsPool(), PersonsPool(), WriterPool()) as store:
        yield store


async def test_views__definitions__are_the_team_as_flagstone_knows_projects(store: PostgresStore) -> None:
    """Everything that evaluation needs is there; what is deleted is not."""
    definitions = await store.load_definitions("phc_team")
    assert definitions is not None
    project = msgspec.json.decode(definitions.document)
    assert (project["id"], project["name"], project["timezone"]) == (1, "Team", "Europe/Berlin")
    assert (project["secret_tokens"], project["group_types"]) == (["phs_1"], ["company", "", "team"])
    assert [flag["key"] for flag in project["flags"]] == ["all", "gold", "friends", "big", "sticky"]
    assert [flag["has_experiment"] for flag in project["flags"]] == [True, False, False, False, False]
    assert project["cohorts"] == [{"id": 1, "name": "Friends", "is_static": True, "filters": None}]
    assert build_snapshot(definitions.document, definitions.version, lambda _: ()).problems == ()
    assert await store.load_definitions("phc_nobody") is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE posthog_featureflag SET active = false WHERE key = 'all'",
        "UPDATE posthog_featureflag SET deleted = true WHERE key = 'all'",
        "UPDATE posthog_cohort SET name = 'Foes'",
        "UPDATE posthog_team SET timezone = 'UTC'",
        "INSERT INTO posthog_grouptypemapping (group_type, group_type_index, team_id) VALUES ('site', 3, 1)",
    ],
)
async def test_views__any_change__makes_a_greater_version(
    store: PostgresStore, postgres: Postgres, database: str, change: str
) -> None:
    """Without a column that everybody remembers to set, each change is another version, and reading makes none."""
    before = (await store.definitions_versions(["phc_team"]))["phc_team"]
    assert (await store.definitions_versions(["phc_team"]))["phc_team"] == before
    await asyncio.to_thread(postgres.execute, change, database=database)
    assert (await store.definitions_versions(["phc_team"]))["phc_team"] > before


async def test_views__facts_and_evaluation__agree_with_what_is_stored(store: PostgresStore) -> None:
    """A person's properties, cohorts and groups decide flags as in PostHog."""
    query = FactsQuery(
        1,
        ("u1",),
        properties=frozenset({"tier"}),
        cohorts=frozenset({1}),
        groups=frozenset({("company", "acme")}),
        group_properties=frozenset({"size"}),
    )
    stored = await store.load_facts(query)
    assert stored == StoredFacts({"tier": "gold"}, frozenset({1}), {"company": {"size": 9}})
    definitions = await store.load_definitions("phc_team")
    assert definitions is not None
    snapshot = build_snapshot(definitions.document, definitions.version, lambda _: ())
    facts = Facts(stored.person_properties, stored.cohorts, stored.groups, {})
    context = Context(distinct_id="u1", groups={"company": "acme"})
    evaluation = evaluate(snapshot, context, Facts(), datetime.now(UTC)).with_facts(facts)
    values = {outcome.result.key: outcome.result.value for outcome in evaluation.outcomes}
    assert {key: values[key] for key in ("all", "gold", "friends", "big")} == dict.fromkeys(
        ("all", "gold", "friends", "big"), True
    )


async def test_views__overrides__are_kept_in_posthogs_table(store: PostgresStore) -> None:
    """Continuity works through the view: the first hash key of a person and flag stays."""
    await store.save_overrides(1, ("u1", "u2"), {"sticky": "anon"})
    await store.save_overrides(1, ("u1",), {"sticky": "later"})
    for distinct_id in ("u1", "u2"):
        stored = await store.load_facts(FactsQuery(1, (distinct_id,), wants_overrides=True))
        assert stored.overrides == {"sticky": "anon"}


async def test_views__import_and_migrate__are_refused_and_change_nothing(store: PostgresStore) -> None:
    """Nobody replaces a PostHog's team by accident."""
    document = read_document(b'{"projects": [{"id": 1, "token": "phc_team"}]}')
    for attempt in (store.import_projects(document, lambda done, total: None), store.migrate()):
        with pytest.raises(StoreError):
            await attempt
    assert await store.load_definitions("phc_team") is not None

"""What every store promises, held against the fake and both embedded adapters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.servers import PgBouncer, Postgres
from evaluator.definitions import InvalidDefinitions, ProjectDocument
from gateway.document import WholeProject, read_document, write_document
from gateway.errors import StoreError
from gateway.ports import FactsQuery, StoredFacts
from gateway.stores.file import FileStore
from gateway.stores.postgres import PostgresStore
from gateway.stores.sqlite import SqliteStore
from tests.builders import flag
from tests.fakes import FakeClock, FakeStore
from tests.publishing import publish

Put = Callable[[dict[str, Any]], Awaitable[None]]


def document(**changes: Any) -> dict[str, Any]:
    """Two projects, of which the first has a bit of everything."""
    first = {
        "id": 1,
        "name": "Demo",
        "token": "phc_one",
        "secret_tokens": ["phs_one"],
        "timezone": "Europe/Berlin",
        "property_matching_version": 2,
        "group_types": ["organization", "team"],
        "flags": [{**flag("zeta"), "id": 1}, {**flag("alpha"), "id": 2}],
        "cohorts": [{"id": 12, "name": "Friends", "is_static": True}],
        "persons": [
            {"distinct_ids": ["anon-1", "u1"], "properties": {"plan": "pro", "left": None}, "cohorts": [12]},
            {"distinct_ids": ["u2"], "properties": {}, "cohorts": []},
        ],
        "groups": [{"type": "organization", "key": "acme", "properties": {"size": 3}}],
    }
    return {"projects": [{**first, **changes}, {"id": 2, "token": "phc_two"}]}


def projects(content: dict[str, Any]) -> list[WholeProject]:
    return read_document(msgspec.json.encode(content))


class Bench:
    """A store under test, and how to put a document in it and have it noticed."""

    def __init__(self, store: Any, put: Put) -> None:
        self.store = store
        self.put = put


def open_postgres(server: Postgres | PgBouncer, database: str) -> PostgresStore:
    through_bouncer = isinstance(server, PgBouncer)
    return PostgresStore(
        Address(server.url(database)),
        DefinitionsPool(transaction_pooling=through_bouncer),
        PersonsPool(transaction_pooling=through_bouncer),
        WriterPool(transaction_pooling=through_bouncer),
    )


async def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The adapter that the parameter names, with nothing in it."""
    if request.param in ("postgres", "pgbouncer"):
        server = request.getfixturevalue(request.param)
        store = open_postgres(server, request.getfixturevalue("database"))
        await store.migrate()
        return store
    return FakeStore() if request.param == "fake" else SqliteStore(str(tmp_path / "store.sqlite3"))


@pytest.fixture(params=["fake", "file", "sqlite", "postgres", "pgbouncer"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each adapter with the document in it."""
    if request.param == "file":
        path, clock = tmp_path / "definitions.json", FakeClock()
        path.write_bytes(msgspec.json.encode(document()))

        async def rewrite(content: dict[str, Any]) -> None:
            path.write_bytes(msgspec.json.encode(content))
            clock.advance(60)

        async with FileStore(str(path), clock=clock) as store:
            yield Bench(store, rewrite)
        return
    async with await empty_store(request, tmp_path) as store:

        async def replace(content: dict[str, Any]) -> None:
            await store.import_projects(projects(content), lambda done, total: None)
            if not isinstance(store, FakeStore):
                await publish(store)

        await replace(document())
        yield Bench(store, replace)


writable = pytest.mark.parametrize("bench", ["fake", "sqlite", "postgres", "pgbouncer"], indirect=True)


async def facts_of(bench: Bench, distinct_id: str, project_id: int = 1) -> StoredFacts:
    """What is stored of a person: the properties and cohorts that the document knows."""
    query = FactsQuery(project_id, (distinct_id,), properties=frozenset({"plan", "left"}), cohorts=frozenset({12}))
    found: StoredFacts = await bench.store.load_facts(query)
    return found


async def groups_of(bench: Bench, *groups: tuple[str, str], project_id: int = 1) -> Any:
    query = FactsQuery(project_id, ("u1",), groups=frozenset(groups), group_properties=frozenset({"size"}))
    return (await bench.store.load_facts(query)).groups


async def overrides_of(bench: Bench, *distinct_ids: str) -> Any:
    return (await bench.store.load_facts(FactsQuery(1, distinct_ids, wants_overrides=True))).overrides


async def version_of(bench: Bench, token: str) -> Any:
    return (await bench.store.definitions_versions([token]))[token]


async def test_definitions__of_a_token__are_the_project_without_persons(bench: Bench) -> None:
    """Everything that evaluation needs is there, with flags as they were written and in a fixed order."""
    definitions = await bench.store.load_definitions("phc_one")
    decoded = msgspec.json.decode(definitions.document)
    assert set(decoded) == set(ProjectDocument.__struct_fields__)
    assert (decoded["id"], decoded["timezone"], decoded["property_matching_version"]) == (1, "Europe/Berlin", 2)
    assert (decoded["secret_tokens"], decoded["group_types"]) == (["phs_one"], ["organization", "team"])
    assert [stored["key"] for stored in decoded["flags"]] == ["zeta", "alpha"]
    assert decoded["cohorts"] == [{"id": 12, "name": "Friends", "is_static": True}]


async def test_definitions__of_an_unknown_token__are_none(bench: Bench) -> None:
    """That nobody has a token is an answer, not an error."""
    assert await bench.store.load_definitions("phc_nobody") is None
    assert await bench.store.definitions_versions(["phc_nobody"]) == {}


async def test_versions__of_several_tokens__come_together(bench: Bench) -> None:
    """One call tells of all projects, and tokens of nobody are left out, odd ones as well."""
    found = await bench.store.definitions_versions(["phc_two", "phc_nobody", "nul\x00", "phc_one"])
    assert found.keys() == {"phc_one", "phc_two"}
    assert await bench.store.definitions_versions([]) == {}


async def test_version__without_a_change__stays(bench: Bench) -> None:
    """The version told alone is that of the document, and reading changes nothing."""
    version = await version_of(bench, "phc_one")
    definitions = await bench.store.load_definitions("phc_one")
    assert (definitions.project_id, definitions.version) == (1, version)
    assert await version_of(bench, "phc_one") == version


async def test_version__after_a_change__has_grown(bench: Bench) -> None:
    """A change is told by a greater version, and the document has it."""
    before = await version_of(bench, "phc_one")
    await bench.put(document(name="Renamed"))
    after = await bench.store.load_definitions("phc_one")
    assert after.version > before
    assert b"Renamed" in after.document


async def test_project__that_lost_its_token__is_found_under_the_new_one(bench: Bench) -> None:
    """Tokens can change, and change hands among projects that are replaced together."""
    content = document(token="phc_two")
    content["projects"][1]["token"] = "phc_one"
    await bench.put(content)
    assert msgspec.json.decode((await bench.store.load_definitions("phc_two")).document)["id"] == 1
    assert msgspec.json.decode((await bench.store.load_definitions("phc_one")).document)["id"] == 2


@pytest.mark.parametrize("distinct_id", ["u1", "anon-1"])
async def test_person__under_any_distinct_id__is_the_same(bench: Bench, distinct_id: str) -> None:
    """Properties come with nulls as nulls, and static cohorts with them."""
    facts = await facts_of(bench, distinct_id)
    assert facts.person_properties == {"plan": "pro", "left": None}
    assert facts.cohorts == {12}


@pytest.mark.parametrize("distinct_id", ["nobody", "", "nul\x00", "'; --", "u1 "])
async def test_person__not_stored__has_nothing(bench: Bench, distinct_id: str) -> None:
    """No identifier that a client may send is an error."""
    assert await facts_of(bench, distinct_id) == StoredFacts()


@pytest.mark.parametrize("project_id", [2, 99])
async def test_person__of_another_project__has_nothing(bench: Bench, project_id: int) -> None:
    """Persons belong to their project."""
    assert await facts_of(bench, "u1", project_id) == StoredFacts()


async def test_groups__asked_by_type_and_key__leave_out_what_is_not_stored(bench: Bench) -> None:
    """A group that is not stored is absent, which is not the same as having no properties."""
    found = await groups_of(bench, ("organization", "acme"), ("team", "acme"))
    assert found == {"organization": {"size": 3}}
    assert await groups_of(bench, ("organization", "acme"), project_id=99) == {}


async def test_facts__asked_together__come_together(bench: Bench) -> None:
    """Person, cohorts and groups are in one answer, and the groups do not depend on the person."""
    query = FactsQuery(
        1,
        ("u1", "u2"),
        properties=frozenset({"plan"}),
        cohorts=frozenset({12, 99}),
        groups=frozenset({("organization", "acme")}),
        group_properties=frozenset({"size"}),
        wants_overrides=True,
    )
    facts = await bench.store.load_facts(query)
    assert facts.person_properties["plan"] == "pro"
    assert (facts.cohorts, facts.groups, facts.overrides) == ({12}, {"organization": {"size": 3}}, {})
    nobody = await bench.store.load_facts(replace(query, distinct_ids=("nobody",)))
    assert nobody == StoredFacts(groups={"organization": {"size": 3}})


async def test_overrides__of_unknown_persons__are_not_kept(bench: Bench) -> None:
    """Nothing can be kept for somebody who is not there."""
    await bench.store.save_overrides(1, ("nobody",), {"zeta": "anon"})
    assert await overrides_of(bench, "nobody") == {}


@writable
async def test_overrides__where_kept__stay_with_the_first_value(bench: Bench) -> None:
    """The first hash key of a person and flag stays, and the person of the first id asked for wins."""
    store = bench.store
    await store.save_overrides(1, ("u1",), {"zeta": "first"})
    await store.save_overrides(1, ("anon-1", "u2"), {"zeta": "second", "alpha": "second"})
    assert await overrides_of(bench, "u1") == {"zeta": "first", "alpha": "second"}
    assert await overrides_of(bench, "u1", "u2") == {"zeta": "first", "alpha": "second"}
    assert await overrides_of(bench, "u2", "u1") == {"zeta": "second", "alpha": "second"}


@writable
async def test_overrides__of_a_person_imported_again__are_kept(bench: Bench) -> None:
    """A person is found again by any distinct id; with the person, the overrides go."""
    store = bench.store
    await store.save_overrides(1, ("u1",), {"zeta": "kept"})
    await bench.put(document(persons=[{"distinct_ids": ["u3", "u1"]}, {"distinct_ids": ["u2"]}]))
    assert await overrides_of(bench, "u3") == {"zeta": "kept"}
    assert await overrides_of(bench, "u2") == {}
    await bench.put(document(persons=[]))
    await bench.put(document())
    assert await overrides_of(bench, "u1") == {}


@pytest.mark.parametrize("bench", ["file"], indirect=True)
async def test_import__into_a_file__is_refused(bench: Bench) -> None:
    """The file is its owner's to edit."""
    with pytest.raises(StoreError, match="read-only"):
        await bench.store.import_projects([], lambda done, total: None)


@writable
async def test_import__of_one_project__leaves_the_others(bench: Bench) -> None:
    """Only projects in the document are replaced."""
    await bench.put({"projects": [document()["projects"][0]]})
    assert await bench.store.load_definitions("phc_two") is not None


@writable
async def test_import__with_the_token_of_another_project__writes_nothing(bench: Bench) -> None:
    """Two projects cannot share a token, and a refused import leaves no trace."""
    version = await version_of(bench, "phc_one")
    content = {"projects": [document()["projects"][0], {"id": 3, "token": "phc_two"}]}
    with pytest.raises(InvalidDefinitions) as caught:
        await bench.put(content)
    assert [problem.path for problem in caught.value.problems] == ["$.projects[1].token"]
    assert await version_of(bench, "phc_one") == version


@writable
async def test_import__of_many_persons__tells_its_progress(bench: Bench) -> None:
    """Progress grows to the whole."""
    told: list[tuple[int, int]] = []
    persons = [{"distinct_ids": [f"p{number}"]} for number in range(2500)]
    await bench.store.import_projects(
        projects(document(persons=persons)), lambda done, total: told.append((done, total))
    )
    assert told[-1] == (2500, 2500)
    assert told == sorted(told)
    await bench.store.save_overrides(1, ("p2499",), {"zeta": "kept"})
    assert await overrides_of(bench, "p2499") == {"zeta": "kept"}


async def test_export__after_import__is_the_same_document(bench: Bench) -> None:
    """What was put in comes out, and can be put in again."""
    exported = await bench.store.export_projects()
    # Compared as values: a database may keep the properties of a person in an order of its own.
    assert msgspec.json.decode(write_document(exported)) == msgspec.json.decode(write_document(projects(document())))
    assert write_document(read_document(write_document(exported))) == write_document(exported)


async def test_calls__many_at_once__all_answer(bench: Bench) -> None:
    """Callers do not get in each other's way."""
    people = await asyncio.gather(*(facts_of(bench, "u1") for _ in range(50)))
    assert all(facts.person_properties["plan"] == "pro" for facts in people)


async def test_call__cancelled__leaves_the_store_working(bench: Bench) -> None:
    """A caller that goes away takes nothing with it."""
    calls = [asyncio.ensure_future(facts_of(bench, "u1")) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await facts_of(bench, "u1")).cohorts == {12}

"""What every store promises, held against the fake and both embedded adapters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluator.definitions import InvalidDefinitions, ProjectDocument
from gateway.document import WholeProject, read_document, write_document
from gateway.errors import StoreError
from gateway.stores.file import FileStore
from gateway.stores.sqlite import SqliteStore
from tests.builders import flag
from tests.fakes import FakeClock, FakeStore

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


@pytest.fixture(params=["fake", "file", "sqlite"])
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
    opened: Any = FakeStore() if request.param == "fake" else SqliteStore(str(tmp_path / "store.sqlite3"))
    async with opened as store:

        async def replace(content: dict[str, Any]) -> None:
            await store.import_projects(projects(content), lambda done, total: None)

        await replace(document())
        yield Bench(store, replace)


writable = pytest.mark.parametrize("bench", ["fake", "sqlite"], indirect=True)


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
    assert await bench.store.definitions_version("phc_nobody") is None


async def test_version__without_a_change__stays(bench: Bench) -> None:
    """The version told alone is that of the document, and reading changes nothing."""
    version = await bench.store.definitions_version("phc_one")
    assert (await bench.store.load_definitions("phc_one")).version == version
    assert await bench.store.definitions_version("phc_one") == version


async def test_version__after_a_change__has_grown(bench: Bench) -> None:
    """A change is told by a greater version, and the document has it."""
    before = await bench.store.definitions_version("phc_one")
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
    person = await bench.store.load_person(1, distinct_id)
    assert person.properties == {"plan": "pro", "left": None}
    assert person.cohorts == {12}


async def test_person__not_stored_or_of_another_project__is_none(bench: Bench) -> None:
    """Persons belong to their project."""
    assert await bench.store.load_person(1, "nobody") is None
    assert await bench.store.load_person(2, "u1") is None
    assert await bench.store.load_person(99, "u1") is None


async def test_groups__asked_by_type_and_key__leave_out_what_is_not_stored(bench: Bench) -> None:
    """A group that is not stored is absent, which is not the same as having no properties."""
    found = await bench.store.load_groups(1, {"organization": "acme", "team": "acme"})
    assert found == {"organization": {"size": 3}}
    assert await bench.store.load_groups(99, {"organization": "acme"}) == {}


async def test_overrides__of_unknown_persons__are_not_kept(bench: Bench) -> None:
    """Nothing can be kept for somebody who is not there."""
    await bench.store.save_overrides(1, ("nobody",), {"zeta": "anon"})
    assert await bench.store.load_overrides(1, ("nobody",)) == {}


@writable
async def test_overrides__where_kept__stay_with_the_first_value(bench: Bench) -> None:
    """The first hash key of a person and flag stays, and the person of the first id asked for wins."""
    store = bench.store
    await store.save_overrides(1, ("u1",), {"zeta": "first"})
    await store.save_overrides(1, ("anon-1", "u2"), {"zeta": "second", "alpha": "second"})
    assert await store.load_overrides(1, ("u1",)) == {"zeta": "first", "alpha": "second"}
    assert await store.load_overrides(1, ("u1", "u2")) == {"zeta": "first", "alpha": "second"}
    assert await store.load_overrides(1, ("u2", "u1")) == {"zeta": "second", "alpha": "second"}


@writable
async def test_overrides__of_a_person_imported_again__are_kept(bench: Bench) -> None:
    """A person is found again by any distinct id; with the person, the overrides go."""
    store = bench.store
    await store.save_overrides(1, ("u1",), {"zeta": "kept"})
    await bench.put(document(persons=[{"distinct_ids": ["u3", "u1"]}, {"distinct_ids": ["u2"]}]))
    assert await store.load_overrides(1, ("u3",)) == {"zeta": "kept"}
    assert await store.load_overrides(1, ("u2",)) == {}
    await bench.put(document(persons=[]))
    await bench.put(document())
    assert await store.load_overrides(1, ("u1",)) == {}


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
    version = await bench.store.definitions_version("phc_one")
    content = {"projects": [document()["projects"][0], {"id": 3, "token": "phc_two"}]}
    with pytest.raises(InvalidDefinitions) as caught:
        await bench.put(content)
    assert [problem.path for problem in caught.value.problems] == ["$.projects[1].token"]
    assert await bench.store.definitions_version("phc_one") == version


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
    assert await bench.store.load_person(1, "p2499") is not None


async def test_export__after_import__is_the_same_document(bench: Bench) -> None:
    """What was put in comes out, and can be put in again."""
    exported = await bench.store.export_projects()
    assert write_document(exported) == write_document(projects(document()))
    assert write_document(read_document(write_document(exported))) == write_document(exported)


async def test_calls__many_at_once__all_answer(bench: Bench) -> None:
    """Callers do not get in each other's way."""
    people = await asyncio.gather(*(bench.store.load_person(1, "u1") for _ in range(50)))
    assert all(person.properties["plan"] == "pro" for person in people)


async def test_call__cancelled__leaves_the_store_working(bench: Bench) -> None:
    """A caller that goes away takes nothing with it."""
    calls = [asyncio.ensure_future(bench.store.load_person(1, "u1")) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await bench.store.load_person(1, "u1")).cohorts == {12}

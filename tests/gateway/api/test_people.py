"""Persons, groups and members as streams: what is stored of them, and what is told when something goes wrong."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.management import Api
from gateway.api import reading
from gateway.editing_ports import Upserted
from gateway.errors import StoreUnavailable
from tests.fake_editing import FakeManagedStore
from tests.gateway.api.managing import Manager, managing
from tests.gateway.serving import settle

ONE = "/api/projects/1"


async def known(api: Manager) -> list[str]:
    """The distinct ids of all persons."""
    return sorted(it for person in await api.store.sample_persons(1, 1000) for it in person.distinct_ids)


async def test_persons__lines_good_and_bad__are_judged_one_by_one() -> None:
    """A line that makes no sense is told with its number, and spoils no other."""
    async with managing() as api:
        answer = await api.send_lines(
            "persons",
            '{"distinct_id": "u1", "properties": {"plan": "paid"}}',
            "",
            '{"distinct_ids": ["u2", 3], "distinct_id": "u2"}',
            '{"distinct_id": ""}',
            '{"distinct_ids": []}',
            '{"distinct_id": "u4", "plan": "paid"}',
            '{"distinct_id": "u5", "cohorts": [99]}',
            "{",
            '{"distinct_id": "%s"}' % ("x" * 201),
            '{"distinct_id": "u6", "properties": {"deep": %s}}' % ("[" * 70 + "]" * 70),
            '{"distinct_id": "u1", "properties": {"seats": 2}}',
        )
        outcome = answer.json()
        people = {person.distinct_ids[0]: person.properties for person in await api.store.sample_persons(1, 10)}
    assert answer.status_code == 200
    assert [(it["line"], it["code"]) for it in outcome["problems"]] == [
        (4, "invalid"), (5, "invalid"), (6, "undecodable"), (8, "undecodable"), (9, "invalid"), (10, "undecodable"),
        (7, "refused"),
    ]  # fmt: skip
    assert (outcome["stored"], outcome["created"], outcome["updated"], outcome["refused"]) == (3, 2, 1, 7)
    assert people == {"u1": {"plan": "paid", "seats": 2}, "3": {}}


async def test_persons__many_wrong_lines__are_counted_and_the_first_are_told() -> None:
    """An answer stays small however wrong a file is."""
    async with managing() as api:
        outcome = (await api.send_lines("persons", *["{"] * 150)).json()
        assert (outcome["refused"], len(outcome["problems"])) == (150, 100)


async def test_persons__of_no_project__are_refused() -> None:
    """There is nobody to store where there is no project."""
    async with managing() as api:
        assert (await api.post("/api/projects/9/persons", content=b"{}")).status_code == 404


async def test_groups__lines_good_and_bad__are_judged_one_by_one() -> None:
    """Groups are stored like persons, of types that there are."""
    async with managing() as api:
        answer = await api.send_lines(
            "groups",
            '{"type": "company", "key": "acme", "properties": {"seats": 5}}',
            '{"type": "company", "key": 7}',
            '{"type": "company", "key": ""}',
            '{"type": "planet", "key": "mars"}',
        )
        outcome = answer.json()
        groups = await api.store.sample_groups(1, "company", 10)
    assert (outcome["created"], outcome["refused"]) == (2, 2)
    assert {group.key: group.properties for group in groups} == {"acme": {"seats": 5}, "7": {}}


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/plain; charset=utf-8"])
async def test_members__of_known_and_unknown_persons__are_put_in(kind: str) -> None:
    """Members come as JSON strings, or as plain lines of text; who is unknown is told."""
    async with managing() as api:
        await api.send_lines("persons", *(f'{{"distinct_id": "u{n}"}}' for n in range(4)))
        path = f"cohorts/{await api.make_cohort()}/members"

        def lines(*ids: str) -> list[str]:
            return list(ids) if kind.startswith("text") else [f'"{it}"' for it in ids]

        outcome = (await api.send_lines(path, *lines("u1", "nobody", "u2"), content_type=kind)).json()
        assert (outcome["stored"], outcome["problems"][0]["line"]) == (2, 2)
        assert (await api.get(f"{ONE}/{path}")).json() == {"count": 2}
        await api.send_lines(path, *lines("u2"), method="DELETE", content_type=kind)
        assert (await api.get(f"{ONE}/{path}")).json() == {"count": 1}
        await api.send_lines(f"{path}?replace=true", *lines("u0", "u3"), content_type=kind)
        assert (await api.get(f"{ONE}/{path}")).json() == {"count": 2}
        await api.send_lines(f"{path}?replace=true", content_type=kind)
        assert (await api.get(f"{ONE}/{path}")).json() == {"count": 0}


async def test_members__of_a_cohort_that_cannot_have_them__are_refused() -> None:
    """Nobody is put into a cohort whose members follow from its filters, nor into one that is deleted or not there."""
    async with managing() as api:
        filters = {"properties": {"type": "OR", "values": []}}
        dynamic = (await api.post(f"{ONE}/cohorts", json={"name": "d", "filters": filters})).json()["id"]
        deleted = await api.make_cohort("gone")
        await api.delete(f"{ONE}/cohorts/{deleted}")
        for cohort_id, status in ((dynamic, 400), (deleted, 400), (99, 404), ("x", 404)):
            for method in ("GET", "POST", "DELETE"):
                answer = await api.request(method, f"{ONE}/cohorts/{cohort_id}/members", content='"u1"')
                assert answer.status_code == status


async def test_upload__compressed__is_inflated() -> None:
    """A large file may be sent compressed."""
    async with managing() as api:
        content = gzip.compress(b'{"distinct_id": "u1"}\n' * 3)
        answer = await api.post(f"{ONE}/persons", content=content, headers={"content-encoding": "gzip"})
        assert (answer.json()["created"], answer.json()["updated"]) == (1, 2)


async def test_upload__each_batch__is_stored_before_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender is only as fast as the store, and a stream needs no more memory than a batch."""
    monkeypatch.setattr(reading, "BATCH_ROWS", 2)
    sent = 0
    stored: list[int] = []
    original = FakeManagedStore.upsert_persons

    async def upsert(self: FakeManagedStore, project_id: int, persons: Any) -> Upserted:
        stored.append(sent)
        return await original(self, project_id, persons)

    async def lines() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(6):
            sent += 1
            yield b'{"distinct_id": "u%d"}\n' % number

    async with managing() as api:
        monkeypatch.setattr(FakeManagedStore, "upsert_persons", upsert)
        assert (await api.post(f"{ONE}/persons", content=lines())).json()["created"] == 6
    assert stored == [2, 4, 6]


@pytest.mark.parametrize("how", ["store", "gzip"])
async def test_upload__that_fails_midway__tells_what_is_stored(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an answer counts as stored is stored, also when the rest is not."""
    monkeypatch.setattr(reading, "BATCH_ROWS", 2)

    async with managing() as api:

        async def lines() -> AsyncIterator[bytes]:
            content = b"".join(b'{"distinct_id": "u%d"}\n' % number for number in range(4))
            content = gzip.compress(content) if how == "gzip" else content
            yield content[:45] if how == "store" else content[:-4]
            if how == "store":
                api.store.error = StoreUnavailable("down")
                yield content[45:]

        headers = {"content-encoding": "gzip"} if how == "gzip" else {}
        answer = await api.post(f"{ONE}/persons", content=lines(), headers=headers)
        api.store.error = None
        stored = answer.json()["stored"]
        assert (answer.status_code, answer.json()["code"]) == {
            "store": (503, "dependency_unavailable"),
            "gzip": (400, "undecodable_body"),
        }[how]
        assert stored == {"store": 2, "gzip": 4}[how]
        assert await known(api) == [f"u{number}" for number in range(stored)]


async def test_upload__cancelled_midway__gives_its_place_back() -> None:
    """api.max_uploads: who comes beyond it is told to come again, and a place that was given up is had by the next."""
    async with managing(Api(max_uploads=1)) as api:

        async def upload() -> int:
            return (await api.send_lines("persons", '{"distinct_id": "u1"}')).status_code

        gate = asyncio.Event()
        original = api.store.upsert_persons

        async def upsert(*args: Any) -> Upserted:
            await gate.wait()
            return await original(*args)

        api.store.upsert_persons = upsert  # type: ignore[method-assign]
        first = asyncio.ensure_future(upload())
        await settle()
        assert await upload() == 503
        first.cancel()
        await settle()
        gate.set()
        assert await upload() == 200


@pytest.mark.parametrize(("room", "status"), [(-1, 413), (0, 200)])
async def test_api_max_upload_bytes__bounds_a_stream(room: int, status: int) -> None:
    """api.max_upload_bytes: a longer stream is refused, and the lines within the bound are stored."""
    lines = b'{"distinct_id": "u1"}\n{"distinct_id": "u2"}\n'
    async with managing(Api(max_upload_bytes=len(lines) + room)) as api:

        async def pieces() -> AsyncIterator[bytes]:
            yield lines[:30]
            yield lines[30:]

        answer = await api.post(f"{ONE}/persons", content=pieces())
        assert answer.status_code == status
        assert answer.json()["stored"] == (2 if status == 200 else 1)
        assert len(await known(api)) == answer.json()["stored"]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LIKE_ROWS = st.dictionaries(
    st.sampled_from(["distinct_id", "distinct_ids", "properties", "cohorts", "type", "key", "odd"]), ODD, max_size=4
)
LINES = st.lists(st.builds(lambda row: json.dumps(row).encode(), ODD | LIKE_ROWS) | st.binary(max_size=20), max_size=8)


@given(st.sampled_from(["persons", "groups", "cohorts/1/members"]), LINES)
@settings(max_examples=60, deadline=None, derandomize=True)
async def test_upload__of_anything__judges_each_line(path: str, lines: list[bytes]) -> None:
    """Whatever stands in a stream, each line that is not blank is either stored or refused."""
    async with managing() as api:
        await api.make_cohort()
        content = b"\n".join([*lines, b"1" * 5000, b'{"distinct_id": %s}' % (b"1" * 5000)])
        answer = await api.post(f"{ONE}/{path}", content=content)
        assert answer.status_code == 200
        outcome = answer.json()
        assert outcome["stored"] + outcome["refused"] == sum(bool(line.strip()) for line in content.split(b"\n"))

"""One document: built in bounded pieces, in force only when whole, and compared in every place it is in."""

import asyncio
import hashlib
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.builder import Builder as Settings
from evaluator.definitions import CohortDocument, FlagDocument, ProjectDocument
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import PART_BYTES, Job, Published
from gateway.errors import StoreError, StoreTimeout
from gateway.ports import ETAG_CHARACTERS
from gateway.services.publishing import SHELF_REST_S, Publisher, Refused, Unsound, pieces
from tests.builders import flag
from tests.fake_builds import FakeBuilds, FakeShelf
from tests.fakes import FakeClock

LEASE_S = 30.0
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def items(fields: Sequence[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Documents with any of these members, and others that are nobody's business."""
    names = st.sampled_from([*fields, "created_by", "team_id", "last_modified"])
    members = st.dictionaries(names.filter(lambda it: it not in {"id", "deleted"}), json, max_size=5)
    return st.lists(members, max_size=8).map(lambda found: [{**it, "id": n} for n, it in enumerate(found)])


class Bench:
    """A publisher of one project."""

    def __init__(self, *, has_shelf: bool = True, **settings: Any) -> None:
        self.clock = FakeClock()
        self.store = FakeBuilds(self.clock)
        self.shelf = FakeShelf()
        self.metrics = BuilderMetrics()
        shelf = self.shelf if has_shelf else None
        self.publisher = Publisher(self.store, shelf, Settings(**settings), self.clock, self.metrics)

    async def job(self) -> Job:
        (job,) = await self.store.claim(1, LEASE_S)
        return job

    async def publish(self) -> Published:
        """What is published of an edited project, which is given back."""
        job = await self.job()
        found = await self.publisher.publish(job)
        assert found is not None
        await self.store.finish(job, found[0].version, pace_ms=0, is_announced=True, is_verified=True)
        return found[0]


@given(items(FlagDocument.__struct_fields__), items(CohortDocument.__struct_fields__), st.text(max_size=5))
async def test_document__of_any_project__is_what_an_encoder_would_make(
    flags: list[dict[str, Any]], cohorts: list[dict[str, Any]], name: str
) -> None:
    """Written in pieces, it is the same bytes as encoded in one, with what evaluation knows and nothing else."""
    bench = Bench()
    shell = {"id": 1, "token": "phc_1", "name": name, "timezone": "UTC", "owner": "ann"}
    bench.store.edit(1, *flags, shell=msgspec.json.encode(shell))
    cohort_items = bench.store.projects[1].items["cohort"]
    cohort_items.update((it["id"], msgspec.json.encode(it)) for it in cohorts)
    published = await bench.publish()

    def lean(found: list[dict[str, Any]], shape: Any) -> list[msgspec.Raw]:
        names = shape.__struct_fields__
        return [msgspec.Raw(msgspec.json.encode({field: it[field] for field in names if field in it})) for it in found]

    project = ProjectDocument(
        id=1, token="phc_1", name=name, flags=lean(flags, FlagDocument), cohorts=lean(cohorts, CohortDocument)
    )
    document = bench.store.document(1)
    assert document == msgspec.json.encode(project)
    assert (published.flags, published.cohorts, published.bytes) == (len(flags), len(cohorts), len(document))
    assert published.etag == hashlib.sha256(document).hexdigest()[:ETAG_CHARACTERS]
    await bench.publisher.verify(published)
    assert await bench.publisher.is_as_stored(published)


async def test_etag__of_equal_content__is_equal() -> None:
    """An edit that is taken back has SDKs and gateways find what they have, under a newer version."""
    bench = Bench()
    etags, versions = [], []
    for active in (True, False, True):
        bench.store.edit(1, flag("beta", id=1, active=active))
        published = await bench.publish()
        etags.append(published.etag)
        versions.append(published.version)
    assert etags[0] == etags[2] != etags[1]
    assert versions == sorted(set(versions))


class Endless(FakeBuilds):
    """Makes up 5,000 flags as they are read, and keeps nothing of what is written but its size."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.sizes: list[int] = []
        self.size = 0
        self.most_in_hand = 0
        self.read = 0

    @asynccontextmanager
    async def read_project(self, project_id: int, build: str) -> AsyncIterator[Any]:
        source = self

        class Source:
            version, token, shell = 1, "phc_1", b'{"id":1,"token":"phc_1"}'

            async def items(self, kind: str) -> AsyncIterator[Sequence[bytes]]:
                if kind == "flag":
                    for start in range(0, 5000, 50):
                        batch = [msgspec.json.encode(flag("x" * 2000, id=start + number)) for number in range(50)]
                        source.read += sum(map(len, batch))
                        source.most_in_hand = max(source.most_in_hand, source.read - source.size)
                        yield batch

            async def put_part(self, number: int, part: bytes) -> None:
                assert number == len(source.sizes)
                source.sizes.append(len(part))
                source.size += len(part)

        yield Source()

    async def put_in_force(self, job: Job, published: Published, parts: int) -> bool:
        assert (job.project_id, published.bytes, parts) == (1, self.size, len(self.sizes))
        return True


async def test_publish__project_of_five_thousand_flags__is_never_all_in_memory() -> None:
    """No more than a batch and a part are in hand at any time, however large the project is."""
    store = Endless()
    store.edit(1)
    (job,) = await store.claim(1, LEASE_S)
    publisher = Publisher(store, None, Settings(), FakeClock(), BuilderMetrics())
    tracemalloc.start()
    try:
        found = await publisher.publish(job)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is not None
    assert found[0].flags == 5000
    batch = store.read / 100
    assert store.size > 10_000_000
    assert set(store.sizes[:-1]) == {PART_BYTES}
    assert store.sizes[-1] <= PART_BYTES
    assert store.most_in_hand <= PART_BYTES + batch * 1.1
    assert peak < 4 * (PART_BYTES + batch)


async def test_publish__larger_than_allowed__is_refused_before_it_is_read_to_its_end() -> None:
    """It says what the limit is and which setting that is; the last good document stays in force, whole."""
    bench = Bench(max_document_bytes=2000)
    bench.store.edit(1, flag("a", id=1))
    good = await bench.publish()
    before = bench.store.document(1)
    bench.store.edit(1, *(flag("x" * 500, id=number) for number in range(1, 200)))
    bench.store.calls.clear()
    job = await bench.job()
    with pytest.raises(Refused, match=r"larger than 2000 bytes \(builder\.max_document_bytes\)"):
        await bench.publisher.publish(job)
    assert bench.store.calls.count("items") < 5
    await bench.store.fail(job, "", rest_s=1, pace_ms=0, is_refused=True)
    assert (bench.store.in_force[1], bench.store.document(1)) == (good, before)


@pytest.mark.parametrize("shell", [b'{"id": "one", "token": "x"}', b"[]", b'{"token": "x"}', b"{"])
async def test_publish__shell_that_makes_no_sense__raises(shell: bytes) -> None:
    """Nothing is published of a project that does not decode."""
    bench = Bench()
    bench.store.edit(1, shell=shell)
    with pytest.raises(msgspec.MsgspecError):
        await bench.publisher.publish(await bench.job())
    assert bench.store.in_force == {}
    assert bench.store.open == 0


async def test_publish__already_there__is_not_written_again() -> None:
    """A build that was given up after it had put its document in force is only to be finished."""
    bench = Bench()
    bench.store.edit(1, flag("a", id=1))
    assert await bench.publisher.publish(await bench.job()) is not None
    bench.clock.advance(LEASE_S + 1)
    bench.store.calls.clear()
    found = await bench.publisher.publish(await bench.job())
    assert found == (bench.store.in_force[1], False)
    assert "put_part" not in bench.store.calls


async def test_publish__project_gone__is_nothing() -> None:
    """A project that was deleted since needs nothing."""
    bench = Bench()
    bench.store.edit(1)
    job = await bench.job()
    del bench.store.projects[1]
    assert await bench.publisher.publish(job) is None


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "none"])
async def test_verify__damaged_parts__are_unsound(damage: str) -> None:
    """What is read back must be what was written, to the byte."""
    bench = Bench()
    bench.store.edit(1, flag("a", id=1))
    published = await bench.publish()
    parts = bench.store.parts[1, published.build]
    whole = parts.pop()
    parts += {"changed": [whole[:-2] + b" }"], "missing": [], "more": [whole, b"x"], "none": [whole]}[damage]
    if damage == "none":
        await bench.publisher.verify(published)
        return
    with pytest.raises(Unsound):
        await bench.publisher.verify(published)


async def test_is_as_stored__compares_content_and_not_versions() -> None:
    """Rows changed without a version differ, also when they make no sense or are older than what is published; an edit
    since does not count, as it has its own mark."""
    bench = Bench()
    bench.store.edit(1, flag("a", id=1))
    published = await bench.publish()
    shell = bench.store.projects[1].shell
    for changed in (b'{"id":1,"token":"phc_1","name":"changed"}', b"[]"):
        bench.store.edit_unseen(1, changed)
        assert not await bench.publisher.is_as_stored(published)
    bench.store.edit_unseen(1, shell)
    bench.store.projects[1].version -= 1
    assert await bench.publisher.is_as_stored(published)
    bench.store.edit_unseen(1, b'{"id":1,"token":"phc_1","name":"restored"}')
    assert not await bench.publisher.is_as_stored(published)
    bench.clock.advance(1)
    bench.store.edit(1, name="edited")
    assert await bench.publisher.is_as_stored(published)
    del bench.store.projects[1]
    assert await bench.publisher.is_as_stored(published)


async def test_share__shared_cache_fails__is_left_alone_for_a_while() -> None:
    """Publishing goes on without it, and it is tried again after a rest."""
    bench = Bench()
    bench.store.edit(1, flag("a", id=1))
    published = await bench.publish()
    bench.shelf.errors["keep"] = StoreTimeout("redis: no answer in time")
    assert not await bench.publisher.share(published)
    assert not bench.publisher.can_share
    assert not await bench.publisher.share(published)
    assert bench.shelf.calls == ["keep"]
    bench.clock.advance(SHELF_REST_S)
    bench.shelf.errors.clear()
    assert await bench.publisher.share(published)
    assert bench.shelf.entries["phc_1"] == (1, published.version, bench.store.document(1))
    assert await bench.publisher.is_shared(published)
    bench.shelf.errors["holds"] = StoreError("redis: gone")
    assert await bench.publisher.is_shared(published) is None


async def test_share__shared_cache_hangs__takes_only_its_part_of_the_lease() -> None:
    """A cache that is slow without failing does not cost a build its lease."""
    bench = Bench(lease_s=1.0)
    bench.store.edit(1, flag("a", id=1))
    published = await bench.publish()
    bench.shelf.hangs["keep"] = asyncio.Event()
    async with asyncio.timeout(0.9):
        assert not await bench.publisher.share(published)


async def test_share__without_a_shared_cache__is_done() -> None:
    """There is nothing to be missed."""
    bench = Bench(has_shelf=False)
    bench.store.edit(1, flag("a", id=1))
    published = await bench.publish()
    assert bench.publisher.can_share
    assert await bench.publisher.share(published)
    assert await bench.publisher.is_shared(published)


async def test_pieces__of_an_empty_project__are_a_document() -> None:
    """No flags and no cohorts are lists, too."""
    bench = Bench()
    bench.store.edit(1)
    counts: Counter[str] = Counter()
    async with bench.store.read_project(1, "") as source:
        assert source is not None
        document = b"".join([piece async for piece in pieces(source, counts)])
    decoded = msgspec.json.decode(document)
    assert (decoded["flags"], decoded["cohorts"], counts.total()) == ([], [], 0)

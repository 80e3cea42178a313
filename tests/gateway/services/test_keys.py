"""Personal API keys: what is kept of them, when they count, and what they may do."""

import hashlib

import pytest

from gateway.editing_ports import PersonalKey
from gateway.errors import AuthenticationFailed, Invalid, NotFound, PermissionDenied
from gateway.services.keys import MAX_PROJECTS, SCOPES, KeyService, covers, has_project, has_scope
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock


@pytest.fixture
def store() -> FakeManagedStore:
    return FakeManagedStore()


@pytest.fixture
def keys(store: FakeManagedStore) -> KeyService:
    return KeyService(store, FakeClock())


def key(*scopes: str, projects: tuple[int, ...] | None = None) -> PersonalKey:
    clock = FakeClock()
    return PersonalKey(
        digest="", hint="", name="k", scopes=scopes, projects=projects, created_at=clock.now(), created_by="test"
    )


async def test_key__made__is_kept_by_its_digest_alone(keys: KeyService, store: FakeManagedStore) -> None:
    """Whoever reads the store cannot call the API."""
    text, made = await keys.create("deploy", ["feature_flag:write"], [1], "me")
    (kept,) = await store.list_keys()
    assert text.startswith("phx_")
    assert len(text) == 4 + 43
    assert kept == made
    assert kept.digest == hashlib.sha256(text.encode()).hexdigest()
    assert kept.hint == text[-4:]
    assert text not in repr(kept)


async def test_key__made_twice__is_another_one(keys: KeyService) -> None:
    """No key can be told from another."""
    assert (await keys.create("a", ["*"], None, "me"))[0] != (await keys.create("a", ["*"], None, "me"))[0]


async def test_key__shown__is_the_one_that_was_made(keys: KeyService) -> None:
    """A key is known by its text."""
    await keys.create("other", ["*"], None, "me")
    text, made = await keys.create("deploy", ["feature_flag:write"], [1], "me")
    assert await keys.verify(text) == made


async def test_key__revoked__counts_no_more_from_the_next_call_on(keys: KeyService) -> None:
    """Nothing remembers a key that was good a moment ago."""
    text, made = await keys.create("deploy", ["*"], None, "me")
    await keys.verify(text)
    await keys.revoke(made.id)
    with pytest.raises(AuthenticationFailed):
        await keys.verify(text)
    assert await keys.list_keys() == []
    with pytest.raises(NotFound):
        await keys.revoke(made.id)


@pytest.mark.parametrize(
    "text", ["", "phx_", "phc_" + "a" * 43, "phx_" + "a" * 200, "phx_" + "ä" * 43, "phx_" + "a b" * 15]
)
async def test_key__cannot_be_one__does_not_reach_the_store(
    keys: KeyService, store: FakeManagedStore, text: str
) -> None:
    """What does not look like a key costs no query."""
    with pytest.raises(AuthenticationFailed):
        await keys.verify(text)
    assert store.calls == []


async def test_key__unknown__is_refused(keys: KeyService) -> None:
    """A key that was never made does not count."""
    with pytest.raises(AuthenticationFailed):
        await keys.verify("phx_" + "a" * 43)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": " "}, "$.label"),
        ({"name": "a" * 201}, "$.label"),
        ({"name": "a\nb"}, "$.label"),
        ({"scopes": []}, "$.scopes"),
        ({"scopes": ["*", "flags:read"]}, "$.scopes[1]"),
        ({"projects": []}, "$.scoped_teams"),
        ({"projects": [0]}, "$.scoped_teams"),
        ({"projects": [2**63]}, "$.scoped_teams"),
        ({"projects": list(range(1, MAX_PROJECTS + 2))}, "$.scoped_teams"),
    ],
)
async def test_key__made_of_nonsense__is_refused_with_its_path(
    keys: KeyService, fields: dict[str, object], path: str
) -> None:
    """Whoever makes a key learns what is wrong with it."""
    with pytest.raises(Invalid) as refused:
        await keys.create(**{"name": "a", "scopes": ["*"], "projects": None, "by": "me", **fields})  # type: ignore[arg-type]
    assert [it.path for it in refused.value.problems] == [path]


@pytest.mark.parametrize(
    ("has", "asked", "expected"),
    [
        ("feature_flag:read", "feature_flag:read", True),
        ("feature_flag:write", "feature_flag:read", True),
        ("feature_flag:read", "feature_flag:write", False),
        ("cohort:write", "feature_flag:read", False),
        ("*", "personal_api_key:write", True),
        ("feature_flag:write", "*", False),
    ],
)
def test_scope__asked_for__is_there_or_not(has: str, asked: str, expected: bool) -> None:
    """Who may write may read, and nothing else follows from anything."""
    assert has_scope(key(has), asked) is expected


def test_project__asked_for__is_there_or_not() -> None:
    """A key is for the projects it names, or for all."""
    assert has_project(key("*"), 7)
    assert has_project(key("*", projects=(7,)), 7)
    assert not has_project(key("*", projects=(7,)), 8)


@pytest.mark.parametrize("scope", SCOPES)
def test_key__for_everything__covers_each_scope(scope: str) -> None:
    """A key with "*" may make any key."""
    assert covers(key("*"), key(scope))


@pytest.mark.parametrize(
    ("maker", "made"),
    [
        (key("feature_flag:read"), key("feature_flag:write")),
        (key("feature_flag:write"), key("*")),
        (key("*", projects=(1,)), key("*", projects=(1, 2))),
        (key("*", projects=(1,)), key("*")),
    ],
)
async def test_key__made_by_one_that_has_less__is_refused(
    keys: KeyService, maker: PersonalKey, made: PersonalKey
) -> None:
    """No key gives another more than it has itself."""
    with pytest.raises(PermissionDenied):
        await keys.create("a", made.scopes, made.projects, "me", maker)


async def test_keys__listed_by_one_that_has_less__are_those_it_could_have_made(keys: KeyService) -> None:
    """A small key neither sees nor revokes a greater one."""
    _, great = await keys.create("great", ["*"], None, "me")
    _, small = await keys.create("small", ["feature_flag:read"], [1], "me")
    reader = key("feature_flag:write", projects=(1,))
    assert await keys.list_keys(reader) == [small]
    with pytest.raises(NotFound):
        await keys.revoke(great.id, reader)
    await keys.revoke(small.id, reader)
    assert await keys.list_keys() == [great]

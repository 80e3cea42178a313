"""What every managed store promises of personal keys."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.editing_ports import ManagedStore, PersonalKey
from tests.builders import NOW
from tests.contracts.managed import ADAPTERS, opened

KEY = PersonalKey(
    digest="abc", hint="wxyz", name="Ann's", scopes=("flag:read", "flag:write"), created_at=NOW, created_by="ann"
)


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ManagedStore]:
    async with opened(request, tmp_path) as store:
        yield store


async def test_key__that_is_added__is_found_by_its_digest(store: ManagedStore) -> None:
    """All of it comes back; a digest that nobody has, or could have, is no error."""
    limited = replace(KEY, digest="def", projects=(1, 2), scopes=())
    first, second = await store.add_key(KEY), await store.add_key(limited)
    assert await store.find_key("abc") == replace(KEY, id=first)
    assert await store.find_key("def") == replace(limited, id=second)
    assert [await store.find_key(digest) for digest in ("", "ABC", "\0", "\ud800")] == [None] * 4
    assert await store.list_keys() == [replace(KEY, id=first), replace(limited, id=second)]


async def test_key__for_no_projects__is_not_one_for_all(store: ManagedStore) -> None:
    """An empty list of projects means none of them."""
    await store.add_key(replace(KEY, projects=()))
    found = await store.find_key("abc")
    assert found is not None
    assert found.projects == ()


async def test_key__that_is_revoked__says_since_when(store: ManagedStore) -> None:
    """It is revoked once; a second time changes nothing, nor does a key that does not exist."""
    key_id = await store.add_key(KEY)
    await store.add_key(replace(KEY, digest="other"))
    assert await store.revoke_key(key_id, NOW)
    assert not await store.revoke_key(key_id, NOW + timedelta(hours=1))
    assert not await store.revoke_key(99, NOW)
    assert [key.revoked_at for key in await store.list_keys()] == [NOW, None]

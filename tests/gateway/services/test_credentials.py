"""Who may read a project's definitions, and what the others are told."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from config.clients import Keys
from config.reload import Live
from config.settings import Settings
from evaluator.snapshot import Snapshot
from gateway.document import WholeProject
from gateway.editing_ports import Actor
from gateway.errors import AuthenticationFailed, NotAuthenticated, PermissionDenied, StoreUnavailable, Unavailable
from gateway.ports import Deadline
from gateway.services.credentials import CredentialService, token_finder
from gateway.services.keys import KeyService
from tests.builders import project, snapshot
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock, FakeStore
from tests.gateway.assembly import guarded

UNKNOWN = "phx_" + "u" * 43


class World:
    """A project with two secret tokens, and a store of keys."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeManagedStore(self.clock)
        self.keys = KeyService(self.store, self.clock)
        self.guard = guarded(self.clock, "keys")
        self.live = Live(Settings(keys=Keys(ttl_s=5)))
        self.snapshot: Snapshot = snapshot(id=1, secret_tokens=["phs_present", "phs_backup"])
        self.service = self._service(self.keys, self.store)

    def _service(self, keys: KeyService | None, managed: Any, store: Any = None) -> CredentialService:
        return CredentialService(keys, token_finder(store or FakeStore(), managed), self.guard, self.live, self.clock)

    def of_a_file(self, store: Any = None) -> CredentialService:
        return self._service(None, None, store)

    async def key(self, *scopes: str, projects: tuple[int, ...] | None = None) -> str:
        text, _ = await self.keys.create("k", scopes or ["feature_flag:read"], projects, "test")
        return text

    async def admit(self, sent: str | None, service: CredentialService | None = None) -> Any:
        header = None if sent is None else sent.encode("latin-1")
        return await (service or self.service).admit(header, self.snapshot, Deadline(self.clock, 1))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.guard:
        yield world


@pytest.mark.parametrize("sent", ["Bearer phs_present", "bearer  phs_backup "])
async def test_admit__secret_token__opens_the_project_without_the_store(world: World, sent: str) -> None:
    """Either of a project's secret tokens will do, and no store is needed to tell."""
    world.store.error = StoreUnavailable("x")
    assert await world.admit(sent) is None


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer  ", "Basic cGhzX3ByZXNlbnQ=", "phs_present"])
async def test_admit__nothing_usable_sent__says_so(world: World, sent: str | None) -> None:
    """Whoever sent no credential is told that, and not that it is wrong."""
    with pytest.raises(NotAuthenticated, match=r"^Authentication credentials were not provided\.$"):
        await world.admit(sent)


@pytest.mark.parametrize("text", ["phs_", "phs_presen", "phs_other", "phc_test", "phs_ä"])
async def test_admit__no_token_of_the_project__is_refused(world: World, text: str) -> None:
    """A secret token opens its own project, and the public one opens none."""
    with pytest.raises(AuthenticationFailed, match=r"^Secret API token is invalid\.$"):
        await world.admit(f"Bearer {text}")
    assert world.store.calls == []


@pytest.mark.parametrize("scope", ["feature_flag:read", "feature_flag:write", "*"])
@pytest.mark.parametrize("projects", [None, (1, 2)])
async def test_admit__personal_key_for_it__opens_the_project(
    world: World, scope: str, projects: tuple[int, ...] | None
) -> None:
    """A key that may read flags, for all projects or for this one, is let in, and known by its digest."""
    text = await world.key(scope, projects=projects)
    key = await world.admit(f"Bearer {text}")
    assert key == await world.keys.verify(text)


async def test_admit__personal_key_for_something_else__is_denied(world: World) -> None:
    """Who is known and may not is told which of both it is."""
    scopeless = await world.key("project:read", "cohort:write")
    with pytest.raises(PermissionDenied) as caught:
        await world.admit(f"Bearer {scopeless}")
    assert caught.value.detail == "Personal API key lacks required scopes (feature_flag:read or feature_flag:write)."
    elsewhere = await world.key("*", projects=(2,))
    with pytest.raises(PermissionDenied, match="not for project 1"):
        await world.admit(f"Bearer {elsewhere}")


@pytest.mark.parametrize(("text", "calls"), [(UNKNOWN, ["find_key"]), ("phx_short", []), ("phx_" + "ä" * 43, [])])
async def test_admit__no_such_key__is_refused(world: World, text: str, calls: list[str]) -> None:
    """A key that was never made is wrong; what cannot be one costs no look-up."""
    with pytest.raises(AuthenticationFailed):
        await world.admit(f"Bearer {text}")
    assert world.store.calls == calls


async def test_admit__key_is_used_over_and_over__asks_once_in_a_while(world: World) -> None:
    """Polls do not become look-ups; a key that was revoked counts no longer than that."""
    text = await world.key()
    world.store.calls.clear()
    for _ in range(10):
        await world.admit(f"Bearer {text}")
    assert world.store.calls == ["find_key"]
    await world.keys.revoke((await world.keys.verify(text)).id)
    await world.admit(f"Bearer {text}")
    world.clock.advance(5)
    with pytest.raises(AuthenticationFailed):
        await world.admit(f"Bearer {text}")


async def test_admit__store_is_down__known_keys_count_and_others_cannot_be_told(world: World) -> None:
    """An outage locks out nobody who was in, and never says that a key is wrong."""
    text = await world.key()
    await world.admit(f"Bearer {text}")
    world.clock.advance(60)
    world.store.error = StoreUnavailable("x")
    assert await world.admit(f"Bearer {text}") is not None
    with pytest.raises(Unavailable):
        await world.admit(f"Bearer {UNKNOWN}")
    with pytest.raises(AuthenticationFailed):
        await world.admit("Bearer phx_short")
    assert text not in repr(world.service)


async def test_admit__store_is_a_file__says_that_it_has_no_keys(world: World) -> None:
    """Where keys cannot be kept, their owner learns what to use instead."""
    with pytest.raises(AuthenticationFailed, match="secret token"):
        await world.admit(f"Bearer {UNKNOWN}", world.of_a_file())
    assert await world.admit("Bearer phs_present", world.of_a_file()) is None


async def test_token_of__project__is_what_the_store_has(world: World) -> None:
    """A project is found by its number, and its token is remembered through an outage."""
    deadline = Deadline(world.clock, 1)
    project_id = await world.store.create_project(b'{"name":"x","token":"phc_x"}', "phc_x", Actor("me"))
    assert project_id is not None
    assert await world.service.token_of(project_id, deadline) == "phc_x"
    assert await world.service.token_of(project_id + 1, deadline) is None
    world.clock.advance(60)
    world.store.error = StoreUnavailable("x")
    assert await world.service.token_of(project_id, Deadline(world.clock, 1)) == "phc_x"
    with pytest.raises(Unavailable):
        await world.service.token_of(project_id + 1, Deadline(world.clock, 1))


async def test_token_of__store_is_a_file__is_what_stands_in_it(world: World) -> None:
    """Without a managed store the file itself is looked through."""
    store = FakeStore()
    whole = msgspec.convert(project(id=3, token="phc_three"), WholeProject)
    await store.import_projects([whole], lambda done, total: None)
    service = world.of_a_file(store)
    deadline = Deadline(world.clock, 1)
    assert (await service.token_of(3, deadline), await service.token_of(4, deadline)) == ("phc_three", None)

"""In-memory stand-ins for the ports. Fakes, not mocks: they keep what they are given and can be told to fail."""

import asyncio
from collections import ChainMap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from evaluator.definitions import InvalidDefinitions
from evaluator.types import Problem
from gateway.document import Progress, WholeProject
from gateway.errors import StoreError
from gateway.ports import Definitions, FactsQuery, StoredFacts


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self._now = datetime(2026, 1, 15, 12, tzinfo=UTC)

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic


class FakeStore:
    """Every store port in memory. `error` is raised by each call, `hang` makes each call wait until it is set."""

    builds = None
    managed = None

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.hang: asyncio.Event | None = None
        self.calls: list[str] = []
        self._projects: dict[int, WholeProject] = {}
        self._versions: dict[int, int] = {}
        self._overrides: dict[tuple[int, int], dict[str, str]] = {}

    async def __aenter__(self) -> "FakeStore":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def load_definitions(self, token: str) -> Definitions | None:
        await self._called("load_definitions")
        project = self._with_token(token)
        return None if project is None else Definitions(project.id, self._versions[project.id], project.definitions())

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        await self._called("definitions_versions")
        found = {token: self._with_token(token) for token in tokens}
        return {token: self._versions[project.id] for token, project in found.items() if project is not None}

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        await self._called("load_facts")
        project = self._projects.get(query.project_id)
        if project is None:
            return StoredFacts()
        groups = {(group.type, group.key): group.properties for group in project.groups}
        facts = StoredFacts(
            groups={kind: groups[kind, key] for kind, key in query.groups if (kind, key) in groups},
            overrides=self._overrides_of(query) if query.wants_overrides else {},
        )
        position = self._person(project.id, query.distinct_ids[0])
        if position is None:
            return facts
        person = project.persons[position]
        return replace(facts, person_properties=person.properties, cohorts=frozenset(person.cohorts))

    def _overrides_of(self, query: FactsQuery) -> dict[str, str]:
        found: dict[str, str] = {}
        for distinct_id in reversed(query.distinct_ids):
            position = self._person(query.project_id, distinct_id)
            if position is not None:
                found |= self._overrides.get((query.project_id, position), {})
        return found

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        await self._called("save_overrides")
        for distinct_id in distinct_ids:
            position = self._person(project_id, distinct_id)
            if position is not None:
                kept = self._overrides.setdefault((project_id, position), {})
                kept.update({key: value for key, value in hash_keys.items() if key not in kept})

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        await self._called("import_projects")
        replaced = {project.id for project in projects}
        others = {project.token for project in self._projects.values() if project.id not in replaced}
        for index, project in enumerate(projects):
            if project.token in others:
                raise InvalidDefinitions([Problem("duplicate", f"$.projects[{index}].token", None, "taken")])
        total = sum(len(project.persons) for project in projects)
        done = 0
        for project in projects:
            self._replace(project)
            done += len(project.persons)
            progress(done, total)

    async def export_projects(self) -> list[WholeProject]:
        await self._called("export_projects")
        return [self._projects[id_] for id_ in sorted(self._projects)]

    def _replace(self, project: WholeProject) -> None:
        before = self._projects.get(project.id)
        kept = {
            distinct_id: overrides
            for position, person in enumerate(before.persons if before else [])
            if (overrides := self._overrides.pop((project.id, position), None))
            for distinct_id in person.distinct_ids
        }
        self._projects[project.id] = project
        self._versions[project.id] = self._versions.get(project.id, 0) + 1
        for position, person in enumerate(project.persons):
            found = [kept[distinct_id] for distinct_id in person.distinct_ids if distinct_id in kept]
            if found:
                self._overrides[project.id, position] = dict(ChainMap(*found))

    def _with_token(self, token: str) -> WholeProject | None:
        return next((project for project in self._projects.values() if project.token == token), None)

    def _person(self, project_id: int, distinct_id: str) -> int | None:
        project = self._projects.get(project_id)
        people = [] if project is None else project.persons
        return next((i for i, person in enumerate(people) if distinct_id in person.distinct_ids), None)

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.hang is not None:
            await self.hang.wait()
        if self.error is not None:
            raise self.error

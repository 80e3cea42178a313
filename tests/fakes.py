"""In-memory stand-ins for the ports. Fakes, not mocks: they keep what they are given and can be told to fail."""

import asyncio
from collections import ChainMap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from evaluator.definitions import InvalidDefinitions
from evaluator.types import Problem
from gateway.document import Progress, WholeProject
from gateway.errors import StoreError
from gateway.ports import Definitions, Person


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
        return None if project is None else Definitions(self._versions[project.id], project.definitions())

    async def definitions_version(self, token: str) -> int | None:
        await self._called("definitions_version")
        project = self._with_token(token)
        return None if project is None else self._versions[project.id]

    async def load_person(self, project_id: int, distinct_id: str) -> Person | None:
        await self._called("load_person")
        position = self._person(project_id, distinct_id)
        if position is None:
            return None
        person = self._projects[project_id].persons[position]
        return Person(person.properties, frozenset(person.cohorts))

    async def load_groups(self, project_id: int, keys: Mapping[str, str]) -> Mapping[str, Mapping[str, object]]:
        await self._called("load_groups")
        project = self._projects.get(project_id)
        groups = {} if project is None else {(group.type, group.key): group.properties for group in project.groups}
        return {kind: groups[kind, key] for kind, key in keys.items() if (kind, key) in groups}

    async def load_overrides(self, project_id: int, distinct_ids: tuple[str, ...]) -> Mapping[str, str]:
        await self._called("load_overrides")
        found: dict[str, str] = {}
        for distinct_id in reversed(distinct_ids):
            position = self._person(project_id, distinct_id)
            if position is not None:
                found |= self._overrides.get((project_id, position), {})
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

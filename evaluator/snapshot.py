"""An immutable, compiled set of one project's flags, and which of them a request asks for.

Nothing here changes after build_snapshot returns; requests share one snapshot without locks.
"""

import hashlib
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from evaluator.compile import NO_DEPENDENCY, UNDECODABLE, Compiler, Project, dependencies_of
from evaluator.definitions import CohortDocument, FlagDocument, InvalidDefinitions, ProjectDocument, decode
from evaluator.dependencies import Graph, build_graph, with_dependencies
from evaluator.flag import Flag, off, unresolved
from evaluator.frame import Frame
from evaluator.match import Match, MurmurRollout, Rollout
from evaluator.types import Context, Encode, Outcome, Problem, Runtime

ETAG_CHARACTERS: Final = 32
SURVEY_PREFIX: Final = "survey-targeting-"


class Selection:
    """Flags in the order they are evaluated: plain rollouts, which one tight loop can do, and then all others.

    Of the others, dependencies come before what depends on them, and leave their outcomes in the frame.
    """

    __slots__ = ("continuous", "flags", "is_cyclic", "matchers", "murmur_rollouts", "rollouts")

    def __init__(self, flags: Iterable[Flag], depended_on: frozenset[int]) -> None:
        flags = tuple(flags)
        plain = [flag for flag in flags if flag.rollout and flag.document.id not in depended_on]
        others = [flag for flag in flags if not flag.rollout or flag.document.id in depended_on]
        self.flags: Sequence[Flag] = (*plain, *others)
        rows = [flag.rollout for flag in plain if flag.rollout]
        # A project has rows of one kind alone, for all of its flags are hashed in one way.
        self.rollouts: Sequence[Rollout] = [row for row in rows if not isinstance(row[0], bytes)]
        self.murmur_rollouts: Sequence[MurmurRollout] = [row for row in rows if isinstance(row[0], bytes)]
        self.matchers = tuple(_remembering(flag) if flag.document.id in depended_on else flag.match for flag in others)
        self.continuous = tuple(flag.document.key for flag in flags if flag.has_continuity)
        self.is_cyclic = any(flag.is_cyclic for flag in flags)


def _remembering(flag: Flag) -> Match:
    """The flag's matcher, leaving what it finds where dependents look for it."""
    match, flag_id = flag.match, flag.document.id

    def remember(frame: Frame) -> Outcome | None:
        outcome = frame.results[flag_id] = match(frame)
        return outcome

    return remember


class Snapshot:
    """The compiled flags of a project, in the order of its document, with what was found wrong on the way."""

    __slots__ = (
        "_by_runtime",
        "_dependencies",
        "_graph",
        "_has_contexts",
        "_ids",
        "_places",
        "bucketing",
        "etag",
        "flags",
        "inactive",
        "name",
        "problems",
        "project_id",
        "reads_clock",
        "secret_tokens",
        "token",
        "version",
    )

    def __init__(
        self,
        project: ProjectDocument,
        version: int,
        etag: str,
        *,
        flags: Sequence[Flag],
        graph: Graph,
        dependencies: dict[int, frozenset[int]],
        problems: Iterable[Problem],
        inactive: Iterable[str],
        reads_clock: bool,
    ) -> None:
        """`flags` stand in the order of the graph; `etag` is the same for the same document, whoever compiled it.

        With `reads_clock`, time alone may change what a flag says. `inactive` has the keys of flags not served.
        """
        self.project_id = project.id
        self.token = project.token
        self.name = project.name
        self.secret_tokens = frozenset(project.secret_tokens)
        self.version = version
        self.etag = etag
        self.bucketing = project.bucketing
        self.flags = MappingProxyType({flag.document.key: flag for flag in flags})
        self.inactive = frozenset(inactive) - self.flags.keys()
        self.reads_clock = reads_clock
        self.problems = tuple(problems)
        self._graph = graph
        self._dependencies = dependencies
        self._ids = {flag.document.key: flag.document.id for flag in flags}
        self._has_contexts = any(flag.contexts for flag in flags)
        runtimes = {
            Runtime.ALL: (Runtime.ALL, Runtime.CLIENT, Runtime.SERVER),
            Runtime.UNKNOWN: (Runtime.ALL,),
            Runtime.CLIENT: (Runtime.ALL, Runtime.CLIENT),
            Runtime.SERVER: (Runtime.ALL, Runtime.SERVER),
        }
        self._by_runtime = {
            runtime: Selection((flag for flag in flags if flag.runtime in kept), graph.depended_on)
            for runtime, kept in runtimes.items()
        }
        # Whoever asks for one flag, as OpenFeature's clients on servers do, need not pay for all.
        self._places = {
            runtime: {flag.document.id: place for place, flag in enumerate(selection.flags)}
            for runtime, selection in self._by_runtime.items()
        }

    @property
    def local_evaluation_refusal(self) -> str | None:
        """Why SDKs must not be given these flags to evaluate by themselves; None when they may."""
        if self.bucketing == "sha1":
            return None
        return f"project {self.project_id} buckets by {self.bucketing}, and SDKs only know sha1: they would disagree"

    def select(self, context: Context) -> Selection:
        """The flags that a request gets an answer for; with the keys it asks for come the flags they depend on."""
        selection = self._by_runtime[context.runtime]
        flags: Iterable[Flag] = selection.flags
        if (keys := context.flag_keys) is not None:
            asked = with_dependencies((self._ids[key] for key in keys if key in self._ids), self._dependencies)
            places = self._places[context.runtime]
            flags = [selection.flags[place] for place in sorted(places[id_] for id_ in asked if id_ in places)]
        if context.only_surveys:
            flags = [flag for flag in flags if flag.document.key.startswith(SURVEY_PREFIX)]
        if self._has_contexts and (wanted := context.evaluation_contexts):
            flags = [flag for flag in flags if not flag.contexts or not flag.contexts.isdisjoint(wanted)]
        return selection if flags is selection.flags else Selection(flags, self._graph.depended_on)

    def __repr__(self) -> str:
        return f"<Snapshot of project {self.project_id} v{self.version}, {len(self.flags)} flags>"


def build_snapshot(document: bytes, version: int, encode: Encode) -> Snapshot:
    """Compile one project's definitions document (JSON).

    Flags that cannot be understood are off and named in `problems`. Raises InvalidDefinitions when the document
    itself cannot be.
    """
    project = decode(document, ProjectDocument)
    if isinstance(project, tuple):
        raise InvalidDefinitions(project)
    problems: list[Problem] = []
    zone = _timezone(project.timezone, problems)
    cohorts = _cohorts(project, problems)
    group_types = tuple(project.group_types)
    compiler = Compiler(
        Project(zone, project.property_matching_version, group_types, cohorts, encode, project.bucketing)
    )
    entries = _entries(project, problems)
    dependencies = {flag_id: dependencies_of(entry.document) for flag_id, entry in entries.items()}
    graph = build_graph(dependencies)
    flags: list[Flag] = []
    for flag_id in (*graph.order, *sorted(graph.cyclic)):
        entry = entries[flag_id]
        flag_document = entry.document
        if not entry.is_served:
            continue
        if entry.is_broken:
            flag = off(flag_document, encode, UNDECODABLE)
        elif flag_id in graph.cyclic or flag_id in graph.missing:
            is_of_rules = flag_document.filters.version == 2
            flag = unresolved(flag_document, encode) if is_of_rules else off(flag_document, encode, NO_DEPENDENCY)
            flag.is_cyclic = flag_id in graph.cyclic
            what = "are in a cycle" if flag.is_cyclic else "include a flag that does not exist"
            problems.append(Problem("unresolved", entry.path, flag_document.key, f"the flag's dependencies {what}"))
        else:
            flag = compiler.compile(flag_document, entry.path)
        flags.append(flag)
    every_problem = [*problems, *compiler.problems]
    etag = hashlib.sha256(document).hexdigest()[:ETAG_CHARACTERS]
    return Snapshot(
        project,
        version,
        etag,
        flags=flags,
        graph=graph,
        dependencies=dependencies,
        problems=every_problem,
        inactive=(entry.document.key for entry in entries.values() if not entry.is_served),
        reads_clock=compiler.reads_clock,
    )


class _Entry(msgspec.Struct, frozen=True):
    """A flag that exists. Inactive ones are not served, and count as false where others depend on them."""

    path: str
    document: FlagDocument
    is_served: bool
    is_broken: bool


class _Identity(msgspec.Struct, frozen=True):
    """As much of a broken flag as an answer needs."""

    key: str
    id: int | None = None
    version: int | None = None
    active: bool = True
    deleted: bool = False


def _entries(project: ProjectDocument, problems: list[Problem]) -> dict[int, _Entry]:
    """The project's flags by id, in the order of the document. Of two with one id or key the first counts."""
    entries: dict[int, _Entry] = {}
    keys: set[str] = set()
    for index, raw in enumerate(project.flags):
        path = f"$.flags[{index}]"
        document = decode(raw, FlagDocument, path)
        is_broken = isinstance(document, tuple)
        if isinstance(document, tuple):
            identity = decode(raw, _Identity)
            key = None if isinstance(identity, tuple) else identity.key
            problems += [msgspec.structs.replace(problem, flag=key) for problem in document]
            if isinstance(identity, tuple) or identity.deleted:
                continue
            # Without an id nobody can depend on it, and no other flag has a negative one.
            flag_id = -1 - index if identity.id is None else identity.id
            document = FlagDocument(id=flag_id, key=identity.key, version=identity.version, active=identity.active)
        elif document.deleted:
            continue
        is_repeated = document.active and document.key in keys
        if document.id in entries or is_repeated:
            at, what = (f"{path}.key", document.key) if is_repeated else (f"{path}.id", str(document.id))
            problems.append(Problem("duplicate", at, document.key, f"an earlier flag has {what!r}, and counts"))
            continue
        if document.active:
            keys.add(document.key)
        entries[document.id] = _Entry(path, document, document.active, is_broken)
    return entries


def _cohorts(project: ProjectDocument, problems: list[Problem]) -> dict[int, tuple[str, CohortDocument]]:
    cohorts: dict[int, tuple[str, CohortDocument]] = {}
    for index, raw in enumerate(project.cohorts):
        path = f"$.cohorts[{index}]"
        cohort = decode(raw, CohortDocument, path)
        if isinstance(cohort, tuple):
            problems += cohort
        else:
            cohorts.setdefault(cohort.id, (path, cohort))
    return cohorts


def _timezone(name: str, problems: list[Problem]) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # As zoneinfo says unknown, malformed, and a directory.
        problems.append(Problem("undecodable", "$.timezone", None, f"there is no time zone {name!r}"))
        return None

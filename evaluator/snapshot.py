"""An immutable, compiled set of one project's flags, and which of them a request asks for.

Nothing here changes after build_snapshot returns; requests share one snapshot without locks.
"""

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

from evaluator.compile import CompiledFlag, Settings, compile_flag
from evaluator.definitions import InvalidDefinitions, ProjectDocument, decode
from evaluator.types import Context, Encode, Problem, Runtime

SURVEY_PREFIX: Final = "survey-targeting-"


class Selection:
    """Flags in the order they are evaluated: plain rollouts, which one tight loop can do, and then all others."""

    __slots__ = ("flags", "matchers", "rollouts")

    def __init__(self, flags: Iterable[CompiledFlag]) -> None:
        flags = tuple(flags)
        rollouts = [flag for flag in flags if flag.rollout]
        others = [flag for flag in flags if not flag.rollout]
        self.flags: Sequence[CompiledFlag] = (*rollouts, *others)
        self.rollouts = tuple(flag.rollout for flag in rollouts if flag.rollout)
        self.matchers = tuple(flag.match for flag in others)


class Snapshot:
    """The compiled flags of a project, in the order of its document, with what was found wrong on the way."""

    __slots__ = (
        "_by_runtime",
        "_has_contexts",
        "flags",
        "name",
        "problems",
        "project_id",
        "secret_tokens",
        "token",
        "version",
    )

    def __init__(
        self, project: ProjectDocument, version: int, flags: Iterable[CompiledFlag], problems: Iterable[Problem]
    ) -> None:
        self.project_id = project.id
        self.token = project.token
        self.name = project.name
        self.secret_tokens = frozenset(project.secret_tokens)
        self.version = version
        self.flags = MappingProxyType({flag.document.key: flag for flag in flags})
        self.problems = tuple(problems)
        everything = tuple(self.flags.values())
        self._has_contexts = any(flag.contexts for flag in everything)
        self._by_runtime = {
            Runtime.ALL: Selection(everything),
            Runtime.UNKNOWN: Selection(flag for flag in everything if flag.runtime is Runtime.ALL),
            Runtime.CLIENT: Selection(flag for flag in everything if flag.runtime is not Runtime.SERVER),
            Runtime.SERVER: Selection(flag for flag in everything if flag.runtime is not Runtime.CLIENT),
        }

    def select(self, context: Context) -> Selection:
        """The flags that a request gets an answer for."""
        selection = self._by_runtime[context.runtime]
        flags: Iterable[CompiledFlag] = selection.flags
        if context.only_surveys:
            flags = [flag for flag in flags if flag.document.key.startswith(SURVEY_PREFIX)]
        if self._has_contexts and (wanted := context.evaluation_contexts):
            flags = [flag for flag in flags if not flag.contexts or not flag.contexts.isdisjoint(wanted)]
        if (keys := context.flag_keys) is not None:
            flags = [flag for flag in flags if flag.document.key in keys]
        return selection if flags is selection.flags else Selection(flags)

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
    settings = Settings(_timezone(project.timezone, problems), project.property_matching_version, encode)
    flags: dict[str, CompiledFlag] = {}
    for index, raw in enumerate(project.flags):
        path = f"$.flags[{index}]"
        flag, found = compile_flag(raw, path, settings)
        problems += found
        if flag is None:
            continue
        key = flag.document.key
        if key in flags:
            problems.append(Problem("duplicate", f"{path}.key", key, f"an earlier flag has the key {key!r}; it counts"))
        else:
            flags[key] = flag
    return Snapshot(project, version, flags.values(), problems)


def _timezone(name: str, problems: list[Problem]) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # As zoneinfo says unknown, malformed, and a directory.
        problems.append(Problem("undecodable", "$.timezone", None, f"there is no time zone {name!r}"))
        return None

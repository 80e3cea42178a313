"""A definitions document -> what SDKs take to evaluate flags by themselves, as PostHog's service gives it to them.

Made of the same bytes as the compiled snapshot, so that both always speak of the same version. Invariant: nothing is in
it that an SDK must not have, which is tokens, deleted flags, encrypted payloads and remote configuration.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from evaluator.compile import dependencies_of, flag_id_of
from evaluator.definitions import (
    CohortDocument,
    FiltersDocument,
    FlagDocument,
    InvalidDefinitions,
    ProjectDocument,
    decode,
)
from evaluator.dependencies import build_graph, with_dependencies

_FIELDS: Final = (
    "id", "name", "key", "active", "filters", "ensure_experience_continuity", "version", "evaluation_runtime",
    "bucketing_identifier", "has_experiment",
)  # fmt: skip
_LEFT_TO_THE_SERVICE: Final = {
    "groups": [{"properties": [{"key": "id", "type": "cohort", "value": 0, "operator": "in"}]}],
    "aggregation_group_type_index": None,
    "holdout": None,
}
"""What SDKs read of filters they would misread: of a cohort that they do not know, as of a static one, they ask."""


def local_definitions(document: bytes) -> bytes:
    """The answer of `/flags/definitions` for a project, as JSON. The same bytes for the same document.

    Flags that do not decode are left out, as SDKs would stumble over them. Static cohorts are left out, as nobody else
    knows who is in them. Raises InvalidDefinitions when the document itself does not decode.
    """
    project = decode(document, ProjectDocument)
    if isinstance(project, tuple):
        raise InvalidDefinitions(project)
    flags = {
        flag.id: (flag, raw)
        for raw in project.flags
        if not isinstance(flag := decode(raw, FlagDocument), tuple) and not flag.deleted
    }
    dependencies = {flag_id: dependencies_of(flag) for flag_id, (flag, _) in flags.items()}
    graph = build_graph(dependencies)
    places = {flag_id: place for place, flag_id in enumerate(graph.order)}

    def chain(flag_id: int) -> list[str]:
        """The keys of a flag and all it depends on, in the order to evaluate them; empty when that cannot be done."""
        wanted = with_dependencies([flag_id], dependencies)
        if not wanted <= places.keys():
            return []
        return [flags[it][0].key for it in sorted(wanted, key=places.__getitem__)]

    keys = {flag_id: flag.key for flag_id, (flag, _) in flags.items()}
    cohorts = [it for raw in project.cohorts if not isinstance(it := decode(raw, CohortDocument), tuple)]
    return msgspec.json.encode(
        {
            "flags": [
                _flag(project.id, flag, raw, keys, chain)
                for flag, raw in flags.values()
                if not flag.has_encrypted_payloads and not flag.is_remote_configuration
            ],
            "group_type_mapping": {str(index): name for index, name in enumerate(project.group_types) if name},
            "cohorts": {str(it.id): (it.filters or {}).get("properties", {}) for it in cohorts if not it.is_static},
            "property_matching_version": project.property_matching_version,
            "minimal_flag_called_events": False,
        }
    )


def _flag(project_id: int, flag: FlagDocument, raw: msgspec.Raw, keys: Mapping[int, str], chain: Any) -> dict[str, Any]:
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    kept: dict[str, Any] = {name: members[name] for name in _FIELDS if name in members}
    is_left = _is_misread(flag.filters)
    if is_left or dependencies_of(flag):
        kept["filters"] = msgspec.json.decode(members["filters"])
        for properties in _properties(kept["filters"]):
            properties[:] = [_rewritten(filter_, keys, chain) for filter_ in properties]
        if is_left:
            kept["filters"] |= _LEFT_TO_THE_SERVICE
    return {
        **kept,
        "team_id": project_id,
        "deleted": False,
        "active": flag.active,
        "evaluation_contexts": sorted(flag.contexts),
        "has_encrypted_payloads": False,
    }


def _is_misread(filters: FiltersDocument) -> bool:
    """Whether there is something in these filters that no released SDK reads: rules, the older way to hold people out,
    or conditions on persons in a flag of groups."""
    is_of_groups = filters.aggregation_group_type_index is not None
    return (
        filters.version == 2
        or (filters.holdout is None and bool(filters.holdout_groups))
        or (is_of_groups and any(it.aggregation_group_type_index is None for it in filters.groups))
    )


def _properties(filters: dict[str, Any]) -> Sequence[list[dict[str, Any]]]:
    conditions = [condition.get("properties") or [] for condition in filters.get("groups", ())]
    return conditions + [(rule.get("targeting") or {}).get("properties") or [] for rule in filters.get("rules", ())]


def _rewritten(filter_: dict[str, Any], keys: Mapping[int, str], chain: Any) -> dict[str, Any]:
    """A filter on a flag names it by key for SDKs, with what has to be evaluated before; others stay as they are."""
    if filter_["type"] != "flag":
        return filter_
    flag_id = flag_id_of(filter_["key"])
    if flag_id is None or flag_id not in keys:
        return {**filter_, "dependency_chain": []}
    return {**filter_, "key": keys[flag_id], "dependency_chain": chain(flag_id)}

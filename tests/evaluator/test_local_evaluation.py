"""What SDKs are given to evaluate by themselves, made of the document that the service itself evaluates."""

from typing import Any

import msgspec
import pytest

from evaluator.definitions import InvalidDefinitions
from evaluator.local_evaluation import local_definitions
from tests.builders import condition, flag, person, project


def sent(*flags: dict[str, Any], **members: Any) -> Any:
    """What an SDK gets of a project with these flags."""
    return msgspec.json.decode(local_definitions(msgspec.json.encode({**project(*flags), **members})))


def depends_on(flag_id: object, value: object = True) -> dict[str, Any]:
    return {"type": "flag", "key": str(flag_id), "operator": "flag_evaluates_to", "value": value}


def test_definitions__of_a_project__have_what_sdks_read_and_no_secret() -> None:
    """Inactive flags are there, filters as they were written; tokens and what nobody should have are not."""
    flags = [
        flag("on", condition(person("plan", "pro"), rollout=40), id=1, version=7),
        flag("off", id=2, active=False),
        flag("gone", id=3, deleted=True),
        flag("secret", id=4, has_encrypted_payloads=True),
        flag("remote", id=5, is_remote_configuration=True),
        {"id": 6, "key": "broken", "filters": {"groups": 3}},
    ]
    cohorts = [
        {"id": 12, "filters": {"properties": {"type": "OR", "values": []}}},
        {"id": 13, "is_static": True},
        {"id": 14},
        {"id": "x"},
    ]
    found = sent(*flags, cohorts=cohorts, group_types=["organization", ""], secret_tokens=["phs_x"], id=9)
    assert [(it["key"], it["active"], it["team_id"]) for it in found["flags"]] == [("on", True, 9), ("off", False, 9)]
    assert found["flags"][0]["filters"] == flags[0]["filters"]
    assert found["flags"][0]["version"] == 7
    assert found["cohorts"] == {"12": {"type": "OR", "values": []}, "14": {}}
    assert found["group_type_mapping"] == {"0": "organization"}
    assert found["property_matching_version"] == 1
    assert "phs_x" not in str(found)


def test_dependencies__however_deep__are_named_by_key_with_their_chain() -> None:
    """SDKs know flags by key, and evaluate what a filter needs in the order of its chain."""
    found = sent(
        flag("top", condition(depends_on(2), person("plan", "pro")), id=3),
        flag("base", id=1),
        flag("middle", condition(depends_on(1, "blue")), id=2),
        flag("of-rules", id=4, filters={"version": 2, "rules": [
            {"id": "r", "rule_type": "targeted_release", "targeting": {"properties": [depends_on(2)]}}]}),
    )  # fmt: skip
    by_key = {it["key"]: it["filters"] for it in found["flags"]}
    first, second = by_key["top"]["groups"][0]["properties"]
    assert first == {**depends_on(2), "key": "middle", "dependency_chain": ["base", "middle"]}
    assert second == person("plan", "pro")
    assert by_key["middle"]["groups"][0]["properties"][0]["dependency_chain"] == ["base"]
    (of_rules,) = by_key["of-rules"]["rules"][0]["targeting"]["properties"]
    assert (of_rules["key"], of_rules["dependency_chain"]) == ("middle", ["base", "middle"])


@pytest.mark.parametrize(
    "filters",
    [
        {"groups": [], "version": 2, "rules": [{"id": "r", "rule_type": "targeted_release", "value": 3}]},
        {"holdout_groups": [{"variant": "holdout-9", "rollout_percentage": 10}]},
        {
            "groups": [{**condition(), "aggregation_group_type_index": None}],
            "aggregation_group_type_index": 0,
            "holdout": {"id": 1},
        },
    ],
)
def test_filters__that_sdks_would_misread__are_left_to_the_service(filters: dict[str, Any]) -> None:
    """A flag of which no SDK reads everything has a condition that none can tell, so that it asks."""
    (found,) = sent(flag("misread", filters=filters), group_types=["organization"])["flags"]
    (asking,) = found["filters"]["groups"]
    assert asking["properties"] == [{"key": "id", "type": "cohort", "value": 0, "operator": "in"}]
    assert found["filters"]["aggregation_group_type_index"] is None
    assert found["filters"]["holdout"] is None
    assert found["filters"].get("rules") == filters.get("rules")


def test_filters__of_groups_that_sdks_read__stay() -> None:
    """A flag of groups, and one with a holdout beside the older way to say so, are evaluated by SDKs."""
    filters = [
        {"groups": [condition()], "aggregation_group_type_index": 0},
        {"groups": [condition()], "holdout": {"id": 1}, "holdout_groups": [{"variant": "holdout-1"}]},
    ]
    found = sent(*(flag(f"flag-{it}", filters=each) for it, each in enumerate(filters)))["flags"]
    assert [it["filters"] for it in found] == filters


def test_dependencies__that_cannot_be_followed__have_an_empty_chain() -> None:
    """A cycle and a flag that is not there leave the SDK nothing to conclude from, and it asks the service."""
    found = sent(
        flag("a", condition(depends_on(2)), id=1),
        flag("b", condition(depends_on(1)), id=2),
        flag("c", condition(depends_on(99)), condition(depends_on("not-an-id")), id=3),
    )
    chains = [
        filter_["dependency_chain"]
        for it in found["flags"]
        for group in it["filters"]["groups"]
        for filter_ in group["properties"]
    ]
    assert chains == [[], [], [], []]


def test_definitions__of_a_document_that_is_none__are_refused() -> None:
    """What cannot be evaluated here is not handed on either."""
    with pytest.raises(InvalidDefinitions):
        local_definitions(b'{"id": "x"}')

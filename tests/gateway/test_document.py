"""The document of whole projects: what is refused, and with which path."""

from typing import Any

import msgspec
import pytest

from evaluator.definitions import MAX_PROBLEMS, InvalidDefinitions
from gateway.document import read_document
from tests.builders import condition, flag, person, project


def problems(*projects: Any) -> list[tuple[str, str]]:
    """Path and sentence of each problem of a document with these projects."""
    with pytest.raises(InvalidDefinitions) as caught:
        read_document(msgspec.json.encode({"projects": projects}))
    return [(problem.path, problem.message) for problem in caught.value.problems]


COHORTS = [{"id": 3, "is_static": True}, {"id": 4}]


@pytest.mark.parametrize(
    ("fields", "path", "told"),
    [
        ({"token": ""}, "$.projects[0].token", "needs a token"),
        ({"token": None}, "$.projects[0].token", "Expected `str`"),
        ({"timezone": "Mars/Olympus"}, "$.projects[0].timezone", "no time zone 'Mars/Olympus'"),
        ({"timezone": ""}, "$.projects[0].timezone", "no time zone"),
        ({"timezone": "../../etc/passwd"}, "$.projects[0].timezone", "no time zone"),
        ({"property_matching_version": 3}, "$.projects[0].property_matching_version", "Invalid enum value 3"),
        ({"flags": [{"key": "a"}]}, "$.projects[0].flags[0]", "missing required field `id`"),
        ({"flags": [flag("a", id=1), flag("b", id=1)]}, "$.projects[0].flags[1].id", "1 was used before"),
        ({"flags": [flag("a"), flag("a")]}, "$.projects[0].flags[1].key", "'a' was used before"),
        ({"cohorts": [{"id": "x"}]}, "$.projects[0].cohorts[0].id", "Expected `int`"),
        ({"cohorts": [{"id": 3}, {"id": 3}]}, "$.projects[0].cohorts[1].id", "3 was used before"),
        ({"group_types": ["team", "team"]}, "$.projects[0].group_types[1]", "'team' was used before"),
        ({"persons": [{"distinct_ids": []}]}, "$.projects[0].persons[0].distinct_ids", "needs a distinct id"),
        (
            {"persons": [{"distinct_ids": ["u1"]}, {"distinct_ids": ["u2", "u1"]}]},
            "$.projects[0].persons[1].distinct_ids",
            "'u1' was used before",
        ),
        (
            {"cohorts": COHORTS, "persons": [{"distinct_ids": ["u1"], "cohorts": [3, 4]}]},
            "$.projects[0].persons[0].cohorts",
            "cohort 4 is not static",
        ),
        (
            {"cohorts": COHORTS, "persons": [{"distinct_ids": ["u1"], "cohorts": [5]}]},
            "$.projects[0].persons[0].cohorts",
            "cohort 5 is unknown",
        ),
        ({"groups": [{"type": "team", "key": "a"}]}, "$.projects[0].groups[0].type", "no group type 'team'"),
        (
            {"group_types": ["team"], "groups": [{"type": "team", "key": "a"}, {"type": "team", "key": "a"}]},
            "$.projects[0].groups[1].key",
            "used before",
        ),
    ],
)
def test_read__wrong_part__is_told_with_its_path(fields: dict[str, Any], path: str, told: str) -> None:
    """Each problem says where it is and what is wrong."""
    ((where, message),) = problems(project(**fields))
    assert where == path
    assert told in message


def test_read__filter_without_a_type__is_told_with_its_whole_path() -> None:
    """However deep it lies, a problem can be found in the document."""
    untyped = {"key": "plan", "operator": "exact", "value": "pro"}
    flags = [flag("fine"), flag("broken", condition(person("plan", "pro"), untyped))]
    ((path, message),) = problems(project(*flags))
    assert path == "$.projects[0].flags[1].filters.groups[0].properties[1]"
    assert message == "Object missing required field `type`"


def test_read__problems_in_many_places__are_all_told() -> None:
    """One reading finds everything, in every project."""
    broken = project({"id": 1}, id=1, token="phc_one", timezone="Nowhere")
    found = problems(broken, {"id": 2}, project(id=1, token="phc_one"))
    assert [path for path, _ in found] == [
        "$.projects[0].timezone",
        "$.projects[0].flags[0]",
        "$.projects[1]",
        "$.projects[2].id",
        "$.projects[2].token",
    ]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"projects": 1}', b"[" * 5000])
def test_read__no_document_at_all__is_a_problem(data: bytes) -> None:
    """Whatever a file holds, reading it ends in problems that can be shown."""
    with pytest.raises(InvalidDefinitions) as caught:
        read_document(data)
    assert len(caught.value.problems) == 1


def test_read__endless_problems__are_bounded() -> None:
    """A document that is wrong throughout does not flood whoever reads about it."""
    found = problems(project(*({"id": 1} for _ in range(MAX_PROBLEMS + 7))))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == ("$", "and 7 more problems")

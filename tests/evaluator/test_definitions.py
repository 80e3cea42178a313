"""Decoding: every problem is found at once, each with the path it has in the whole document."""

import json
from typing import Any

import pytest

from evaluator.definitions import MAX_PROBLEMS, FlagDocument, ProjectDocument, decode
from evaluator.types import Problem


def problems(document: Any, shape: type = FlagDocument) -> list[str]:
    found = decode(json.dumps(document).encode(), shape)
    assert isinstance(found, tuple)
    return [str(problem) for problem in found]


def test_decode__good_flag__fills_in_what_is_absent() -> None:
    """Only id and key are required; nulls stand for absence, and unknown fields are ignored."""
    decoded = decode(b'{"id":1,"key":"a","version":null,"shoe_size":44,"filters":{"groups":[{}]}}', FlagDocument)
    assert isinstance(decoded, FlagDocument)
    assert (decoded.active, decoded.version, decoded.filters.groups[0].rollout_percentage) == (False, None, None)


def test_decode__many_problems__names_each_by_its_original_place() -> None:
    """Indexes are those of the document as written, however many items before were broken."""
    good = {"key": "plan", "type": "person", "value": "pro"}
    document = {
        "id": 1,
        "key": "a",
        "filters": {
            "groups": [
                {"properties": [{"key": "x"}, good, {**good, "operator": "resembles"}, {"type": "person"}]},
                {"properties": 5, "rollout_percentage": "5"},
                {"properties": [good, {"key": 4, "type": "person"}]},
            ],
            "payloads": 3,
        },
    }
    assert problems(document) == [
        "$.filters.groups[0].properties[0]: Object missing required field `type`",
        "$.filters.groups[0].properties[2].operator: Invalid enum value 'resembles'",
        "$.filters.groups[0].properties[3]: Object missing required field `key`",
        "$.filters.groups[1].properties: Expected `array | null`, got `int`",
        "$.filters.groups[1].rollout_percentage: Expected `float | null`, got `str`",
        "$.filters.groups[2].properties[1].key: Expected `str`, got `int`",
        "$.filters.payloads: Expected `object | null`, got `int`",
    ]


def test_decode__two_broken_neighbours__are_told_apart() -> None:
    """Cutting out one item does not shift the place that is told of the next."""
    document = {"id": 1, "key": "a", "filters": {"groups": [{"properties": [1, 2, {"key": "k", "type": "person"}, 3]}]}}
    assert [line.partition(":")[0] for line in problems(document)] == [
        "$.filters.groups[0].properties[0]",
        "$.filters.groups[0].properties[1]",
        "$.filters.groups[0].properties[3]",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "$: Expected `object`, got `array`"),
        (b"{", "$: Input data was truncated"),
        (b"[" * 100_000 + b"]" * 100_000, "$: "),
        (b'{"id":1,"key":"\xff"}', "$: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_decode__not_an_object_at_all__is_one_problem(data: bytes, message: str) -> None:
    """Broken JSON, bad UTF-8 and bottomless nesting are problems like others."""
    found = decode(data, FlagDocument)
    assert isinstance(found, tuple)
    assert len(found) == 1
    assert str(found[0]).startswith(message)


def test_decode__below_a_path__puts_it_in_front() -> None:
    """The caller says where the piece stands in the whole."""
    found = decode(b'{"key":5}', FlagDocument, "$.projects[0].flags[3]")
    assert found == (
        Problem("undecodable", "$.projects[0].flags[3].key", None, "Expected `str`, got `int`"),
        Problem("undecodable", "$.projects[0].flags[3]", None, "Object missing required field `id`"),
    )


def test_decode__problem_inside_a_mapping__stops_there() -> None:
    """Where the key of a mapping is not told, what is behind it stays unknown rather than guessed."""
    found = decode(b'{"a":{"b":"x"}}', dict[str, dict[str, int]])
    assert found == (Problem("undecodable", "$[...][...]", None, "Expected `int`, got `str`"),)


def test_decode__endless_problems__are_cut_off() -> None:
    """A document that is broken all over does not make an endless report."""
    document = {"id": 1, "token": "t", "group_types": list(range(MAX_PROBLEMS + 50))}
    assert len(problems(document, ProjectDocument)) == MAX_PROBLEMS


@pytest.mark.parametrize("name", ["evaluation_contexts", "evaluation_tags", "evaluation_environments"])
def test_contexts__under_any_of_their_names__are_the_contexts(name: str) -> None:
    """Evaluation contexts had two names before."""
    decoded = decode(json.dumps({"id": 1, "key": "a", name: ["docs"]}).encode(), FlagDocument)
    assert isinstance(decoded, FlagDocument)
    assert decoded.contexts == {"docs"}

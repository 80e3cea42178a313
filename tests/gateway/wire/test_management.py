"""The answers of the management API as bytes, and that its shapes say what is really there."""

from datetime import UTC, datetime

import msgspec

from gateway.editing_ports import AuditRecord, Item, Page, PersonalKey, Publication
from gateway.edits import Desired, Flips, Plan
from gateway.services.editing_fields import SHAPES
from gateway.wire import management
from gateway.wire.management import (
    CohortFields,
    FlagFields,
    ProjectFields,
    PublicationAnswer,
    history_answer,
    item_answer,
    key_answer,
    page_answer,
    publication_answer,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
PATH = "/api/projects/1/feature_flags"


def item(item_id: int) -> Item:
    return Item("flag", item_id, 3, b'{"id": %d, "version": 3}' % item_id)


def test_item_answer__of_a_stored_item__is_what_is_stored() -> None:
    """Documents are answered byte by byte as they are stored."""
    assert item_answer(item(1)) == b'{"id": 1, "version": 3}'


def test_item_answer__of_an_import_without_a_version__has_one() -> None:
    """Whoever reads a flag learns the version that counts when they change it."""
    assert item_answer(Item("flag", 1, 0, b'{"id":1}')) == b'{"id":1,"version":0}'


def test_page_answer__in_the_middle__links_to_both_sides() -> None:
    """Links keep what was asked for, and say nothing of hosts."""
    page = Page([item(3), item(4)], 7)
    answer = msgspec.json.decode(page_answer(page, PATH, {"search": "a b"}, 2, 2))
    assert answer["count"] == 7
    assert answer["next"] == f"{PATH}?search=a+b&limit=2&offset=4"
    assert answer["previous"] == f"{PATH}?search=a+b&limit=2&offset=0"
    assert [it["id"] for it in answer["results"]] == [3, 4]


def test_page_answer__of_everything__links_nowhere() -> None:
    """At the ends of a list there is nothing beside it."""
    answer = msgspec.json.decode(page_answer(Page([item(1)], 1), PATH, {}, 100, 0))
    assert (answer["next"], answer["previous"]) == (None, None)
    beyond = msgspec.json.decode(page_answer(Page([], 1), PATH, {}, 100, 200))
    assert (beyond["next"], beyond["previous"]) == (None, f"{PATH}?limit=100&offset=100")


def test_history_answer__of_a_full_page__goes_on_before_its_last() -> None:
    """Where there can be more, the link to it is there; documents are JSON, not text."""
    records = [
        AuditRecord(9, 1, NOW, "ana", "r", "flag", 5, "changed", 2, b'{"a":1}', b'{"a":2}'),
        AuditRecord(8, 1, NOW, "ana", "r", "flag", 5, "created", 1, None, b'{"a":1}'),
    ]
    answer = msgspec.json.decode(history_answer(records, f"{PATH}/5/history", 2))
    assert answer["next"] == f"{PATH}/5/history?limit=2&before=8"
    assert answer["results"][0] == {
        "id": 9, "at": "2026-01-15T12:00:00Z", "actor": "ana", "request_id": "r", "action": "changed", "version": 2,
        "before": {"a": 1}, "after": {"a": 2},
    }  # fmt: skip
    assert msgspec.json.decode(history_answer(records, f"{PATH}/5/history", 3))["next"] is None


def test_publication_answer__as_documented__decodes() -> None:
    """What is answered is what the shape says, member by member."""
    publication = Publication(project_id=1, stored_version=3, dirty_since=NOW)
    answer = msgspec.json.decode(publication_answer(publication), type=PublicationAnswer)
    assert msgspec.structs.asdict(answer) == msgspec.structs.asdict(publication)


def test_key_answer__of_a_stored_key__never_tells_it() -> None:
    """A key is told once, when it is made, and its digest never."""
    key = PersonalKey(id=1, digest="d1g3st", hint="wxyz", name="ci", scopes=("*",), created_at=NOW, created_by="ana")
    answer = msgspec.json.encode(key_answer(key))
    assert b"d1g3st" not in answer
    assert "value" not in msgspec.json.decode(answer)
    assert msgspec.json.decode(msgspec.json.encode(key_answer(key, "phx_wxyz")))["value"] == "phx_wxyz"


def test_fields__as_documented__are_those_that_are_read() -> None:
    """The documentation names each member that is taken, and no other."""
    for kind, documented in (("flag", FlagFields), ("cohort", CohortFields), ("project", ProjectFields)):
        assert set(documented.__struct_fields__) == set(SHAPES[kind].__struct_fields__)  # type: ignore[index]


def test_shapes__as_json_schema__can_be_told() -> None:
    """Every shape can stand in an OpenAPI document."""
    named = [it for it in vars(management).values() if isinstance(it, type) and issubclass(it, msgspec.Struct)]
    _, components = msgspec.json.schema_components([*named, Desired, Flips, Plan])
    assert {"Flag", "Paged", "ErrorAnswer", "Plan"} <= components.keys()

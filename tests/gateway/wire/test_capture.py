"""Events in every shape that SDKs send them in, and what they say of persons and groups."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from gateway.editing_ports import Update
from gateway.errors import BodyTooLarge, UndecodableBody
from gateway.wire.capture import MARK, MAX_EVENTS, NOBODY, read_updates, upstream_headers, upstream_target

JSON = {b"content-type": b"application/json"}
TEXT = {b"content-type": b"text/plain"}
FORM = {b"content-type": b"application/x-www-form-urlencoded"}
SET = {"event": "$set", "distinct_id": "u1", "properties": {"$set": {"plan": "pro"}}}
PLAN = Update(token="phc_one", key="u1", put={"plan": b'"pro"'})


def read(
    body: bytes | object, headers: dict[bytes, bytes] = JSON, query: bytes = b"", compression: str | None = None
) -> list[Update]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_updates(data, query, headers, compression=compression, max_decoded_bytes=1 << 20)


def of(event: dict[str, Any]) -> list[Update]:
    return read({"api_key": "phc_one", "batch": [event]})


def form(value: object) -> bytes:
    return b"data=" + quote(base64.b64encode(json.dumps(value).encode())).encode()


@pytest.mark.parametrize(
    "body",
    [
        {"api_key": "phc_one", "batch": [SET], "sent_at": "now", "historical_migration": False},
        {"token": "phc_one", "data": [SET]},
        {"token": "phc_one", "data": SET},
        {"api_key": "phc_one", **SET},
        {"token": "phc_one", "event": "$set", "$distinct_id": "u1", "$set": {"plan": "pro"}},
        {"$token": "phc_one", "$distinct_id": "u1", "$set": {"plan": "pro"}},
        {**SET, "properties": {**SET["properties"], "token": "phc_one"}},  # type: ignore[dict-item]
        [{"token": "phc_one", "event": "$set", "properties": {"distinct_id": "u1", "$set": {"plan": "pro"}}}],
        {"batch": [{"api_key": "phc_one", **SET}]},
        {"api_key": "phc_two", "batch": [{"api_key": "phc_one", **SET}]},
    ],
)
def test_read__shape__is_understood(body: object) -> None:
    """One event, a list, or several around which the token stands; an event's own token counts first."""
    assert read(body) == [PLAN]


@pytest.mark.parametrize(
    ("body", "headers", "query", "compression"),
    [
        (gzip.compress(json.dumps([{"token": "phc_one", **SET}]).encode(), mtime=0), TEXT, b"", None),
        (gzip.compress(json.dumps([{"token": "phc_one", **SET}]).encode(), mtime=0), TEXT, b"", "gzip-js"),
        (gzip.compress(json.dumps({"api_key": "phc_one", "batch": [SET]}).encode(), mtime=0),
         {**JSON, b"content-encoding": b"gzip"}, b"", None),
        (form([{"token": "phc_one", **SET}]), FORM, b"", "base64"),
        (b"ip=1&" + form([{"token": "phc_one", **SET}]) + b"&ver=1.2",
         {b"content-type": b"application/x-www-form-urlencoded; charset=UTF-8"}, b"", None),
        (base64.b64encode(json.dumps({"token": "phc_one", **SET}).encode()), TEXT, b"", "base64"),
        (b"", {}, b"ver=1&" + form({"token": "phc_one", **SET}), None),
        (b"", JSON, form({"token": "phc_one", **SET}) + b"&compression=base64", "base64"),
    ],
)  # fmt: skip
def test_read__encoding__is_understood(
    body: bytes, headers: dict[bytes, bytes], query: bytes, compression: str | None
) -> None:
    """gzip in every disguise, forms of base64, and a GET with everything in its query."""
    assert read(body, headers, query, compression) == [PLAN]


@pytest.mark.parametrize("body", [b"", b"nonsense", b"3", b'"text"', b"{", b'{"batch": 3}', b"[" * 100 + b"]" * 100])
def test_read__no_events_at_all__is_refused(body: bytes) -> None:
    """What is not JSON, or not of any shape, or nests too deep."""
    with pytest.raises(UndecodableBody):
        read(body)


def test_read__body_that_grows__is_refused() -> None:
    """Never more is inflated than a request may have."""
    with pytest.raises(BodyTooLarge):
        read(gzip.compress(b" " * (2 << 20)), TEXT)


def test_read__broken_event__is_passed_over_alone() -> None:
    """Others in the same body are not lost with it."""
    broken = b'{"event": 3}, 3, {"distinct_id": []}, {"distinct_id": "u", "$set": {"a": 1e999}}, {"event": "\xff"},'
    assert read(b'{"api_key": "phc_one", "batch": [' + broken + json.dumps(SET).encode() + b"]}") == [PLAN]


def test_read__more_events_than_anybody_sends__reads_the_first() -> None:
    """A body of very many tiny events does not keep the worker busy."""
    assert len(read({"api_key": "phc_one", "batch": [SET] * (MAX_EVENTS + 5)})) == MAX_EVENTS


@pytest.mark.parametrize(
    ("event", "update"),
    [
        ({"event": "$identify", "distinct_id": "u1"}, Update(token="phc_one", key="u1")),
        (
            {
                "event": "$identify",
                "distinct_id": "u1",
                "properties": {"$anon_distinct_id": "anon", "$set": {"a": 1}, "$set_once": {"b": None}},
                "$set": {"a": 0, "c": [1, {"d": 2}]},
            },
            Update(
                token="phc_one", key="u1", joined="anon", put={"a": b"1", "c": b'[1, {"d": 2}]'}, once={"b": b"null"}
            ),
        ),
        (
            {"event": "$identify", "distinct_id": "u1", "properties": {"$anon_distinct_id": "u1"}},
            Update(token="phc_one", key="u1"),
        ),
        (
            {"event": "$create_alias", "distinct_id": "u1", "properties": {"distinct_id": "u1", "alias": 7}},
            Update(token="phc_one", key="u1", joined="7"),
        ),
        (
            {"event": "$pageview", "distinct_id": 5, "$set_once": {"$initial_referrer": "$direct"}},
            Update(token="phc_one", key="5", once={"$initial_referrer": b'"$direct"'}),
        ),
        (
            {
                "event": "$groupidentify",
                "distinct_id": "$company_acme",
                "properties": {"$group_type": "company", "$group_key": "acme", "$group_set": {"size": 2}},
            },
            Update(token="phc_one", group_type="company", key="acme", put={"size": b"2"}),
        ),
        (
            {"event": "$groupidentify", "properties": {"$group_type": "company", "$group_key": 9}},
            Update(token="phc_one", group_type="company", key="9"),
        ),
        ({"event": "$identify", "distinct_id": "u" * 300}, Update(token="phc_one", key="u" * 200)),
    ],
)
def test_read__event_that_identifies__says_so(event: dict[str, Any], update: Update) -> None:
    """Persons, groups, aliases, and properties wherever SDKs put them; what is nearer to the event counts first."""
    assert of(event) == [update]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "$pageview", "distinct_id": "u1", "properties": {"$browser": "x", "alias": "a"}},
        {"event": "$pageview", "distinct_id": "u1", "properties": {"$anon_distinct_id": "a", "$set": {}}},
        {"event": "$pageview", "$set": {"a": 1}},
        {"event": "$identify"},
        {"event": "$create_alias", "distinct_id": "u1"},
        {"event": "$merge_dangerously", "distinct_id": "u1", "properties": {"alias": "u2", "$set": {"a": 1}}},
        {"event": "$identify", "distinct_id": "u1", "properties": {"$process_person_profile": False}},
        {"event": "$groupidentify", "distinct_id": "u1", "properties": {"$group_key": "acme", "$set": {"a": 1}}},
        {"event": "$groupidentify", "properties": {"$group_type": "company", "$group_set": {"a": 1}}},
    ],
)
def test_read__any_other_event__says_nothing(event: dict[str, Any]) -> None:
    """Nobody becomes a person by being seen, and what asks for no profile gets none."""
    assert of(event) == []


def test_read__event_without_a_token__says_nothing() -> None:
    """There is no telling whose it is."""
    assert read([SET]) == []


@pytest.mark.parametrize("name", [*sorted(NOBODY), "Null", "UNDEFINED", "[object Object]", "None"])
def test_read__id_of_nobody__is_never_joined(name: str) -> None:
    """What broken code sends for everybody would make one person of all."""
    assert of({**SET, "distinct_id": name}) == []
    (update,) = of({"event": "$identify", "distinct_id": "u1", "properties": {"$anon_distinct_id": name}})
    assert update.joined == ""


def test_upstream__request__carries_no_secret_and_says_whom_it_is_from() -> None:
    """Headers are picked, not passed on: cookies and keys stay here, and so does what a client says of addresses."""
    given = {
        **JSON,
        b"authorization": b"Bearer phx_secret",
        b"cookie": b"session=secret",
        b"x-forwarded-for": b"1.2.3.4",
        b"user-agent": b"posthog-js/1",
        b"content-encoding": b"gz\nip",
    }
    assert upstream_headers(given, "192.0.2.7", "an-id") == [
        (b"content-type", b"application/json"),
        (b"user-agent", b"posthog-js/1"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x-request-id", b"an-id"),
        (MARK, b"1"),
    ]


@pytest.mark.parametrize(
    ("query", "target"),
    [
        (b"", b"/e/"),
        (b"ip=1&_=17&data=a%2Bb+c==", b"/e/?ip=1&_=17&data=a%2Bb+c=="),
        (b"a=\xff b\r\n\x00", b"/e/?a=%FF%20b%0D%0A%00"),
    ],
)
def test_upstream__query__goes_as_it_came(query: bytes, target: bytes) -> None:
    """Byte for byte, but for bytes that no request line may have."""
    assert upstream_target("/e/", query) == target

"""What a request to /bootstrap asks: its parameters, its body, and whom a page is for.

What posthog-js does with an identity it is handed was read in its source; tests/clients has it in a browser.
"""

import gzip
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
import pytest

from evaluator.types import Context, Runtime
from gateway.errors import BodyTooLarge, Invalid
from gateway.wire.bootstrap_query import BootstrapQuery, Visitor, read_body, read_parameters
from gateway.wire.query import Headers

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
TOKEN = "phc_a"
ANONYMOUS = {"distinct_id": "anon", "$device_id": "device", "$user_state": "anonymous"}
IDENTIFIED = {"distinct_id": "ada", "$device_id": "device", "$user_state": "identified"}


def get(**parameters: Any) -> BootstrapQuery:
    """The query of a GET with these parameters; `cookie` is its header."""
    cookie = parameters.pop("cookie", "")
    text = urlencode({"token": TOKEN, **parameters})
    return read_parameters(text.encode(), {b"cookie": cookie.encode()} if cookie else {}, NOW)


def post(headers: Headers | None = None, /, **members: Any) -> BootstrapQuery:
    body = msgspec.json.encode({"token": TOKEN, **members})
    return read_body(body, headers or {}, NOW, max_decoded_bytes=10_000, max_ids=3)


def only(query: BootstrapQuery) -> Visitor:
    (visitor,) = query.visitors
    return visitor


def cookie(identity: Any, token: str = TOKEN) -> str:
    return f"theme=dark; ph_{token}_posthog={quote(json.dumps(identity))}; other=1"


EVERYTHING: dict[str, Any] = {
    "distinct_id": "u1",
    "groups": {"company": "acme"},
    "person_properties": {"plan": "team"},
    "group_properties": {"company": {"size": 12}},
    "flag_keys": ["a", "b"],
    "evaluation_contexts": ["docs"],
    "device_id": "d",
    "anon_distinct_id": "before",
    "is_identified": False,
    "facts": "allow",
    "format": "script",
    "nonce": "bm9uY2U=",
}


def as_parameters(members: dict[str, Any]) -> dict[str, str]:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return ",".join(value)
        return value if isinstance(value, str) else json.dumps(value)

    return {name: text(value) for name, value in members.items()}


@pytest.mark.parametrize("query", [get(**as_parameters(EVERYTHING)), post(**EVERYTHING)], ids=["GET", "POST"])
def test_query__everything_given__is_understood(query: BootstrapQuery) -> None:
    """Parameters and bodies say the same things by the same names."""
    assert query == BootstrapQuery(
        token=TOKEN,
        visitors=[
            Visitor(
                Context(
                    distinct_id="u1",
                    person_properties={"plan": "team"},
                    groups={"company": "acme"},
                    group_properties={"company": {"size": 12}},
                    anon_distinct_id="before",
                    device_id="d",
                    runtime=Runtime.CLIENT,
                    evaluation_contexts=frozenset({"docs"}),
                    flag_keys=frozenset({"a", "b"}),
                ),
                is_identified=False,
            )
        ],
        with_facts=True,
        format="script",
        nonce="bm9uY2U=",
    )


@pytest.mark.parametrize(("wanted", "runtime"), [({}, "client"), ({"evaluation_runtime": "server"}, "server")])
def test_query__runtime__is_the_browsers_unless_it_says_otherwise(wanted: dict[str, str], runtime: str) -> None:
    """The first render has the flags that the browser will ask for, whatever program fetches them."""
    asked = msgspec.json.encode({"token": TOKEN, **wanted})
    query = read_body(asked, {b"user-agent": b"python-requests/2"}, NOW, max_decoded_bytes=1000, max_ids=1)
    assert only(query).context.runtime == Runtime(runtime)


def test_query__nobody_named__is_somebody_new() -> None:
    """Who has no id yet gets one as posthog-js would make it: a UUID of version 7, which is the device's as well."""
    visitor = only(get())
    id_ = UUID(visitor.context.distinct_id)
    assert (visitor.is_new, visitor.is_identified, visitor.context.device_id) == (True, False, str(id_))
    assert (id_.version, id_.variant) == (7, "specified in RFC 4122")
    assert id_.int >> 80 == int(NOW.timestamp() * 1000)
    assert only(get()) != visitor
    assert only(get(distinct_id="")).is_new


@pytest.mark.parametrize(
    ("identity", "is_identified", "device_id"),
    [
        (IDENTIFIED, True, "device"),
        ({"distinct_id": "ada", "$device_id": "device"}, True, "device"),
        # posthog-js makes the id of the device the same where it is handed an anonymous id.
        (ANONYMOUS, False, "anon"),
        ({"distinct_id": "anon", "$device_id": "anon"}, False, "anon"),
        ({"distinct_id": "anon"}, False, "anon"),
    ],
)
def test_query__cookie__says_who_it_is(identity: Any, is_identified: bool, device_id: str) -> None:
    """The cookie of posthog-js names the visitor, whether it comes as a header or is passed on in a body."""
    sent = cookie(identity)
    for visitor in map(only, (get(cookie=sent), post(cookie=sent), post({b"cookie": sent.encode()}))):
        assert visitor.context.distinct_id == identity["distinct_id"]
        assert (visitor.is_new, visitor.is_identified, visitor.context.device_id) == (False, is_identified, device_id)


def test_query__token_with_signs__has_its_cookie_under_another_name() -> None:
    """posthog-js spells out what a cookie's name cannot have."""
    asked = get(token="a+b/c=", cookie=cookie(ANONYMOUS, token="aPLbSLcEQ"))
    assert only(asked).context.distinct_id == "anon"


@pytest.mark.parametrize(
    "value", ["x", f"ph_{TOKEN}_posthog=%7B", f"ph_{TOKEN}_posthog=%FF", cookie([]), cookie({}), cookie(ANONYMOUS, "b")]
)
def test_query__cookie_that_says_nothing__is_as_none(value: str) -> None:
    """A cookie that is not posthog-js's, or broken, is no reason to refuse a page its flags."""
    assert only(get(cookie=value)).is_new


@pytest.mark.parametrize(
    ("identity", "given", "is_identified", "device_id", "anon_distinct_id"),
    [
        (ANONYMOUS, {"distinct_id": "ada"}, True, "device", "anon"),  # posthog-js will merge the two.
        (IDENTIFIED, {"distinct_id": "bob"}, True, "device", None),
        (IDENTIFIED, {"distinct_id": "ada"}, True, "device", None),
        (ANONYMOUS, {"distinct_id": "anon"}, False, "anon", None),
        (ANONYMOUS, {"distinct_id": "ada", "is_identified": False}, False, "ada", None),
        (ANONYMOUS, {"is_identified": True}, True, "device", None),
        ({}, {"distinct_id": 7}, True, None, None),
    ],
)
def test_query__id_beside_a_cookie__is_what_posthog_js_makes_of_both(
    identity: Any, given: Any, is_identified: bool, device_id: str | None, anon_distinct_id: str | None
) -> None:
    """An id that a server knows comes before the cookie's, from which comes what the browser will still know."""
    visitor = only(post(cookie=cookie(identity), **given))
    assert visitor.context.distinct_id == str(given.get("distinct_id", "anon"))
    assert visitor.is_identified is is_identified
    assert (visitor.context.device_id, visitor.context.anon_distinct_id) == (device_id, anon_distinct_id)


def test_query__several_people__are_asked_for_in_order() -> None:
    """A batch names people by ids alone; no cookie can be theirs."""
    query = post(distinct_ids=["b", 1, "a"], cookie=cookie(ANONYMOUS), groups={"company": "acme"})
    assert query.is_batch
    assert [visitor.context.distinct_id for visitor in query.visitors] == ["b", "1", "a"]
    assert all(visitor.context.groups == {"company": "acme"} for visitor in query.visitors)
    assert post(distinct_ids=[]).visitors == []


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"groups": "{"}, "groups"),
        ({"groups": "[" * 100}, "groups"),
        ({"person_properties": "[]"}, "person_properties"),
        ({"group_properties": '{"company": 1}'}, "group_properties[...]"),
        ({"format": "html"}, "format"),
        ({"facts": "maybe"}, "facts"),
        ({"is_identified": "perhaps"}, "is_identified"),
        ({"nonce": '"><script>'}, "nonce"),
        ({"nonce": "abc\n"}, "nonce"),
        ({"nonce": "a" * 257}, "nonce"),
    ],
)
def test_read_parameters__what_makes_no_sense__is_named(parameters: dict[str, str], path: str) -> None:
    """A bad parameter is refused with its name."""
    with pytest.raises(Invalid) as refused:
        get(**parameters)
    assert [problem.path for problem in refused.value.problems] == [path]


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"groups": 1}, "groups"),
        ({"distinct_ids": ["a", "b", "c", "d"]}, "distinct_ids"),
        ({"distinct_ids": ["a", {}]}, "distinct_ids[1]"),
        ({"facts": True}, "facts"),
        ({"nonce": "<"}, "nonce"),
    ],
)
def test_read_body__what_makes_no_sense__is_named(members: dict[str, Any], path: str) -> None:
    """A bad member is refused with its path, and so are more people than are allowed."""
    with pytest.raises(Invalid) as refused:
        post(**members)
    assert [problem.path for problem in refused.value.problems] == [path]


def test_read_body__no_json__is_refused() -> None:
    """What is not JSON has no path but the whole; what is too large once inflated is told as such."""
    with pytest.raises(Invalid) as refused:
        read_body(b"{", {}, NOW, max_decoded_bytes=100, max_ids=1)
    assert refused.value.problems[0].path == "$"
    with pytest.raises(BodyTooLarge):
        read_body(gzip.compress(bytes(1000)), {}, NOW, max_decoded_bytes=100, max_ids=1)

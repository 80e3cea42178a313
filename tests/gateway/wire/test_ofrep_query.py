"""Reading OFREP's requests: tokens, contexts and callers."""

import gzip
from typing import Any

import msgspec
import pytest

from evaluator.types import Context, Runtime
from gateway.errors import BodyTooLarge, InvalidContext, UndecodableBody
from gateway.wire.ofrep_query import read_context, read_token


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({b"authorization": b"Bearer phc_a"}, "phc_a"),
        ({b"authorization": b"bearer  phc_a "}, "phc_a"),
        ({b"x-api-key": b" phc_b"}, "phc_b"),
        ({b"authorization": b"Bearer phc_a", b"x-api-key": b"phc_b"}, "phc_a"),
        ({b"authorization": b"Basic phc_a", b"x-api-key": b"phc_b"}, "phc_b"),
        ({b"authorization": b"Bearer "}, None),
        ({}, None),
    ],
)
def test_read_token__from_either_header__is_the_projects(headers: dict[bytes, bytes], token: str | None) -> None:
    """Both ways in which OFREP's clients authenticate are taken, and nothing else."""
    assert read_token(headers) == token


def read(context: Any, headers: dict[bytes, bytes] | None = None, flag_key: str | None = None) -> Context:
    body = msgspec.json.encode({"context": context})
    return read_context(body, headers or {}, max_decoded_bytes=10_000, flag_key=flag_key)


def test_read_context__with_everything__is_who_it_describes() -> None:
    """What has a name of its own is taken out, and all the rest are properties of the person."""
    context = read(
        {
            "targetingKey": "u1",
            "groups": {"team": "t1", "company": 5, "none": ""},
            "groupProperties": {"team": {"plan": "pro"}},
            "evaluationContexts": ["checkout"],
            "evaluationRuntime": "client",
            "$anon_distinct_id": "anon",
            "$device_id": "device",
            "plan": "pro",
            "nested": {"a": [1, None]},
        },
        flag_key="a/b",
    )
    assert context == Context(
        distinct_id="u1",
        groups={"team": "t1", "company": "5"},
        group_properties={"team": {"plan": "pro"}},
        evaluation_contexts=frozenset({"checkout"}),
        runtime=Runtime.CLIENT,
        anon_distinct_id="anon",
        device_id="device",
        person_properties={
            "$anon_distinct_id": "anon", "$device_id": "device", "plan": "pro", "nested": {"a": [1, None]},
        },
        flag_keys=frozenset({"a/b"}),
    )  # fmt: skip


def test_read_context__with_a_name_as_in_flags__is_understood() -> None:
    """Properties of groups may be called as PostHog calls them; null is the same as absent."""
    assert read({"group_properties": {"team": {"a": 1}}, "groupProperties": None}).group_properties == {
        "team": {"a": 1}
    }


@pytest.mark.parametrize(("key", "distinct_id"), [("u1", "u1"), (7, "7"), (1.5, "1.5"), ("", ""), (None, "")])
def test_read_context__targeting_key__is_the_distinct_id(key: object, distinct_id: str) -> None:
    """Numbers are their text; without one nobody is named."""
    assert read({"targetingKey": key}).distinct_id == distinct_id


@pytest.mark.parametrize("body", [b"", b"  ", b"{}", b'{"context":null}', b'{"context":{}}', b'{"other":1}'])
def test_read_context__that_is_not_there__is_empty(body: bytes) -> None:
    """The client for Python sends none where the caller has none."""
    assert read_context(body, {}, max_decoded_bytes=1000) == Context(distinct_id="")


@pytest.mark.parametrize(
    ("headers", "runtime"),
    [
        ({b"user-agent": b"python-requests/2.32"}, Runtime.SERVER),
        ({b"user-agent": b"node", b"sec-fetch-mode": b"cors"}, Runtime.SERVER),
        ({b"user-agent": b"undici"}, Runtime.SERVER),
        ({b"user-agent": b"Mozilla/5.0"}, Runtime.CLIENT),
        ({b"origin": b"https://example.com"}, Runtime.CLIENT),
        ({b"user-agent": b"Go-http-client/2.0"}, Runtime.ALL),
        ({}, Runtime.ALL),
    ],
)
def test_read_context__runtime__is_found_from_headers(headers: dict[bytes, bytes], runtime: Runtime) -> None:
    """A caller that cannot be told has flags of every runtime; one that says what it is has those of its own."""
    assert read({}, headers).runtime is runtime
    assert read({"evaluationRuntime": "server"}, headers).runtime is Runtime.SERVER


@pytest.mark.parametrize(
    ("context", "path"),
    [
        (5, "`context`"),
        ([], "`context`"),
        ({"targetingKey": True}, "`context.targetingKey`"),
        ({"targetingKey": ["u1"]}, "`context.targetingKey`"),
        ({"groups": ["team"]}, "`context.groups`"),
        ({"groupProperties": {"team": 5}}, "`context.groupProperties[...]`"),
        ({"evaluationContexts": "checkout"}, "`context.evaluationContexts`"),
        ({"evaluationRuntime": 1}, "`context.evaluationRuntime`"),
    ],
)
def test_read_context__of_a_wrong_type__is_refused_with_its_path(context: Any, path: str) -> None:
    """Whoever gets a context wrong is told where."""
    with pytest.raises(InvalidContext) as caught:
        read(context)
    assert path in caught.value.detail


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff" * 10, b'{"context":' + b"[" * 100 + b"]" * 100 + b"}"])
def test_read_context__that_is_no_request__is_undecodable(body: bytes) -> None:
    """What is no JSON object, or nests too deep, is refused before anything is made of it."""
    with pytest.raises(UndecodableBody):
        read_context(body, {}, max_decoded_bytes=1000)


def test_read_context__that_inflates__is_bounded() -> None:
    """Compressed requests count as what they inflate to."""
    with pytest.raises(BodyTooLarge):
        read_context(gzip.compress(b" " * 5000), {}, max_decoded_bytes=1000)

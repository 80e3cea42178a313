"""What a request to /flags or /decide asks: its fields, their other names, and the shape it wants back."""

from typing import Any

import msgspec
import pytest

from evaluator.types import Context, Runtime
from gateway.errors import UndecodableBody
from gateway.wire.flags import Shape
from gateway.wire.query import FlagsQuery, Parameters, read_parameters, read_query

BASE: dict[str, Any] = {"token": "phc_t", "distinct_id": "u1"}


def query(
    body: dict[str, Any] | bytes, query_string: bytes = b"v=2", *, is_decide: bool = False, **headers: str
) -> FlagsQuery:
    return read_query(
        body if isinstance(body, bytes) else msgspec.json.encode(body),
        read_parameters(query_string),
        {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()},
        is_decide=is_decide,
        max_decoded_bytes=10_000,
    )


def context(headers: dict[str, str] | None = None, **fields: Any) -> Context:
    asked = query({**BASE, **fields}, **(headers or {})).context
    assert asked is not None
    return asked


@pytest.mark.parametrize(
    ("query_string", "parameters"),
    [
        (b"", Parameters(None, None, None, False)),
        (b"v=&config=&compression=&version=", Parameters(None, None, None, False)),
        (b"v=3", Parameters(3, None, None, False)),
        (b"version=3", Parameters(3, None, None, False)),
        (b"v=2&version=3", Parameters(2, None, None, False)),
        (b"v=x", Parameters(1, None, None, False)),
        (b"v=-1", Parameters(1, None, None, False)),
        (b"v=1_0", Parameters(1, None, None, False)),
        (b"v=%D9%A2", Parameters(1, None, None, False)),
        (b"v=" + b"9" * 5000, Parameters(1, None, None, False)),
        (b"config=true", Parameters(None, True, None, False)),
        (b"config=1", Parameters(None, True, None, False)),
        (b"config=false", Parameters(None, False, None, False)),
        (b"compression=gzip-js&_=17&ver=1.2", Parameters(None, None, "gzip-js", False)),
        (b"only_evaluate_survey_feature_flags=true", Parameters(None, None, None, True)),
        (b"\xff%ff%zz=%&&&=;", Parameters(None, None, None, False)),
    ],
)
def test_read_parameters__query_string__is_read_leniently(query_string: bytes, parameters: Parameters) -> None:
    """Empty counts as absent, a version that is no number as 1, and nothing unknown disturbs."""
    assert read_parameters(query_string) == parameters


@pytest.mark.parametrize(
    ("query_string", "shape", "with_config"),
    [
        (b"", Shape.RECORDS, True),
        (b"v=2", Shape.RECORDS, False),
        (b"v=2&config=true", Shape.RECORDS, True),
        (b"v=3", Shape.RECORDS, False),
        (b"v=4", Shape.TYPED, False),
        (b"v=99&config=true", Shape.TYPED, True),
        (b"v=1", Shape.LEGACY, False),
        (b"v=0", Shape.LEGACY, False),
        (b"v=x", Shape.LEGACY, False),
        (b"config=false", Shape.LEGACY, False),
        (b"config=true", Shape.LEGACY, True),
        (b"compression=base64", Shape.RECORDS, True),
    ],
)
def test_read_query__version_on_flags__chooses_the_shape(query_string: bytes, shape: Shape, with_config: bool) -> None:
    """On /flags the version, and whether `config` is given without one, choose the shape."""
    body = msgspec.json.encode(BASE)
    asked = query(body, query_string)
    assert (asked.shape, asked.with_config) == (shape, with_config)


@pytest.mark.parametrize("is_decide", [True, False], ids=["by-path", "by-header"])
@pytest.mark.parametrize(
    ("query_string", "shape", "with_config"),
    [
        (b"", Shape.DECIDE_LIST, True),
        (b"v=1", Shape.DECIDE_LIST, True),
        (b"v=x", Shape.DECIDE_LIST, True),
        (b"v=2", Shape.DECIDE_MAP, True),
        (b"v=3", Shape.LEGACY, True),
        (b"v=3&config=false", Shape.LEGACY, False),
        (b"v=4", Shape.RECORDS, True),
        (b"v=5", Shape.RECORDS, True),
    ],
)
def test_read_query__version_on_decide__chooses_the_shape(
    is_decide: bool, query_string: bytes, shape: Shape, with_config: bool
) -> None:
    """On /decide, told by path or by a proxy's header, old versions get old shapes, with config by default."""
    headers = {} if is_decide else {"x_original_endpoint": "decide"}
    asked = query(BASE, query_string, is_decide=is_decide, **headers)
    assert (asked.shape, asked.with_config) == (shape, with_config)


@pytest.mark.parametrize("name", ["token", "$token", "api_key"])
def test_read_query__token__has_three_names(name: str) -> None:
    """Each of the names that clients use for the token is taken."""
    assert query({name: "phc_t"}).token == "phc_t"


def test_read_query__canonical_name__wins_over_its_aliases() -> None:
    """Where a member comes under several names, the canonical one counts, unless it is null."""
    assert query({"api_key": "third", "$token": "second", "token": "first"}).token == "first"
    assert query({"api_key": "third", "token": None}).token == "third"
    assert context(**{"$distinct_id": "other"}).distinct_id == "u1"
    assert context(groups={"a": "1"}, **{"$groups": {"a": "2"}}).groups == {"a": "1"}


@pytest.mark.parametrize(
    ("field", "alias", "given", "seen"),
    [
        ("person_properties", "$properties", {"p": 1}, {"p": 1}),
        ("groups", "$groups", {"org": "o"}, {"org": "o"}),
        ("group_properties", "$group_properties", {"org": {"x": 1}}, {"org": {"x": 1}}),
        ("anon_distinct_id", "$anon_distinct_id", "a", "a"),
        ("device_id", "$device_id", "d", "d"),
        ("flag_keys", "flag_keys_to_evaluate", ["a", "b", "a"], frozenset({"a", "b"})),
        ("evaluation_contexts", "evaluation_environments", ["web"], frozenset({"web"})),
    ],
)
def test_read_query__field__is_taken_under_both_names(field: str, alias: str, given: object, seen: object) -> None:
    """Every field of a context is found under its name and under its alias."""
    assert getattr(context(**{field: given}), field) == seen
    assert getattr(context(**{alias: given}), field) == seen


def test_read_query__null_everywhere__is_absent() -> None:
    """A member that is null is as if it were not there."""
    names = [
        "disable_flags", "person_properties", "groups", "group_properties", "anon_distinct_id", "device_id",
        "flag_keys", "evaluation_contexts", "evaluation_runtime", "$groups", "timezone", "sent_at",
    ]  # fmt: skip
    assert query({**BASE, **dict.fromkeys(names)}) == query(BASE)
    assert context(group_properties={"org": None}).group_properties == {}


def test_read_query__no_distinct_id__has_no_context() -> None:
    """A request that names nobody says so, and leaves the judgement to the service."""
    assert query({"token": "phc_t"}).context is None
    assert query({"token": "phc_t", "distinct_id": None, "disable_flags": True}) == FlagsQuery(
        "phc_t", None, Shape.RECORDS, True, False
    )
    assert context(distinct_id="").distinct_id == ""


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (b"12", "12"),
        (b"-7", "-7"),
        (b"1.5", "1.5"),
        (b"1.0", "1.0"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"1" * 4300, "1" * 200),
    ],
)
def test_read_query__number_as_distinct_id__is_its_decimal_text(literal: bytes, text: str) -> None:
    """A numeric id is the same person as its decimal text."""
    asked = query(b'{"distinct_id":%s}' % literal).context
    assert asked is not None
    assert asked.distinct_id == text


@pytest.mark.parametrize("name", ["anon_distinct_id", "device_id"])
@pytest.mark.parametrize(
    ("given", "in_properties", "seen"),
    [("x", "y", "x"), ("", "y", "y"), (None, "y", "y"), (None, 5, None), (None, "", None), (None, None, None)],
)
def test_read_query__id_in_properties__is_the_fallback(
    name: str, given: str | None, in_properties: object, seen: str | None
) -> None:
    """The anonymous and the device id are looked for among the person's properties when not given; empty is absent."""
    asked = context(**{name: given, "person_properties": {f"${name}": in_properties}})
    assert getattr(asked, name) == seen


def test_read_query__group_keys__are_usable_or_left_out() -> None:
    """A group key is text that is not empty or a number; a group with any other key is left out."""
    keys = {"text": "o", "empty": "", "int": 5, "float": 1.5, "bool": True, "null": None, "list": ["o"], "map": {}}
    assert context(groups=keys).groups == {"text": "o", "int": "5", "float": "1.5"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"token": 5}, "$.token"),
        ({"distinct_id": True}, "$.distinct_id"),
        ({"distinct_id": ["u"]}, "$.distinct_id"),
        ({"disable_flags": "yes"}, "$.disable_flags"),
        ({"person_properties": "p"}, "$.person_properties"),
        ({"$groups": []}, "$.$groups"),
        ({"group_properties": {"org": 1}}, "$.group_properties[...]"),
        ({"flag_keys": "a"}, "$.flag_keys"),
        ({"flag_keys": [1]}, "$.flag_keys[0]"),
        ({"evaluation_contexts": {}}, "$.evaluation_contexts"),
        ({"device_id": 1}, "$.device_id"),
    ],
)
def test_read_query__wrong_type__names_its_path(body: dict[str, Any], path: str) -> None:
    """A field of the wrong type is refused with its path."""
    with pytest.raises(UndecodableBody) as caught:
        query({**BASE, **body})
    assert f"at `{path}`" in caught.value.detail


MOZILLA = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"


@pytest.mark.parametrize(
    ("headers", "runtime"),
    [
        ({}, Runtime.UNKNOWN),
        ({"user_agent": MOZILLA}, Runtime.CLIENT),
        ({"user_agent": "Edge/18"}, Runtime.CLIENT),
        ({"user_agent": "posthog-python/7.91.1"}, Runtime.SERVER),
        ({"user_agent": "posthog-node/5.70.0"}, Runtime.SERVER),
        ({"user_agent": "my-app python-requests/2.34"}, Runtime.SERVER),
        ({"user_agent": "curl/8.0"}, Runtime.SERVER),
        ({"user_agent": "posthog-android/3.0"}, Runtime.CLIENT),
        ({"user_agent": "posthog-react-native/3.0"}, Runtime.CLIENT),
        ({"user_agent": "x posthog-python/7"}, Runtime.UNKNOWN),
        ({"user_agent": "posthog-python/7", "origin": "https://x"}, Runtime.SERVER),
        ({"origin": "https://x"}, Runtime.CLIENT),
        ({"referer": "https://x"}, Runtime.CLIENT),
        ({"user_agent": "other", "sec_fetch_mode": "cors"}, Runtime.CLIENT),
    ],
)
def test_read_query__headers__tell_the_runtime(headers: dict[str, str], runtime: Runtime) -> None:
    """Without a word of the caller's own, the user agent and then browser-only headers tell where it runs."""
    assert context(headers).runtime is runtime


@pytest.mark.parametrize(
    ("given", "runtime"),
    [
        ("server", Runtime.SERVER),
        ("CLIENT", Runtime.CLIENT),
        ("all", Runtime.ALL),
        ("unknown", Runtime.ALL),
        ("", Runtime.ALL),
    ],
)
def test_read_query__runtime_in_the_body__counts_before_headers(given: str, runtime: Runtime) -> None:
    """What the caller says of its runtime counts; what is none of the known ones keeps every flag."""
    assert context({"user_agent": MOZILLA}, evaluation_runtime=given).runtime is runtime


def test_read_query__survey_parameter__keeps_only_surveys() -> None:
    """The query string alone decides whether only surveys' flags are wanted."""
    asked = query(BASE, b"v=2&only_evaluate_survey_feature_flags=true").context
    assert asked is not None
    assert asked.only_surveys


def test_read_query__body_of_posthog_python__is_understood() -> None:
    """The default request of posthog-python is read in full."""
    body = (
        b'{"distinct_id":"u1","groups":{"org":"o"},"person_properties":{"p":1},'
        b'"group_properties":{"org":{"$group_key":"o"}},"geoip_disable":true,"device_id":null,'
        b'"sent_at":"2026-11-20T13:30:29.681157+00:00","api_key":"phc_t"}'
    )
    assert query(body, b"v=4", user_agent="posthog-python/7.91.1") == FlagsQuery(
        token="phc_t",
        context=Context(
            distinct_id="u1",
            person_properties={"p": 1},
            groups={"org": "o"},
            group_properties={"org": {"$group_key": "o"}},
            runtime=Runtime.SERVER,
        ),
        shape=Shape.TYPED,
        disable_flags=False,
        with_config=False,
    )

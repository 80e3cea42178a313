"""What a page gets: payloads as posthog-js reads them, and a script that nothing can break out of.

Values of flags are the evaluator's business and tested there.
"""

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.types import FlagResult, Outcome, Reason
from gateway.wire.bootstrap import VARIABLE, payload_member, script_of
from gateway.wire.bootstrap_answer import encode_bootstrap
from gateway.wire.bootstrap_query import Visitor
from gateway.wire.flags import encode_result
from tests.builders import context


def result(key: str = "beta", *, payload: str | None = None, **fields: Any) -> FlagResult:
    fields = {"enabled": True, "variant": None, "reason": Reason("condition_match", 0, "x"), **fields}
    return FlagResult(key=key, id=1, version=1, has_experiment=False, payload=payload, **fields)


def as_posthog_js_reads(value: Any) -> Any:
    """What its getFeatureFlagPayload gives for a payload it was handed."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("5", 5),
        ("null", None),
        ('"green"', "green"),
        ('"5"', '"5"'),  # As 5 it would be read as a number.
        ("not JSON", "not JSON"),
        ("", ""),
        ("NaN", "NaN"),
        ("[" * 100 + "]" * 100, "[" * 100 + "]" * 100),
    ],
)
def test_payload_member__stored_text__is_what_posthog_js_makes_the_same_of(text: str, member: Any) -> None:
    """A payload is a value where it can be, and is read by posthog-js as the one that it later gets from /flags."""
    encoded = payload_member(result("a", payload=text))
    assert encoded is not None
    assert json.loads(b"{%s}" % encoded) == {"a": member}
    if "NaN" not in text:
        assert as_posthog_js_reads(member) == as_posthog_js_reads(text)


@pytest.mark.parametrize("fields", [{}, {"payload": "1", "enabled": False}, {"payload": "1", "failed": True}])
def test_payload_member__flag_without_one__has_none(fields: dict[str, Any]) -> None:
    """Flags that are off or failed bring no payload, as posthog-js would drop it anyway."""
    assert payload_member(result(**fields)) is None


class Elements(HTMLParser):
    """What a browser would see of a piece of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")


NASTY = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            [
                "</script>",
                "<!--",
                "<script",
                "-->",
                "]]>",
                "\u2028",
                "\u2029",
                "&lt;",
                '"',
                "'",
                "\\",
                "\\u003c",
                "__proto__",
            ]
        ),
    )
).map("".join)


@given(key=NASTY, payload=NASTY, variant=NASTY, distinct_id=NASTY)
def test_script_of__anything_in_a_flag_or_an_id__stays_inside(
    key: str, payload: str, variant: str, distinct_id: str
) -> None:
    """Whatever flags, payloads and ids contain, the page has one script element, and the script the answer's values."""
    told = result(key, payload=json.dumps({"nested": payload}), variant=variant)
    answer = encode_bootstrap(
        Visitor(context(distinct_id), is_identified=True),
        [Outcome(told, encode_result(told))],
        version=1,
        age_ms=2,
        source="store",
        errors=False,
        is_over_quota=False,
    )
    script = script_of(answer, "n0nce+/=").decode()
    page = Elements(f"<p>{script}</p>")
    assert page.tags == ["p", "script", "/script", "/p"]
    assert page.attributes == {"nonce": "n0nce+/="}
    start, end = f"{VARIABLE}=JSON.parse(", ")"
    assert page.text.startswith(start)
    literal = page.text[len(start) : -len(end)]
    assert not set("<>&\u2028\u2029") & set(literal)
    # A JavaScript string without these characters is a JSON string.
    assert json.loads(json.loads(literal)) == json.loads(answer)
    assert json.loads(answer)["featureFlags"] == {key: variant}


def test_script_of__no_nonce__has_none() -> None:
    """Without a policy on scripts there is nothing to prove."""
    assert script_of(b"{}", None) == b'<script>window.__FLAGSTONE_BOOTSTRAP__=JSON.parse("{}")</script>'

"""How values are read as text, numbers and truth; what operators make of them is in the corpus."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.values import ascii_lower, is_boolean_like, is_truthy, number_of, text_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, "null"),
        (True, "true"),
        (5, "5"),
        (5.0, "5.0"),
        (1e16, "1e16"),
        (1.5e-7, "1.5e-7"),
        ([1, "a"], '[1,"a"]'),
        ({"b": 1, "a": [None]}, '{"b":1,"a":[null]}'),
        (float("nan"), "null"),
        ("é", "é"),
        (["é"], '["é"]'),
    ],
)
def test_text_of__value__is_itself_or_compact_json(value: object, text: str) -> None:
    """Strings stand for themselves; everything else is written without blanks, as serde writes it."""
    assert text_of(value) == text


@given(st.text())
def test_ascii_lower__any_text__changes_ascii_letters_alone(text: str) -> None:
    """A to Z become a to z; every other character stays as it is."""
    assert ascii_lower(text) == "".join(each.lower() if each.isascii() else each for each in text)


@pytest.mark.parametrize("text", ["1", "+1.", "-.5", "1e3", "1.E-3", "INF", "-infinity", "+nan", "007"])
def test_number_of__text_that_rust_reads__is_a_number(text: str) -> None:
    """Everything that Rust's float parser takes is a number."""
    assert str(number_of(text)) == str(float(text))


@pytest.mark.parametrize("value", ["", ".", "e1", "1e", " 1", "1\n", "1_0", "0x1", "\u0665", "in", True, None, [1], {}])
def test_number_of__anything_else__is_none(value: object) -> None:
    """Blanks, underscores, other digits, other bases, bools and containers are no numbers."""
    assert number_of(value) is None


@given(st.integers() | st.floats(allow_nan=False))
def test_number_of__a_number__is_that_number(value: float) -> None:
    """Numbers are themselves, and so is their JSON text."""
    assert number_of(value) == number_of(json.dumps(value)) == float(value)


def test_number_of__beyond_floats__is_none() -> None:
    """An integer that no float can hold is no number to compare with."""
    assert number_of(10**400) is None


@pytest.mark.parametrize(
    ("value", "boolean_like", "truthy"),
    [
        (True, True, True),
        (False, True, False),
        ("TRUE", True, True),
        ("False", True, False),
        ("yes", False, False),
        (1, False, False),
        (None, False, False),
        ({}, False, False),
        ([], True, True),
        ([[], ["true", True]], True, True),
        ([True, "false"], True, False),
        ([True, "x"], False, False),
    ],
)
def test_truth__of_a_value__is_as_its_words_say(value: object, boolean_like: bool, truthy: bool) -> None:
    """Bools and their words have a truth, arrays have it when all in them do, and nothing else does."""
    assert (is_boolean_like(value), is_truthy(value)) == (boolean_like, truthy)

"""What the values of arguments may be: from text to a value, or argparse's error with what is wrong about it.

Invariant: what cannot be meant is refused here, before anything is opened.
"""

import argparse


def given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def key(text: str) -> str:
    if "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a slash, which no key of a flag has")
    return given(text)


def count(text: str) -> int:
    """A number from 1, as ids are."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def repetitions(text: str) -> int:
    """A number from 0."""
    return 0 if text == "0" else count(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return value


def percent(text: str) -> float:
    """A number of 0 to 100, with or without the sign; whole if it is."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage")
    return int(value) if value.is_integer() else value


def variant(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    return given(name), percent(share)


def payload(text: str) -> tuple[str, str]:
    """The key, and what follows as it stands: JSON text is what flags keep."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=JSON")
    return given(name), value


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not TYPE=KEY")
    return name, value


def properties(text: str) -> dict[str, object]:
    """The properties given by one --person-property."""
    from msgspec import DecodeError, json

    if text.startswith("{"):
        try:
            return json.decode(text, type=dict[str, object])
        except DecodeError as error:
            raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor a JSON object")
    try:
        return {name: json.decode(value)}
    except DecodeError:
        return {name: value}

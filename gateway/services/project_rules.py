"""What a project must be like, and what of it stays as it is.

Limits of what is in a project are the builder's. Invariant: an index of a group type always means the same type.
"""

from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo

from evaluator.types import Problem
from gateway.services.editing_fields import Document

MAX_NAME_CHARACTERS: Final = 400
MAX_TOKEN_CHARACTERS: Final = 200
MAX_SECRET_TOKENS: Final = 10
MAX_GROUP_TYPES: Final = 5
"""As PostHog has them."""


def project_problems(before: Document, after: Document) -> Iterator[Problem]:
    """What is wrong with a project as it shall be; `before` is empty for a new one."""
    if not 0 < len(after.get("name") or "") <= MAX_NAME_CHARACTERS:
        yield _invalid("$.name", f"a project needs a name, of at most {MAX_NAME_CHARACTERS} characters")
    yield from _token(after.get("token"), "$.token")
    secrets = after.get("secret_tokens") or []
    if len(secrets) > MAX_SECRET_TOKENS:
        yield _invalid("$.secret_tokens", f"a project has at most {MAX_SECRET_TOKENS} secret tokens")
    for index, token in enumerate(secrets):
        yield from _token(token, f"$.secret_tokens[{index}]")
    zone = after.get("timezone")
    try:
        ZoneInfo("UTC" if zone is None else zone)
    except (KeyError, ValueError, OSError):  # As zoneinfo says unknown, malformed, and a directory.
        yield _invalid("$.timezone", f"there is no time zone {zone!r}")
    yield from _group_types(before.get("group_types") or [], after.get("group_types") or [])


def _token(token: object, path: str) -> Iterator[Problem]:
    is_plain = isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token
    if not isinstance(token, str) or not is_plain or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
        yield _invalid(path, f"a token has 1 to {MAX_TOKEN_CHARACTERS} printable characters of ASCII, without spaces")


def _group_types(before: list[str], after: list[str]) -> Iterator[Problem]:
    if after[: len(before)] != before:
        yield _invalid(
            "$.group_types", f"flags refer to group types by index, so {before} has to stay at the beginning"
        )
    if len(after) > max(MAX_GROUP_TYPES, len(before)):
        yield _invalid("$.group_types", f"a project has at most {MAX_GROUP_TYPES} group types")
    for index, name in enumerate(after):
        if not name or name in after[:index]:
            yield _invalid(f"$.group_types[{index}]", "each group type needs a name of its own")


def _invalid(path: str, message: str) -> Problem:
    return Problem("invalid", path, None, message)

"""Items as rows hold them: reading versions and shells, and finding out what no store can hold.

No database is known here. Invariant: what one store refuses for its text, every store refuses.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from evaluator.definitions import UNDECODABLE
from evaluator.types import Problem
from gateway.editing_ports import Item, Kind, Read, Work, Write
from gateway.errors import Invalid

TABLES: Final[Mapping[str, str]] = {"flag": "flags", "cohort": "cohorts"}
MAX_PAGE: Final = 1000
"""Rows of one answer at most, whatever is asked for."""
MAX_ID: Final = 2**63 - 1
TOKEN_TAKEN: Final = "The token belongs to another project."  # noqa: S105 - a sentence
KEY_TAKEN: Final = "Another flag has this key."
REQUEST_TAKEN: Final = "There was a request with this key before."

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class _Numbered(msgspec.Struct):
    version: int | None = None


class _Tokened(msgspec.Struct):
    token: str


def item(kind: Kind, item_id: int, document: str | bytes) -> Item:
    """The item that is stored as this; of a project, without the places of flags and cohorts."""
    raw = document.encode() if isinstance(document, str) else document
    return Item(
        kind,
        item_id,
        msgspec.json.decode(raw, type=_Numbered).version or 0,
        _shell(raw) if kind == "project" else raw,
    )


def _shell(document: bytes) -> bytes:
    members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    if members.keys().isdisjoint(TABLES.values()):
        return document
    return msgspec.json.encode({name: value for name, value in members.items() if name not in TABLES.values()})


def token_of(document: bytes) -> str:
    """The token of a project's document."""
    return msgspec.json.decode(document, type=_Tokened).token


def creation(document: bytes, project_id: int) -> Write:
    """What makes a project of this document under this id. Raises Invalid for text that a store cannot hold."""
    refuse_unstorable("project", document)
    members = msgspec.json.decode(document, type=dict[str, Any])
    shell = {name: value for name, value in members.items() if name not in TABLES.values()}
    created = msgspec.json.encode({**shell, "id": project_id, "version": 1})
    return Write("project", project_id, 1, created, None, "created")


def deletion(project: Item) -> Write:
    """What is recorded of a project that is deleted: a change into nothing."""
    return Write("project", project.id, project.version + 1, b"", project.document, "deleted")


def is_storable(text: str) -> bool:
    """Whether every store can hold this text. If not, nothing is stored under it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def storable(texts: Sequence[str]) -> list[str]:
    """Those of them that could be stored."""
    return [text for text in texts if is_storable(text)]


def known_ids(ids: Sequence[int]) -> list[int]:
    """Those of them that could be stored."""
    return [number for number in ids if 0 <= number <= MAX_ID]


def is_storable_value(value: object) -> bool:
    """Whether every store can hold this as JSON."""
    try:
        return _NUL.search(msgspec.json.encode(value)) is None
    except UnicodeEncodeError:
        return False


def refuse_unstorable(what: str, document: bytes, *texts: str | None) -> None:
    """Raises Invalid if a document, or a text to be kept with it, is none that every store can hold."""
    try:
        is_kept = is_storable_value(msgspec.json.decode(document))
    except UNDECODABLE:
        is_kept = False
    if not is_kept or not all(is_storable(text) for text in texts if text is not None):
        why = f"The {what} holds text that cannot be stored, such as a NUL character."
        raise Invalid([Problem("undecodable", "$", None, why)])


class Refused(Exception):
    """Carries what a Work raised past the translation of a driver's errors."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


def asked(work: Work, answer: object = None) -> Read | Sequence[Write]:
    """What the Work asks for next, or what it decided in the end. Raises Refused with what the Work raises."""
    try:
        return work.send(answer)
    except StopIteration as done:
        writes: Sequence[Write] = done.value
        for write in writes:
            refuse_unstorable(f"{write.kind} {write.id}", write.document, write.request_key)
        return writes
    except Exception as error:
        raise Refused(error) from error

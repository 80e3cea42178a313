"""What all commands for managing share: which way to the API, calls that are refused with CommandFailed, and output.

No command lives here. Invariant: what somebody wrote into a flag can neither move the cursor nor hide other text on the
terminal of whoever lists it.
"""

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from config.sources import Loaded
from gateway.commands import CommandFailed
from gateway.commands.transports import JSON, Answer, Content, HttpTransport, Transport, open_local

URL_VARIABLE: Final = "FLAGSTONE_API_URL"
KEY_VARIABLE: Final = "FLAGSTONE_API_KEY"

PROJECTS: Final = "/api/projects"
CURRENT: Final = f"{PROJECTS}/@current"
"""The only project that the key is for."""

NOT_FOUND: Final = 404


class _Problem(msgspec.Struct):
    """One thing that is wrong, at a path of what was sent or in a line of it."""

    message: str
    path: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path or f'line {self.line}'}: {self.message}"


class _Refusal(msgspec.Struct):
    detail: str = ""
    problems: list[_Problem] = []


class Refused(CommandFailed):
    """The API refused; what it said is told, with a line for each problem when there are several."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        refusal = _refusal(answer)
        detail = refusal.detail or f"The API answered {answer.status}."
        retry = f" Try again in {after} s." if (after := answer.headers.get("retry-after")) else ""
        lines = refusal.problems if len(refusal.problems) > 1 else ()
        super().__init__(*(printable(str(it)) for it in (f"{detail}{retry}", *lines)))


class Management:
    """The API as commands call it."""

    def __init__(self, transport: Transport, project: int | None) -> None:
        self._transport = transport
        self.project = CURRENT if project is None else f"{PROJECTS}/{segment(project)}"

    def call(self, method: str, path: str, content: object = None, **query: object) -> Answer:
        """What the API answers to a call with this JSON; members of the query that are None or False are left out.
        Raises Refused."""
        given = {name: "true" if it is True else it for name, it in query.items() if it is not None and it is not False}
        path = f"{path}?{urlencode(given)}" if given else path
        return self.send(method, path, b"" if content is None else msgspec.json.encode(content))

    def send(self, method: str, path: str, content: Content, media_type: str = JSON) -> Answer:
        """The same with a body as it is."""
        answer = self._transport.call(method, path, content, media_type)
        if answer.status == NOT_FOUND and path.startswith(CURRENT) and self._is_undecided():
            raise CommandFailed("There is not exactly one project; name one with --project ID.")
        if answer.status >= 300:
            raise Refused(answer)
        return answer

    def _is_undecided(self) -> bool:
        return self._transport.call("GET", CURRENT).status == NOT_FOUND

    def get(self, path: str, **query: object) -> Answer:
        return self.call("GET", path, **query)


@contextmanager
def open_management(loaded: Loaded, args: Namespace) -> Iterator[Management]:
    """The API that the arguments or the environment name; settings given as arguments mean the store."""
    project = getattr(args, "project", None)
    is_straight = args.config is not None or bool(args.set)
    url = args.api or (None if is_straight else os.environ.get(URL_VARIABLE))
    if url:
        yield Management(HttpTransport(url, _key(args.key_file), args.timeout), project)
        return
    with open_local(loaded.settings) as transport:
        yield Management(transport, project)


def _key(file: Path | None) -> str:
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise CommandFailed(f"The API wants a key: give --key-file FILE, or set {KEY_VARIABLE}.")
        return key
    return read_file(file).decode("ascii", "replace").strip()


def read_file(file: Path) -> bytes:
    """All of a file, or of stdin for `-`."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}") from None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        return msgspec.json.decode(read_file(file), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{file} has no JSON object: {error}") from None


def segment(reference: object) -> str:
    """An id or key as a part of a path."""
    return quote(str(reference), safe="@")


def tell(args: Namespace, answer: Answer, lines: Iterable[str]) -> None:
    """Print the answer: as it came with --json, and otherwise these lines about it."""
    if args.json:
        sys.stdout.buffer.write(answer.body + b"\n" if answer.body else b"")
        sys.stdout.flush()
        return
    for line in lines:
        print(printable(line))


def note(line: str) -> None:
    """Tell something beside the answer."""
    print(printable(line), file=sys.stderr)


def confirm(args: Namespace, question: str) -> None:
    """Comes back if whoever sits at the terminal says yes, or said --yes before."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed("There is nobody at a terminal to ask; say --yes.")
    print(printable(question), "[y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed("Nothing was changed.")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Aligned columns, cut to the width of the terminal if there is one."""
    cells = [list(headings), *([printable("" if it is None else str(it)) for it in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in cells:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        yield line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def page(
    headings: Sequence[str], answer: Answer, row: Callable[[dict[str, Any]], Sequence[object]], what: str
) -> Iterator[str]:
    """The table of a list that the API answers page by page, with a note when this is not all of it."""
    value = answer.value()
    results = value["results"]
    yield from table(headings, map(row, results))
    if len(results) < value["count"]:
        note(f"{len(results)} of {value['count']} {what}; see --limit and --offset")


def moment(text: str | None) -> str:
    """A moment as people read it, in UTC as it came."""
    return (text or "")[:19].replace("T", " ")


def shown(value: object) -> str:
    """A value as compact JSON."""
    return msgspec.json.encode(value).decode()


def printable(text: str) -> str:
    return "".join(it if it.isprintable() else "?" for it in text)


def _refusal(answer: Answer) -> _Refusal:
    """What is JSON or plain text of ours; a proxy's page is not told."""
    try:
        return msgspec.json.decode(answer.body, type=_Refusal)
    except msgspec.DecodeError:
        is_text = answer.headers.get("content-type", "").startswith("text/plain")
        return _Refusal(answer.body.decode("utf-8", "replace").strip() if is_text else "")

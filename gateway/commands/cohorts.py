"""`flagstone cohorts`: list, show, make, change and delete cohorts, and say who is in the static ones.

How a file of members is sent is in uploads.py. Invariant: no list of members is ever held in memory.
"""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from config.sources import Loaded
from gateway.commands.managing import Management, open_management, page, read_object, segment, shown, tell
from gateway.commands.uploads import Upload, upload

LINES = "text/plain; charset=utf-8"


def show_list(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(_path(api), search=args.search, deleted=args.deleted, limit=args.limit, offset=args.offset)
        tell(args, answer, page(("ID", "NAME", "KIND", "VERSION"), answer, _row, "cohorts"))
    return 0


def show(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(_path(api, args.id))
        tell(args, answer, _lines(api, answer.value()))
    return 0


def put(loaded: Loaded, args: Namespace) -> int:
    """Change the cohort with this id; without one, make it."""
    fields = read_object(args.file) if args.file else {}
    given = {"name": args.name, "description": args.description, "is_static": args.static or None}
    fields |= {name: value for name, value in given.items() if value is not None}
    with open_management(loaded, args) as api:
        if args.id is None:
            answer, done = api.call("POST", _path(api), fields), "Created"
        else:
            answer, done = api.call("PATCH", _path(api, args.id), fields), "Changed"
        tell(args, answer, [f"{done} {_summary(answer.value())}"])
    return 0


def delete(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("DELETE", _path(api, args.id))
        tell(args, answer, [f"Deleted cohort {args.id}"])
    return 0


def add_members(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return upload(api, args, _into(_path(api, args.id, "members")))


def remove_members(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        to = Upload("DELETE", _path(api, args.id, "members"), LINES, "taken out", "not in it before")
        return upload(api, args, to)


def replace_members(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return upload(api, args, _into(f"{_path(api, args.id, 'members')}?replace=true"))


def _into(path: str) -> Upload:
    return Upload("POST", path, LINES, "put in", "in it before")


def _path(api: Management, *parts: object) -> str:
    return "/".join((f"{api.project}/cohorts", *map(segment, parts)))


def _row(cohort: dict[str, Any]) -> tuple[object, ...]:
    return cohort["id"], cohort.get("name"), _kind(cohort), cohort.get("version")


def _kind(cohort: dict[str, Any]) -> str:
    return "deleted" if cohort.get("deleted") else "static" if cohort.get("is_static") else "by properties"


def _summary(cohort: dict[str, Any]) -> str:
    return f"cohort {cohort['id']} {cohort.get('name') or ''} (version {cohort.get('version')}, {_kind(cohort)})"


def _lines(api: Management, cohort: dict[str, Any]) -> Iterator[str]:
    yield _summary(cohort)
    if cohort.get("description"):
        yield f"  {cohort['description']}"
    if cohort.get("is_static"):
        yield f"  members: {api.get(_path(api, cohort['id'], 'members')).value()['count']}"
    elif cohort.get("filters"):
        yield f"  {shown(cohort['filters'])}"

"""`flagstone projects` and `flagstone publication`: projects themselves, and how far each has got towards gateways.

What is in a project is managed by the other commands. Invariant: nothing takes a project away without its name having
been shown and a yes.
"""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from config.sources import Loaded
from gateway.commands.managing import (
    PROJECTS,
    confirm,
    moment,
    open_management,
    page,
    read_object,
    segment,
    shown,
    tell,
)


def show_list(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(PROJECTS, search=args.search, limit=args.limit, offset=args.offset)
        tell(args, answer, page(("ID", "NAME", "TOKEN", "VERSION"), answer, _row, "projects"))
    return 0


def show(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(api.project)
        tell(args, answer, _members(answer.value()))
    return 0


def create(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("POST", PROJECTS, _fields(args))
        tell(args, answer, _summary("Created", answer.value()))
    return 0


def put(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("PATCH", api.project, _fields(args))
        tell(args, answer, _summary("Changed", answer.value()))
    return 0


def delete(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        project = api.get(api.project).value()
        confirm(args, f"Delete project {project['id']} {project['name']!r} with everything in it, for good?")
        answer = api.call("DELETE", f"{PROJECTS}/{segment(project['id'])}")
        tell(args, answer, [f"Deleted project {project['id']}"])
    return 0


def publication(loaded: Loaded, args: Namespace) -> int:
    """What is stored against what is published; 1 while the builder refuses the project."""
    with open_management(loaded, args) as api:
        answer = api.get(f"{api.project}/publication")
        value = answer.value()
        tell(args, answer, _members(value))
    return 1 if value.get("is_refused") else 0


def _fields(args: Namespace) -> dict[str, Any]:
    fields = read_object(args.file) if args.file else {}
    given = {"name": args.name, "timezone": args.timezone, "group_types": args.group_type}
    return fields | {name: value for name, value in given.items() if value is not None}


def _row(project: dict[str, Any]) -> tuple[object, ...]:
    return project["id"], project["name"], project["token"], project.get("version")


def _summary(done: str, project: dict[str, Any]) -> Iterator[str]:
    yield f"{done} project {project['id']} {project['name']!r} with the token {project['token']}"


def _members(value: dict[str, Any]) -> Iterator[str]:
    """Each member on a line."""
    width = max(map(len, value))
    for name, it in value.items():
        text = moment(it) if isinstance(it, str) and name.endswith(("_at", "_since")) else it
        yield f"{name:<{width}}  {text if isinstance(text, str) else shown(text)}"

"""`flagstone flags`: list, show, make, change, delete, restore and roll back flags through the management API.

What a flag may look like is decided behind the API, not here. Invariant: a command that changes part of what it
has read says which version that was, so that it never undoes what somebody else did meanwhile.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from config.sources import Loaded
from gateway.commands import CommandFailed
from gateway.commands.managing import (
    NOT_FOUND,
    Management,
    Refused,
    moment,
    open_management,
    page,
    read_object,
    segment,
    shown,
    table,
    tell,
)
from gateway.commands.transports import Answer


def show_list(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(_path(api), search=args.search, deleted=args.deleted, limit=args.limit, offset=args.offset)
        tell(args, answer, page(("ID", "KEY", "STATE", "FOR", "VERSION", "NAME"), answer, _row, "flags"))
    return 0


def show(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(_path(api, args.key))
        tell(args, answer, _lines(answer.value()))
    return 0


def put(loaded: Loaded, args: Namespace) -> int:
    """Change the flag with this key, or make it."""
    fields = read_object(args.file) if args.file else {}
    fields.pop("key", None)
    if args.name is not None:
        fields["name"] = args.name
    with open_management(loaded, args) as api:
        stored = _stored(api, args.key)
        if args.variant or args.payload:
            fields["filters"] = _filters(fields.get("filters") or (stored or {}).get("filters") or {}, args)
        if stored is None:
            return _tell_of(
                args, api.call("POST", _path(api), {**fields, "key": args.key}, dry_run=args.dry_run), "Created"
            )
        return _change(api, args, {"version": stored.get("version"), **fields})


def enable(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return _change(api, args, {"active": True}, "Enabled")


def disable(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return _change(api, args, {"active": False}, "Disabled")


def rollout(loaded: Loaded, args: Namespace) -> int:
    """Set the percentage of one condition; of the only one, if none is named."""
    with open_management(loaded, args) as api:
        flag = api.get(_path(api, args.key)).value()
        filters = flag.get("filters") or {}
        conditions = [dict(it) for it in filters.get("groups") or [{"properties": []}]]
        if args.condition is None and len(conditions) > 1:
            lines = (f"--condition {number}: {_condition(it)}" for number, it in enumerate(conditions, 1))
            raise CommandFailed(f"The flag {args.key} has {len(conditions)} conditions; name one:", *lines)
        number = args.condition or 1
        if number > len(conditions):
            raise CommandFailed(f"The flag {args.key} has no condition {number}; it has {len(conditions)}.")
        conditions[number - 1]["rollout_percentage"] = args.percent
        fields = {"version": flag.get("version"), "filters": {**filters, "groups": conditions}}
        return _change(api, args, fields)


def delete(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        flag = api.get(_path(api, args.key)).value()
        answer = api.call("DELETE", _path(api, flag["id"]), dry_run=args.dry_run)
        undo = f"Deleted {flag['key']}; `flagstone flags restore {flag['id']}` brings it back"
        tell(args, answer, _flip_lines(answer.value()) if args.dry_run else [undo])
    return 0


def restore(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("POST", _path(api, args.id, "restore"), {})
        tell(args, answer, _summary("Restored", answer.value()))
    return 0


def history(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(_path(api, args.key, "history"), limit=args.limit)
        tell(args, answer, history_lines(answer))
    return 0


def roll_back(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("POST", _path(api, args.key, "rollback"), {"to_version": args.version})
        tell(args, answer, _summary(f"Rolled back to version {args.version}:", answer.value()))
    return 0


def _path(api: Management, *parts: object) -> str:
    return "/".join((f"{api.project}/feature_flags", *map(segment, parts)))


def _stored(api: Management, key: str) -> dict[str, Any] | None:
    """The flag, if there is one; a number is the id of one that must be there."""
    try:
        flag: dict[str, Any] = api.get(_path(api, key)).value()
    except Refused as refused:
        if refused.status != NOT_FOUND or key.isdigit():
            raise
        return None
    return flag


def _change(api: Management, args: Namespace, fields: dict[str, Any], done: str = "Changed") -> int:
    return _tell_of(args, api.call("PATCH", _path(api, args.key), fields, dry_run=args.dry_run), done)


def _tell_of(args: Namespace, answer: Answer, done: str) -> int:
    """What became of the flag, or with --dry-run who would see another value."""
    tell(args, answer, _flip_lines(answer.value()) if args.dry_run else _summary(done, answer.value()))
    return 0


def _filters(filters: Mapping[str, Any], args: Namespace) -> dict[str, Any]:
    """These filters with the variants given in the place of the others, and the payloads beside the others."""
    changed = dict(filters)
    changed.setdefault("groups", [])
    if args.variant:
        stored = {it["key"]: it for it in (filters.get("multivariate") or {}).get("variants") or ()}
        variants = [{**stored.get(key, {"key": key}), "rollout_percentage": part} for key, part in args.variant]
        changed["multivariate"] = {"variants": variants}
    if args.payload:
        changed["payloads"] = {**(filters.get("payloads") or {}), **dict(args.payload)}
    return changed


def _row(flag: dict[str, Any]) -> tuple[object, ...]:
    version, name = flag.get("version"), flag.get("name")
    return flag["id"], flag["key"], _state(flag), _audience(flag.get("filters") or {}), version, name


def _state(flag: dict[str, Any]) -> str:
    return "deleted" if flag.get("deleted") else "on" if flag.get("active") else "off"


def _audience(filters: dict[str, Any]) -> str:
    """Who it is for, in a few words."""
    conditions = filters.get("groups") or []
    if len(conditions) != 1:
        return f"{len(conditions)} conditions" if conditions else "nobody"
    who = "some" if conditions[0].get("properties") else "everybody"
    return f"{_percent(conditions[0])} of {who}"


def _percent(part: dict[str, Any]) -> str:
    given = part.get("rollout_percentage")
    return f"{100 if given is None else given:g} %"


def _lines(flag: dict[str, Any]) -> Iterator[str]:
    """A flag for people. Conditions are counted from 1, as reasons do."""
    filters = flag.get("filters") or {}
    yield from _summary("", flag)
    if flag.get("name"):
        yield f"  {flag['name']}"
    if variants := (filters.get("multivariate") or {}).get("variants"):
        yield "  variants: " + ", ".join(f"{it['key']} {_percent(it)}" for it in variants)
    for key, payload in (filters.get("payloads") or {}).items():
        yield f"  payload of {key}: {payload if isinstance(payload, str) else shown(payload)}"
    for number, condition in enumerate(filters.get("groups") or (), 1):
        yield f"  condition {number}: {_condition(condition)}"
    if flag.get("updated_at"):
        yield f"  changed {moment(flag['updated_at'])} by {_author(flag.get('last_modified_by'))}"


def _author(by: object) -> str:
    return by if isinstance(by, str) else shown(by)


def _condition(condition: dict[str, Any]) -> str:
    filters = [
        f"{it.get('key')} {it.get('operator') or 'exact'} {shown(it.get('value'))}"
        for it in condition.get("properties") or ()
    ]
    variant = f", who get {condition['variant']}" if condition.get("variant") else ""
    return f"{_percent(condition)} of {' and '.join(filters) or 'everybody'}{variant}"


def _summary(done: str, flag: dict[str, Any]) -> Iterator[str]:
    yield f"{done} {flag['key']} (id {flag['id']}, version {flag.get('version')}, {_state(flag)})".lstrip()


def _flip_lines(flips: dict[str, Any]) -> Iterator[str]:
    """Who would see another value, of those looked at."""
    unsure = f", {flips['failed']} perhaps" if flips["failed"] else ""
    yield f"{flips['flipped']} of {flips['sampled']} known would see another value{unsure}; nothing was changed"
    for it in flips["by_value"]:
        yield f"  {shown(it['before'])} -> {shown(it['after'])}: {it['count']}, such as {', '.join(it['examples'])}"


def history_lines(answer: Answer) -> Iterator[str]:
    rows = ((it["version"], moment(it["at"]), it["actor"], it["action"]) for it in answer.value()["results"])
    yield from table(("VERSION", "AT (UTC)", "BY", "WHAT"), rows)

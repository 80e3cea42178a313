"""`flagstone apply`: bring flags and cohorts of a project to what a file says, after showing what that changes.

The plan is made behind the API. Invariant: what is carried out is what was shown; an edit by somebody else in between
makes the API refuse.
"""

import tomllib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.sources import Loaded
from gateway.commands import CommandFailed
from gateway.commands.managing import confirm, open_management, read_file, read_object, shown, tell

SIGNS = {"create": "+", "change": "~", "delete": "-"}


def run(loaded: Loaded, args: Namespace) -> int:
    desired = _read(args.file)
    with open_management(loaded, args) as api:
        answer = api.call("POST", f"{api.project}/plan", desired, delete=args.delete)
        plan = answer.value()
        changes = len(plan["changes"])
        if args.dry_run or not changes:
            tell(args, answer, _lines(plan))
            return 0
        if not args.json:
            tell(args, answer, _lines(plan))
        confirm(args, f"Apply {'this change' if changes == 1 else f'these {changes} changes'}?")
        answer = api.call("POST", f"{api.project}/apply", desired, delete=args.delete, if_version=plan["version"])
        tell(args, answer, ["Applied"])
    return 0


def _read(file: Path) -> dict[str, Any]:
    if file.suffix != ".toml":
        return read_object(file)
    try:
        return tomllib.loads(read_file(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} is not TOML: {error}") from None


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    for it in plan["changes"]:
        which = "" if it["action"] == "create" else f" (id {it['id']})"
        yield f"{SIGNS[it['action']]} {it['kind']} {it['name']}{which}"
        if it["action"] == "change":
            for change in it["changes"]:
                yield f"    {change['path']}: {_side(change, 'before')} -> {_side(change, 'after')}"
    yield f"{plan['unchanged']} as in the file, {plan['unmanaged']} not in the file and left alone"


def _side(change: dict[str, Any], side: str) -> str:
    return shown(change[side]) if side in change else "nothing"

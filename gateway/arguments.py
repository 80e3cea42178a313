"""The arguments of the commands for managing, and what every command has in common with the others.

What runs is named and not imported, so that --help stays quick. Invariant: there is no argument for a key, as everybody
on the machine would see it.
"""

import argparse
from pathlib import Path
from typing import Any, Protocol

from gateway import argument_values as values


class Commands(Protocol):
    """Where commands are added. argparse has no public name for it."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """A new command of this name."""
        ...


def add_command(
    commands: Commands, name: str, runs: str, summary: str, examples: str, *, has_demo: bool = False
) -> argparse.ArgumentParser:
    """A command that runs `module:function` of gateway/commands, with the options that all of them share."""
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--config", metavar="FILE", type=Path, help="a TOML file of settings")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="one setting, such as server.port=8080"
    )
    command.set_defaults(runs=runs, demo=False, api=None)
    if has_demo:
        command.add_argument("--demo", action="store_true", help="use the demo project that comes with flagstone")
    return command


def add_management(commands: Commands) -> None:
    """The commands for managing."""
    _projects(_group(commands, "projects", "list, make, change and delete projects"))
    _flags(_group(commands, "flags", "list, make, change, delete and restore flags"))
    cohorts = _group(commands, "cohorts", "list, make, change and delete cohorts, and fill the static ones")
    _cohorts(cohorts)
    _members(_group(cohorts, "members", "say who is in a static cohort"))
    _keys(_group(commands, "keys", "make, list and revoke keys of the management API"))
    for name, what, example in (
        ("persons", "persons", '{"distinct_ids": ["u1"], "properties": {"plan": "team"}, "cohorts": [3]}'),
        ("groups", "groups", '{"type": "company", "key": "acme", "properties": {"seats": 9}}'),
    ):
        people = _group(commands, name, f"put {what} from a file into a project")
        importing = _managing(
            people,
            "import",
            f"persons:import_{name}",
            f"put {what} from a file of one JSON object a line into a project; safe to repeat",
            f"flagstone {name} import {name}.ndjson --project 1\n"
            f"zcat {name}.ndjson.gz | flagstone {name} import - --project 1\n\na line is such as\n  {example}",
        )
        importing.add_argument("file", metavar="FILE", type=Path, help="one JSON object a line; - is stdin")
    applying = _managing(
        commands,
        "apply",
        "apply:run",
        "bring flags and cohorts to what a file says, after showing what that changes",
        "flagstone apply flags.json --dry-run\nflagstone apply flags.toml --project 1 --delete --yes",
    )
    applying.add_argument("file", metavar="FILE", type=Path, help='{"flags": [...], "cohorts": [...]}; JSON, or .toml')
    applying.add_argument("--dry-run", action="store_true", help="only show what would change")
    applying.add_argument("--delete", action="store_true", help="delete what is not in the file")
    _add_yes(applying)
    _managing(
        commands,
        "publication",
        "projects:publication",
        "say which version of a project is stored, and which one gateways get",
        "flagstone publication --project 1",
    )


def _group(commands: Commands, name: str, summary: str) -> Commands:
    group = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return group.add_subparsers(required=True, metavar="ACTION")


def _managing(
    commands: Commands, name: str, runs: str, summary: str, examples: str, *, has_project: bool = True
) -> argparse.ArgumentParser:
    """A command that works on the store which the settings name, or through the API of a running service."""
    command = add_command(commands, name, runs, summary, examples)
    command.add_argument("--api", metavar="URL", help="a running service (default: $FLAGSTONE_API_URL, or the store)")
    command.add_argument("--key-file", metavar="FILE", type=Path, help="has the API's key (or: $FLAGSTONE_API_KEY)")
    command.add_argument(
        "--timeout", metavar="S", type=values.seconds, default=60.0, help="longest wait for the API (60)"
    )
    command.add_argument("--json", action="store_true", help="print what the API answers")
    if has_project:
        command.add_argument(
            "--project", metavar="ID", type=values.count, help="which project (default: the only one there is)"
        )
    return command


def _projects(actions: Commands) -> None:
    listing = _managing(
        actions,
        "list",
        "projects:show_list",
        "list projects",
        "flagstone projects list\nflagstone projects list --api https://flags.example.com --key-file key.txt",
        has_project=False,
    )
    _add_paging(listing)
    showing = _managing(
        actions,
        "show",
        "projects:show",
        "show a project",
        "flagstone projects show 1\nflagstone projects show --json",
        has_project=False,
    )
    showing.add_argument(
        "project", metavar="ID", type=values.count, nargs="?", help="which (default: the only one there is)"
    )
    creating = _managing(
        actions,
        "create",
        "projects:create",
        "make a project",
        "flagstone projects create Shop --group-type company\nflagstone projects create Shop --timezone Europe/Berlin",
        has_project=False,
    )
    creating.add_argument("name", metavar="NAME", type=values.given)
    _add_project_fields(creating)
    setting = _managing(
        actions, "set", "projects:put", "change a project", "flagstone projects set 1 --name Shop", has_project=False
    )
    setting.add_argument("project", metavar="ID", type=values.count)
    setting.add_argument("--name", metavar="TEXT")
    _add_project_fields(setting)
    deleting = _managing(
        actions,
        "delete",
        "projects:delete",
        "delete a project with everything in it",
        "flagstone projects delete 2\nflagstone projects delete 2 --yes",
        has_project=False,
    )
    deleting.add_argument("project", metavar="ID", type=values.count)
    _add_yes(deleting)


def _add_project_fields(command: argparse.ArgumentParser) -> None:
    command.add_argument("--timezone", metavar="NAME", help="where dates without a time zone are, such as UTC")
    command.add_argument(
        "--group-type", metavar="NAME", action="append", help="a group type; give all of them, in their order"
    )
    _add_file(command)


def _flags(actions: Commands) -> None:
    listing = _managing(
        actions, "list", "flags:show_list", "list flags", "flagstone flags list --search checkout\nflagstone flags list"
    )
    _add_paging(listing)
    listing.add_argument("--deleted", action="store_true", help="those that are deleted, instead of the others")
    showing = _managing(
        actions, "show", "flags:show", "show a flag", "flagstone flags show beta\nflagstone flags show beta --json"
    )
    _add_key(showing)
    setting = _managing(
        actions,
        "set",
        "flags:put",
        "change a flag, or make it",
        "flagstone flags set beta --file beta.json --dry-run\n"
        "flagstone flags set button --variant red=50 --variant blue=50 --payload 'red=\"#f00\"'\n"
        "flagstone flags show beta --json | jq '.filters.groups[0].rollout_percentage = 5' | "
        "flagstone flags set beta --file -",
    )
    _add_key(setting)
    _add_file(setting)
    setting.add_argument("--name", metavar="TEXT", help="what people call it")
    setting.add_argument(
        "--variant",
        metavar="KEY=PERCENT",
        type=values.variant,
        action="append",
        help="a variant, in the place of all others",
    )
    setting.add_argument(
        "--payload",
        metavar="KEY=JSON",
        type=values.payload,
        action="append",
        help="what a variant, or true, comes with",
    )
    _add_dry_run(setting)
    for name in ("enable", "disable"):
        switching = _managing(
            actions, name, f"flags:{name}", f"{name} a flag", f"flagstone flags {name} beta --dry-run"
        )
        _add_key(switching)
        _add_dry_run(switching)
    rolling = _managing(
        actions,
        "rollout",
        "flags:rollout",
        "set how many of those whom a condition holds for get the flag",
        "flagstone flags rollout beta 25\nflagstone flags rollout beta 25 --condition 2 --dry-run",
    )
    _add_key(rolling)
    rolling.add_argument("percent", metavar="PERCENT", type=values.percent)
    rolling.add_argument("--condition", metavar="N", type=values.count, help="which condition, counted from 1")
    _add_dry_run(rolling)
    deleting = _managing(actions, "delete", "flags:delete", "delete a flag", "flagstone flags delete beta --dry-run")
    _add_key(deleting)
    _add_dry_run(deleting)
    restoring = _managing(actions, "restore", "flags:restore", "bring a deleted flag back", "flagstone flags restore 7")
    restoring.add_argument(
        "id", metavar="ID", type=values.count, help="its id, as its key may be another flag's by now"
    )
    telling = _managing(
        actions, "history", "flags:history", "say who changed a flag, when and how", "flagstone flags history beta"
    )
    _add_key(telling)
    telling.add_argument("--limit", metavar="N", type=values.count, default=100, help="at most so many changes (100)")
    returning = _managing(
        actions, "rollback", "flags:roll_back", "make a flag what it was", "flagstone flags rollback beta 3"
    )
    _add_key(returning)
    returning.add_argument("version", metavar="VERSION", type=values.count, help="what it was at this version")


def _cohorts(actions: Commands) -> None:
    listing = _managing(actions, "list", "cohorts:show_list", "list cohorts", "flagstone cohorts list --search beta")
    _add_paging(listing)
    listing.add_argument("--deleted", action="store_true", help="those that are deleted, instead of the others")
    showing = _managing(actions, "show", "cohorts:show", "show a cohort", "flagstone cohorts show 3")
    showing.add_argument("id", metavar="ID", type=values.count)
    setting = _managing(
        actions,
        "set",
        "cohorts:put",
        "change a cohort, or make one when no id is given",
        "flagstone cohorts set --name Testers --static\nflagstone cohorts set 3 --file cohort.json",
    )
    setting.add_argument("id", metavar="ID", type=values.count, nargs="?")
    setting.add_argument("--name", metavar="TEXT")
    setting.add_argument("--description", metavar="TEXT")
    setting.add_argument("--static", action="store_true", help="who is in it is said with `cohorts members`")
    _add_file(setting)
    deleting = _managing(actions, "delete", "cohorts:delete", "delete a cohort", "flagstone cohorts delete 3")
    deleting.add_argument("id", metavar="ID", type=values.count)


def _members(actions: Commands) -> None:
    for name, summary in (
        ("add", "put persons into a static cohort"),
        ("remove", "take persons out of a static cohort"),
        ("replace", "have these persons and nobody else in a static cohort"),
    ):
        command = _managing(
            actions, name, f"cohorts:{name}_members", summary, f"flagstone cohorts members {name} 3 ids.txt"
        )
        command.add_argument("id", metavar="ID", type=values.count, help="which cohort")
        command.add_argument("file", metavar="FILE", type=Path, help="one distinct id a line; - is stdin")


def _keys(actions: Commands) -> None:
    creating = _managing(
        actions,
        "create",
        "keys:create",
        "make a key, and print it this once",
        "flagstone keys create admin --scope '*' > key.txt\n"
        "flagstone keys create deploy --scope feature_flag:write --scope cohort:write --project 1 > key.txt",
        has_project=False,
    )
    creating.add_argument("name", metavar="NAME", type=values.given, help="what it is for")
    creating.add_argument(
        "--scope",
        metavar="SCOPE",
        action="append",
        required=True,
        help="what it may do, such as feature_flag:read; * is everything",
    )
    creating.add_argument(
        "--project",
        metavar="ID",
        type=values.count,
        dest="of_project",
        action="append",
        help="where (default: everywhere)",
    )
    _managing(actions, "list", "keys:show_list", "list keys", "flagstone keys list", has_project=False)
    revoking = _managing(
        actions, "revoke", "keys:revoke", "make a key worthless", "flagstone keys revoke 3", has_project=False
    )
    revoking.add_argument("id", metavar="ID", type=values.count)


def _add_key(command: argparse.ArgumentParser) -> None:
    command.add_argument("key", metavar="KEY", type=values.key, help="key of the flag, or its id")


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--file", metavar="FILE", type=Path, help="a JSON object of what to set; - is stdin")


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="only tell who would see another value")


def _add_yes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask")


def _add_paging(command: argparse.ArgumentParser) -> None:
    command.add_argument("--search", metavar="TEXT", help="those whose key or name has this in it")
    command.add_argument("--limit", metavar="N", type=values.count, default=100, help="at most so many (100)")
    command.add_argument("--offset", metavar="N", type=int, default=0, help="leave out so many (0)")

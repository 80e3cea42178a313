"""The command line: which commands there are, what they take, and how their failures are told.

What a command does lives in gateway/commands, imported when it runs so that --help stays quick. Invariant: answers go
to stdout, everything else to stderr; the exit code is 0 when done, 1 when something was refused or found wrong, 2 for
wrong usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name

from gateway import argument_values as values
from gateway.arguments import Commands, add_command, add_management

DEMO = Path(__file__).with_name("demo.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command == "version":
        print(f"flagstone {version('flagstone')}")
        return 0

    if args.command != "serving-worker" and args.api and (args.config or args.set):
        parser.error("--api is the way to a running service, --config and --set to a store; give one of them")

    from config.sources import InvalidConfiguration, load
    from evaluator.definitions import InvalidDefinitions
    from gateway.commands import CommandFailed
    from gateway.errors import StoreError

    try:
        if args.command == "serving-worker":
            from gateway.commands import serving_worker

            return serving_worker.run(args)
        if args.command == "drill":
            # It needs no settings: what it starts has settings of its own.
            return int(resolve_name(f"gateway.commands.{args.runs}")(args))
        args.overrides = [f"store.url=file:{DEMO}", "log.format=text", *args.set] if args.demo else args.set
        loaded = load(args.config, os.environ, args.overrides)
        exit_code: int = resolve_name(f"gateway.commands.{args.runs}")(loaded, args)
    except InvalidConfiguration as error:
        return _fail("The configuration is not usable:", *error.problems)
    except InvalidDefinitions as error:
        return _fail("The definitions are not usable:", *error.problems)
    except (CommandFailed, StoreError) as error:
        return _fail(*error.args)
    except KeyboardInterrupt:
        return _fail("Interrupted.")
    except BrokenPipeError:
        # The reader of our output, `head` perhaps, has seen enough. Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_code


def _fail(summary: object, *details: object) -> int:
    print(f"flagstone: {summary}", *(f"  {detail}" for detail in details), sep="\n", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flagstone", description="Feature flags that keep answering.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_command(
        commands,
        "serve",
        "serve:run",
        "answer flag requests until told to stop",
        "flagstone serve --config flagstone.toml\nflagstone serve --set server.port=0\nflagstone serve --demo",
        has_demo=True,
    )
    _controlling(
        commands,
        "reload",
        "have a running service read its settings anew, as SIGHUP does",
        "flagstone reload --wait\nflagstone reload --config flagstone.toml --wait",
    )
    _controlling(
        commands,
        "restart",
        "have a running service replace its workers one by one, as SIGUSR2 does",
        "flagstone restart --wait --timeout 300",
    )
    telling = _controlling(commands, "status", "say what a running service is doing", "flagstone status --json")
    telling.add_argument("--json", action="store_true", help="print one JSON object")
    # What serve starts; of no use by itself, and therefore not listed.
    commands.add_parser("serving-worker").add_argument("descriptors", type=int, nargs="+")

    add_command(
        commands,
        "worker",
        "worker:run",
        "build and publish what is edited, where `serve` is not to (builder.is_embedded)",
        "flagstone worker --config flagstone.toml --set metrics.port=8002",
    )

    publishing = add_command(
        commands,
        "publish",
        "publish:run",
        "build and publish now what was edited, or with --all everything, as after restoring a backup",
        "flagstone publish\nflagstone publish --all",
    )
    publishing.add_argument("--all", action="store_true", help="build every project anew, under a new version")
    publishing.add_argument("--timeout", metavar="S", type=float, default=300.0, help="seconds to wait (default: 300)")

    add_command(
        commands,
        "check",
        "check:run",
        "show the settings in force and where each came from, or everything wrong with them",
        "flagstone check --config flagstone.toml",
    )

    add_command(
        commands,
        "migrate",
        "migrate:run",
        "bring the schema of the store's database up to date; safe to repeat",
        "flagstone migrate --set store.url=postgresql://flagstone@localhost/flagstone",
    )

    importing = add_command(
        commands,
        "import",
        "transfer:run_import",
        "put projects, flags and persons from a file into the store",
        "flagstone import definitions.json --dry-run\nflagstone import definitions.json",
    )
    importing.add_argument("file", metavar="FILE", type=Path, help='a document {"projects": [...]}')
    importing.add_argument("--dry-run", action="store_true", help="only tell what would be imported")

    exporting = add_command(
        commands,
        "export",
        "transfer:run_export",
        "write everything in the store as a document that import reads",
        "flagstone export -o backup.json",
        has_demo=True,
    )
    exporting.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write (default: stdout)")

    explaining = add_command(
        commands,
        "explain",
        "explain:run",
        "tell step by step why a flag has its value for somebody",
        "flagstone explain --demo checkout-button alice\n"
        "flagstone explain beta-search u1 --person-property email=u1@example.com\n"
        'flagstone explain offline-mode u1 --person-property \'{"app_version": "2.4.0"}\' --json',
        has_demo=True,
    )
    explaining.add_argument("flag", metavar="FLAG", help="key of the flag")
    explaining.add_argument("distinct_id", metavar="DISTINCT_ID", help="whom to evaluate it for")
    explaining.add_argument("--project", metavar="TOKEN", help="public token (default: the only project in the store)")
    explaining.add_argument(
        "--person-property",
        metavar="KEY=VALUE",
        type=values.properties,
        action="append",
        default=[],
        help="a property as the request would send it, the value as JSON or text; or a JSON object of properties",
    )
    explaining.add_argument(
        "--group",
        metavar="TYPE=KEY",
        type=values.pair,
        action="append",
        default=[],
        help="a group the request would name",
    )
    explaining.add_argument("--device-id", metavar="ID", help="the device the request would come from")
    explaining.add_argument("--anon-distinct-id", metavar="ID", help="the anonymous id the person had before")
    explaining.add_argument("--json", action="store_true", help="print one JSON object")

    add_management(commands)
    _drilling(commands)
    commands.add_parser("version", help="print the version")
    return parser


def _controlling(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A command for a running service, which is found by the setting `server.control_path`."""
    command = add_command(commands, name, f"control:{name}", summary, examples)
    command.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds to wait (default: 60)")
    if name != "status":
        command.add_argument("--wait", action="store_true", help="wait, and say what became of it")
    return command


def _drilling(commands: Commands) -> None:
    summary = "rehearse outages on servers of its own, and report what became of the requests"
    group = commands.add_parser("drill", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    group.set_defaults(api=None)
    actions = group.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the drills, and what they need that is not here")
    listing.set_defaults(runs="drill:show_list")
    running = actions.add_parser(
        "run",
        help="run drills; the exit code is 0 when all have passed",
        description="Run drills, each on servers started for it and stopped after it, and write their reports.",
        epilog="examples:\n  flagstone drill run 2025-10-24\n  flagstone drill run my-own.toml --report reports\n"
        "  flagstone drill run all --repeat-failed 1\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    running.set_defaults(runs="drill:run")
    running.add_argument("drills", metavar="NAME|FILE", nargs="+", help="a name of the list, a TOML file, or all")
    running.add_argument(
        "--report", metavar="DIR", type=Path, default=Path("drill-reports"), help="for reports (default: drill-reports)"
    )
    running.add_argument("--protected-only", action="store_true", help="leave out the run without the protection")
    running.add_argument(
        "--repeat-failed", metavar="N", type=values.repetitions, default=0, help="give those that fail N more tries (0)"
    )


if __name__ == "__main__":
    sys.exit(main())

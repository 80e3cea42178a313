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
from typing import Any

DEMO = Path(__file__).with_name("demo.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = _parser().parse_args(arguments)
    if args.command == "version":
        print(f"flagstone {version('flagstone')}")
        return 0

    from config.sources import InvalidConfiguration, load
    from evaluator.definitions import InvalidDefinitions
    from gateway.commands import CommandFailed
    from gateway.errors import StoreError

    try:
        if args.command == "worker":
            from gateway.commands import worker

            return worker.run(args)
        args.overrides = [f"store.url=file:{DEMO}", "log.format=text", *args.set] if args.demo else args.set
        loaded = load(args.config, os.environ, args.overrides)
        exit_code: int = resolve_name(f"gateway.commands.{args.runs}")(loaded, args)
    except InvalidConfiguration as error:
        return _fail("The configuration is not usable:", *error.problems)
    except InvalidDefinitions as error:
        return _fail("The definitions are not usable:", *error.problems)
    except (CommandFailed, StoreError) as error:
        return _fail(*error.args)
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

    _command(
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
    commands.add_parser("worker").add_argument("descriptors", type=int, nargs="+")

    _command(
        commands,
        "check",
        "check:run",
        "show the settings in force and where each came from, or everything wrong with them",
        "flagstone check --config flagstone.toml",
    )

    _command(
        commands,
        "migrate",
        "migrate:run",
        "bring the schema of the store's database up to date; safe to repeat",
        "flagstone migrate --set store.url=postgresql://flagstone@localhost/flagstone",
    )

    importing = _command(
        commands,
        "import",
        "transfer:run_import",
        "put projects, flags and persons from a file into the store",
        "flagstone import definitions.json --dry-run\nflagstone import definitions.json",
    )
    importing.add_argument("file", metavar="FILE", type=Path, help='a document {"projects": [...]}')
    importing.add_argument("--dry-run", action="store_true", help="only tell what would be imported")

    exporting = _command(
        commands,
        "export",
        "transfer:run_export",
        "write everything in the store as a document that import reads",
        "flagstone export -o backup.json",
        has_demo=True,
    )
    exporting.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write (default: stdout)")

    explaining = _command(
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
        type=_properties,
        action="append",
        default=[],
        help="a property as the request would send it, the value as JSON or text; or a JSON object of properties",
    )
    explaining.add_argument(
        "--group", metavar="TYPE=KEY", type=_pair, action="append", default=[], help="a group the request would name"
    )
    explaining.add_argument("--device-id", metavar="ID", help="the device the request would come from")
    explaining.add_argument("--anon-distinct-id", metavar="ID", help="the anonymous id the person had before")
    explaining.add_argument("--json", action="store_true", help="print one JSON object")

    commands.add_parser("version", help="print the version")
    return parser


def _command(
    commands: "argparse._SubParsersAction[Any]",
    name: str,
    runs: str,
    summary: str,
    examples: str,
    *,
    has_demo: bool = False,
) -> argparse.ArgumentParser:
    """A command that runs `module:function` of gateway/commands, with the options that all of them share."""
    command: argparse.ArgumentParser = commands.add_parser(
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
    command.set_defaults(runs=runs, demo=False)
    if has_demo:
        command.add_argument("--demo", action="store_true", help="use the demo project that comes with flagstone")
    return command


def _controlling(
    commands: "argparse._SubParsersAction[Any]", name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A command for a running service, which is found by the setting `server.control_path`."""
    command = _command(commands, name, f"control:{name}", summary, examples)
    command.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds to wait (default: 60)")
    if name != "status":
        command.add_argument("--wait", action="store_true", help="wait, and say what became of it")
    return command


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not TYPE=KEY")
    return key, value


def _properties(text: str) -> dict[str, object]:
    """The properties given by one --person-property."""
    from msgspec import DecodeError, json

    if text.startswith("{"):
        try:
            return json.decode(text, type=dict[str, object])
        except DecodeError as error:
            raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor a JSON object")
    try:
        return {key: json.decode(value)}
    except DecodeError:
        return {key: value}


if __name__ == "__main__":
    sys.exit(main())

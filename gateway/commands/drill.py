"""`flagstone drill`: rehearse outages. What it does is the package drills', which sees flagstone only from outside."""

from argparse import Namespace
from importlib.util import find_spec

from gateway.commands import CommandFailed


def show_list(_: Namespace) -> int:
    from drills import cli

    return cli.show_list()


def run(args: Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise CommandFailed("Drills need what is not installed here: pip install 'flagstone[drills]'")
    from drills import cli

    return cli.run(args.drills, args.report, is_protected_only=args.protected_only, repeats=args.repeat_failed)

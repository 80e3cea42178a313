"""`flagstone serving-worker`: what `serve` starts; of no use by itself."""

from argparse import Namespace

from gateway.commands import CommandFailed
from gateway.server import worker
from gateway.server.listener import CannotServe


def run(args: Namespace) -> int:
    try:
        return worker.run(*args.descriptors)
    except CannotServe as error:
        raise CommandFailed(str(error)) from None

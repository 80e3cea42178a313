"""`flagstone worker`: what `serve` starts; of no use by itself."""

from argparse import Namespace

from gateway.server import worker


def run(args: Namespace) -> int:
    return worker.run(*args.descriptors)

"""`flagstone check`: the settings in force. Those nobody should start with were refused before it runs."""

from argparse import Namespace

from config.sources import Loaded, render


def run(loaded: Loaded, _: Namespace) -> int:
    print(render(loaded), end="")
    return 0

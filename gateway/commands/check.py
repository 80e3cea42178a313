"""`flagstone check`: the settings in force. Those nobody should start with were refused before it runs."""

import sys
from argparse import Namespace

from config.settings import advise
from config.sources import Loaded, render


def run(loaded: Loaded, _: Namespace) -> int:
    print(render(loaded), end="")
    for problem in advise(loaded.settings):
        print(f"warning: {problem}", file=sys.stderr)
    return 0

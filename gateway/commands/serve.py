"""`flagstone serve`: answer requests in this process until told to stop."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from shutil import which

from config.sources import Loaded
from gateway.app import create_app
from gateway.commands import CommandFailed
from gateway.server import CannotServe, bind, serve, url_of
from gateway.telemetry import set_up_logging

_DEMO_HINT = """
The demo project has the token phc_demo, and knows the persons alice and bob. Try:

  curl -s '{url}/flags?v=2' -H 'Content-Type: application/json' \\
    -d '{{"token": "phc_demo", "distinct_id": "alice", "flag_keys": ["checkout-button"]}}'

  curl -s '{url}/flags?v=2' -H 'Content-Type: application/json' \\
    -d '{{"token": "phc_demo", "distinct_id": "you", "flag_keys": ["beta-search"],
         "person_properties": {{"email": "you@example.com"}}}}'

  {flagstone} explain --demo checkout-button bob
"""


def run(loaded: Loaded, args: Namespace) -> int:
    server = loaded.settings.server
    set_up_logging(loaded.settings.log)
    try:
        listener = bind(server)
        url = url_of(listener)

        def announce() -> None:
            print(f"flagstone is ready at {url}", flush=True)
            if args.demo:
                print(_DEMO_HINT.format(url=url, flagstone=_how_we_were_called()), flush=True)

        return asyncio.run(serve(create_app(loaded.settings), server, listener, announce))
    except CannotServe as error:
        raise CommandFailed(str(error)) from None


def _how_we_were_called() -> str:
    program = sys.argv[0]
    if Path(program).name != "flagstone":
        return f"{sys.executable} -m gateway"
    return "flagstone" if which("flagstone") == str(Path(program).absolute()) else program

"""`flagstone serve`: answer requests in this process until told to stop."""

import asyncio
import logging
import sys
from argparse import Namespace
from pathlib import Path
from shutil import which

from config.settings import advise
from config.sources import Loaded
from gateway.app import MetricsApp, create_app
from gateway.commands import CommandFailed
from gateway.metrics import Metrics
from gateway.server import Aside, CannotServe, bind, serve, url_of
from gateway.telemetry import log_event, set_up_logging

METRICS_BACKLOG = 16

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
        listener = bind(server.host, server.port, server.backlog)
        url = url_of(listener)
        metrics = Metrics()
        aside = _metrics_aside(loaded, metrics)
        aside_url = url_of(aside[1]) if aside else None
        for problem in advise(loaded.settings):
            log_event("settings_questionable", logging.WARNING, problem=problem)

        def announce() -> None:
            print(f"flagstone is ready at {url}", flush=True)
            if aside is not None:
                print(f"metrics are at {aside_url}/metrics", flush=True)
            if args.demo:
                print(_DEMO_HINT.format(url=url, flagstone=_how_we_were_called()), flush=True)

        app = create_app(loaded.settings, metrics=metrics)
        return asyncio.run(serve(app, server, listener, announce, aside))
    except CannotServe as error:
        raise CommandFailed(str(error)) from None


def _metrics_aside(loaded: Loaded, metrics: Metrics) -> Aside | None:
    chosen = loaded.settings.metrics
    if not chosen.is_enabled:
        return None
    try:
        return MetricsApp(metrics), bind(chosen.host, chosen.port, METRICS_BACKLOG)
    except CannotServe as error:
        raise CannotServe(f"{error} (for metrics: metrics.port, or metrics.is_enabled=false)") from None


def _how_we_were_called() -> str:
    program = sys.argv[0]
    if Path(program).name != "flagstone":
        return f"{sys.executable} -m gateway"
    return "flagstone" if which("flagstone") == str(Path(program).absolute()) else program

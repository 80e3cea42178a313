"""`flagstone serve`: answer requests, with as many workers as asked for, until told to stop."""

import asyncio
import logging
import os
import sys
from argparse import Namespace
from pathlib import Path
from shutil import which
from socket import socket

from config.operating import Metrics
from config.settings import advise
from config.sources import Loaded, load
from gateway.commands import CommandFailed
from gateway.server.control import controlled
from gateway.server.engines import name_of_engine
from gateway.server.listener import CannotServe, bind, tls_context, url_of
from gateway.server.supervisor import Supervisor
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
    settings = loaded.settings
    server, metrics = settings.server, settings.metrics
    set_up_logging(settings.log)
    scheme = "https" if server.tls_certificate else "http"
    try:
        engine = name_of_engine(server)
        tls_context(server)
        listener = bind(server.host, server.port, server.backlog)
        url = url_of(listener, scheme)
        aside = bind_for_metrics(metrics) if metrics.is_enabled else None
        aside_url = url_of(aside) if aside else None
    except (ModuleNotFoundError, CannotServe) as error:
        raise CommandFailed(str(error)) from None
    for problem in advise(settings):
        log_event("settings_questionable", logging.WARNING, problem=problem)

    def announce() -> None:
        print(f"flagstone is ready at {url}", flush=True)
        if aside_url is not None:
            print(f"metrics are at {aside_url}/metrics", flush=True)
        if args.demo:
            print(_DEMO_HINT.format(url=url, flagstone=_how_we_were_called()), flush=True)
        log_event("started", engine=engine, workers=server.workers, url=url)

    async def supervise() -> int:
        supervisor = Supervisor(
            loaded, lambda: load(args.config, os.environ, args.overrides), listener, aside, announce
        )
        async with controlled(supervisor, server.control_path):
            return await supervisor.run()

    return asyncio.run(supervise())


def bind_for_metrics(metrics: Metrics) -> socket:
    try:
        return bind(metrics.host, metrics.port, METRICS_BACKLOG)
    except CannotServe as error:
        raise CannotServe(f"{error} (for metrics: metrics.port, or metrics.is_enabled=false)") from None


def _how_we_were_called() -> str:
    program = sys.argv[0]
    if Path(program).name != "flagstone":
        return f"{sys.executable} -m gateway"
    return "flagstone" if which("flagstone") == str(Path(program).absolute()) else program

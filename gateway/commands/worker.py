"""`flagstone worker`: build and publish what is edited, until told to stop; SIGHUP has it read its settings anew."""

import asyncio
import faulthandler
import os
import signal
from argparse import Namespace
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from config.reload import Live
from config.sources import Loaded, load
from gateway.builder_metrics import BuilderMetrics
from gateway.commands import CommandFailed
from gateway.commands.serve import bind_for_metrics
from gateway.management import Management
from gateway.ports import SystemClock
from gateway.server.aside import Aside
from gateway.server.connections import SWEEP_S
from gateway.server.container_metrics import ContainerMetrics
from gateway.server.listener import CannotServe, url_of
from gateway.server.reload_metrics import ReloadMetrics
from gateway.server.reloading import reload_alone
from gateway.telemetry import log_event, set_up_logging
from gateway.wiring import follow_settings, open_builder, open_store

HANG_GRACE_S: Final = 60.0
"""How long the process may do nothing at all before a watchdog ends it, so that whoever runs it starts it anew."""


def run(loaded: Loaded, args: Namespace) -> int:
    set_up_logging(loaded.settings.log)
    try:
        asyncio.run(_work(Live(loaded.settings), lambda: load(args.config, os.environ, args.overrides)))
    except CannotServe as error:
        raise CommandFailed(str(error)) from None
    return 0


async def _work(live: Live, load: Callable[[], Loaded]) -> None:
    settings = live.settings
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics, reloads = BuilderMetrics(), ReloadMetrics()
    metrics.render_beside(reloads)
    metrics.render_beside(ContainerMetrics())
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.reloaded(reload_alone(live, load).result))
    async with AsyncExitStack() as opened:
        store = await opened.enter_async_context(open_store(settings))
        if store.builds is None:
            raise CommandFailed(f"A {settings.store.url.scheme}: store is served as it is: there is nothing to build.")
        follow_settings(store, live)
        aside = await _open_metrics(opened, live, metrics)
        await opened.enter_async_context(open_builder(store.builds, live, SystemClock(), metrics))
        print("flagstone worker is building", flush=True)
        log_event("worker_started")
        opened.callback(faulthandler.cancel_dump_traceback_later)
        while not stop.is_set():
            faulthandler.dump_traceback_later(SWEEP_S + HANG_GRACE_S, exit=True)
            if aside is not None:
                aside.sweep()
            await asyncio.wait({stopping := asyncio.ensure_future(stop.wait())}, timeout=SWEEP_S)
            stopping.cancel()
        log_event("stopping")


async def _open_metrics(opened: AsyncExitStack, live: Live, metrics: BuilderMetrics) -> Aside | None:
    if not live.settings.metrics.is_enabled:
        return None

    async def render() -> bytes:
        return metrics.render()

    listener = bind_for_metrics(live.settings.metrics)
    aside = Aside(listener, Management(live, render), lambda: live.settings.server)
    aside.begin()
    opened.push_async_callback(aside.close)
    print(f"metrics are at {url_of(listener)}/metrics", flush=True)
    return aside

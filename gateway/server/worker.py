"""One process that answers requests: opens the app, accepts, obeys its supervisor, and leaves in order.

Started by supervisor.py, which owns the sockets and the settings. Invariant: a worker whose supervisor is gone finishes
what is in flight and exits; one that is stuck is ended by a watchdog that needs nothing from Python.
"""

import asyncio
import faulthandler
import gc
import logging
import math
import random
import signal
import socket
from time import process_time
from typing import Any, Final

from config.reload import Live, loads
from config.server import Server
from config.settings import Settings
from gateway.app import create_app
from gateway.background import Background
from gateway.management import Management
from gateway.metrics import Metrics
from gateway.middleware.admission import Admission
from gateway.ports import Deadline, SystemClock
from gateway.process import open_files, resident_bytes
from gateway.server.acceptor import Acceptor
from gateway.server.aside import Aside
from gateway.server.certificate import expires_at
from gateway.server.channel import (
    Accepting,
    Begin,
    Commit,
    Committed,
    CutOff,
    Drain,
    Gathered,
    Go,
    LameDuck,
    Opened,
    Prepare,
    Prepared,
    Ready,
    Render,
    Rendered,
    ReplaceMe,
    WorkerEnd,
    worker_end,
)
from gateway.server.colleagues import Colleagues
from gateway.server.connections import SWEEP_S, Connections
from gateway.server.engines import Serving, make_engine, name_of_engine, new_event_loop
from gateway.server.lifespan import running
from gateway.server.listener import tls_context
from gateway.server.machine import open_descriptors
from gateway.server.requests import InFlight
from gateway.services.snapshots import SnapshotService
from gateway.services.status import StatusService
from gateway.telemetry import log_event, set_up_logging
from gateway.traced_metrics import metrics_of

CLOSE_GRACE_S: Final = 2.0
"""How long connections may take to close once their requests were cut off."""
LINGER_S: Final = 0.25
"""How long idle connections are kept once a worker stops: a request may be on its way on them."""
SPARE_DESCRIPTORS: Final = 256
"""For everything that is no connection of a client."""
COLLECT_AFTER: Final = (10_000, 20, 100)
"""Thresholds of the garbage collector: what requests leave is not cyclic, and looking through all of a large project
takes 30 to 70 ms, in which nobody is answered. Python's own let that happen several times a second."""
READY_POLL_S: Final = 0.2
LAG_S: Final = 0.1
"""How often the lag of the event loop is measured."""
_MAX_EARLIER: Final = 0.1
"""Part of `server.max_requests` that is left out at random."""


def run(channel: int, listener: int, metrics_listener: int | None = None) -> int:
    """Be a worker on these descriptors; the exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # A terminal sends them to all; the supervisor knows what to do.
    sockets = [socket.socket(fileno=it) if it is not None else None for it in (channel, listener, metrics_listener)]
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_work(*sockets))  # type: ignore[arg-type]


async def _work(end: socket.socket, listener: socket.socket, metrics_listener: socket.socket | None) -> int:
    channel = await worker_end(end)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return 1
    live = Live(loads(begin.settings))
    set_up_logging(live.settings.log, is_batched=True)
    metrics = metrics_of(live.settings, SystemClock())
    worker = Worker(channel, begin.index, live, metrics)
    app = create_app(live, metrics=metrics)
    async with running(app) as state:
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        worker.open(app, state, listener, metrics_listener)
        await worker.work()
    return 0


class Worker:
    """A worker from its beginning to its end."""

    def __init__(self, channel: WorkerEnd, index: int, live: Live, metrics: Metrics) -> None:
        self._channel = channel
        self._index = index
        self._live = live
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._prepared: Settings | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._background = Background()
        self._cut_off_at = math.inf
        self._lag_s = 0.0
        self._busy_ratio = 0.0
        self._has_asked_to_go = False
        self._earlier = random.random() * _MAX_EARLIER  # noqa: S311 - spreads load, guards nothing

    def __repr__(self) -> str:
        return f"<Worker {self._index}, {self._live!r}, {self._connections!r}, {self._in_flight!r}>"

    def open(
        self, app: Admission, state: dict[str, Any], listener: socket.socket, metrics_listener: socket.socket | None
    ) -> None:
        """Everything but accepting."""
        server = self._live.settings.server
        now = self._loop.time
        self._app = app
        self._in_flight = InFlight(app, now)
        self._connections = Connections(self._server, now, self._metrics.connection_ended)
        self._engine = make_engine(
            name_of_engine(server),
            Serving(self._in_flight, state, self._connections, self._server, app.refuse, app.release),
        )
        self._max_descriptors = open_files()
        most = self._max_descriptors - SPARE_DESCRIPTORS
        self._acceptor = Acceptor(
            listener,
            self._engine.make_protocol,
            self._connections,
            lambda: min(self._server().max_connections, most),
            tls_context(server),
        )
        self._state = state
        if server.tls_certificate:
            # Of what is served from now on, whatever becomes of the file.
            self._metrics.certificate_expires_at.set(expires_at(server.tls_certificate))
        self._metrics.at_scrape(self._measure)
        status: StatusService = state["status"]
        self._colleagues = Colleagues(self._index, self._channel.send, self._metrics.render, status.report)
        self._aside: Aside | None = None
        if metrics_listener is not None:
            managing = Management(self._live, self._colleagues.metrics, self._colleagues.status)
            self._aside = Aside(metrics_listener, managing, self._server)

    async def work(self) -> None:
        """Answer requests until told to stop."""
        self._loop.add_signal_handler(signal.SIGTERM, self._ask_to_go, "signal")
        self._channel.send(Opened())
        self._background.spawn(self._keep_sweeping())
        self._background.spawn(self._keep_measuring())
        try:
            while (message := await self._channel.receive()) is not None:
                self._obey(message)
            if self._leaving is None:
                log_event("supervisor_gone", logging.WARNING)
            await self._leave()
        finally:
            self._background.cancel()
            faulthandler.cancel_dump_traceback_later()

    def _server(self) -> Server:
        return self._live.settings.server

    def _obey(self, message: object) -> None:
        match message:
            case Go(generation=generation, settings=settings):
                self._put_in_force(generation, loads(settings))
                self._accept()
            case Prepare():
                self._prepare(message)
            case Commit(generation=generation) if self._prepared is not None:
                self._put_in_force(generation, self._prepared)
                self._channel.send(Committed(generation))
            case LameDuck():
                self._live.is_leaving = True
                self._in_flight.close_connections()
            case Drain():
                self._leave()
            case CutOff():
                self._leave()
                self._cut_off()
            case Render(query=query, is_status=is_status):
                self._channel.send(Rendered(query, self._colleagues.own(is_status=is_status)))
            case Gathered():
                self._colleagues.gathered(message)

    def _prepare(self, message: Prepare) -> None:
        try:
            self._prepared = loads(message.settings)
        except ValueError as error:
            self._channel.send(Prepared(message.generation, str(error)))
            return
        self._channel.send(Prepared(message.generation))

    def _put_in_force(self, generation: int, new: Settings) -> None:
        old = self._live.settings
        self._live.put_in_force(new, generation)
        self._prepared = None
        if new.log != old.log:
            set_up_logging(new.log, is_batched=True)

    def _accept(self) -> None:
        self._acceptor.begin()
        if self._aside is not None:
            self._aside.begin()
        self._channel.send(Accepting())
        self._background.spawn(self._tell_when_ready())

    async def _tell_when_ready(self) -> None:
        snapshots: SnapshotService = self._state["snapshots"]
        while not await snapshots.is_ready(Deadline(SystemClock(), READY_POLL_S)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(READY_POLL_S)
        self._channel.send(Ready())

    def _ask_to_go(self, reason: str) -> None:
        if not self._has_asked_to_go:
            self._has_asked_to_go = True
            self._channel.send(ReplaceMe(reason))

    def _leave(self) -> asyncio.Task[None]:
        if self._leaving is None:
            self._live.is_leaving = True
            self._leaving = self._loop.create_task(self._drain())
        return self._leaving

    async def _drain(self) -> None:
        """Let requests in flight finish until the drain timeout, then cut them off, then their connections."""
        log_event("stopping", requests_in_flight=len(self._in_flight))
        self._in_flight.close_connections()
        self._engine.close_connections()
        await self._acceptor.close()
        server = self._server()
        await self._all_closed(min(LINGER_S, server.drain_timeout_s))
        self._connections.close_idle()
        await self._all_closed(server.drain_timeout_s)
        self._cut_off()
        await self._all_closed(CLOSE_GRACE_S)
        if self._connections:
            log_event("connections_aborted", logging.WARNING, connections=self._connections.abort())
        if self._aside is not None:
            await self._aside.close()
        self._channel.close()

    async def _all_closed(self, within_s: float) -> None:
        """Returns once no connection is left, or after this time, which is shortened when everything is cut off."""
        began_at = self._loop.time()
        while self._connections and self._loop.time() < min(began_at + within_s, self._cut_off_at + CLOSE_GRACE_S):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _cut_off(self) -> None:
        self._cut_off_at = min(self._cut_off_at, self._loop.time())
        self._in_flight.cut_off()

    async def _keep_sweeping(self) -> None:
        """Bounds in time, and the watchdog, which ends this process soon if this crashes."""
        while True:
            server, requests = self._server(), self._live.settings.requests
            faulthandler.dump_traceback_later(SWEEP_S + server.hang_timeout_s, exit=True)
            await asyncio.sleep(SWEEP_S)
            self._engine.tick()
            self._connections.sweep()
            self._in_flight.sweep(requests.budget_ms / 1000 + requests.body_timeout_s + server.write_timeout_s)
            if self._aside is not None:
                self._aside.sweep()
            if server.max_requests and self._in_flight.served >= server.max_requests * (1 - self._earlier):
                self._ask_to_go("max_requests")
            if server.max_memory_bytes and resident_bytes() > server.max_memory_bytes:
                self._ask_to_go("memory")

    async def _keep_measuring(self) -> None:
        """How late the loop is and how busy the process, which the limit on concurrency follows."""
        at, used_s = self._loop.time(), process_time()
        while True:
            await asyncio.sleep(LAG_S)
            before_s, used_before_s = at, used_s
            at, used_s = self._loop.time(), process_time()
            self._busy_ratio = (used_s - used_before_s) / (at - before_s)
            self._lag_s = max(0.0, at - before_s - LAG_S)
            self._app.sample_lag(self._lag_s, self._busy_ratio)

    def _measure(self) -> None:
        metrics = self._metrics
        metrics.connections("idle", self._connections.idle)
        metrics.connections("active", len(self._connections) - self._connections.idle)
        metrics.loop_lag_s.set(self._lag_s)
        metrics.busy_ratio.set(self._busy_ratio)
        metrics.resident_bytes.set(resident_bytes())
        metrics.cpu_s.set(process_time())
        metrics.open_descriptors.set(open_descriptors())
        metrics.max_descriptors.set(self._max_descriptors)
        metrics.settings_generation.set(self._live.generation)

"""What a request costs in all: microseconds of processor time, from the bare engine to the service with all defences.

One server process at a time under 64 busy connections, rounds interleaved; the least of each is told. The undefended
app is the same one without the middleware that only defends, and without counting connections and requests.
"""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.evaluation import DISTINCT_ID, PROPERTIES, project
from config.reload import Live
from config.sources import load
from drills.machine import machine
from evaluator.evaluate import evaluate
from evaluator.snapshot import build_snapshot
from evaluator.types import Context, Facts
from gateway.app import ROUTES, create_app
from gateway.metrics import Metrics
from gateway.middleware.boundary import ErrorBoundary
from gateway.middleware.record import RecordRequests
from gateway.ports import SystemClock
from gateway.server.acceptor import Acceptor
from gateway.server.connections import Connections
from gateway.server.engines import Serving, make_engine, new_event_loop
from gateway.server.lifespan import running
from gateway.server.requests import InFlight
from gateway.telemetry import set_up_logging
from gateway.wire.flags import Shape, encode_response, encode_result

CONNECTIONS = 64
ROUNDS = 5
ROUND_S = 2.0
WARM_UP_S = 0.5
BODY = msgspec.json.encode({"token": "phc_bench", "distinct_id": DISTINCT_ID, "person_properties": PROPERTIES})
REQUEST = (
    b"POST /flags?v=2 HTTP/1.1\r\nHost: flagstone\r\nContent-Type: application/json\r\nUser-Agent: posthog-python/7\r\n"
    b"X-Forwarded-For: 203.0.113.9\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
BARE_BYTES = 200
KINDS = ("bare", "prototype", "undefended", "defended")


async def bare(_: Scope, receive: Receive, send: Send) -> None:
    """An answer of 200 bytes once the body is there."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % BARE_BYTES)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * BARE_BYTES})


async def serve(kind: str, engine_name: str, definitions: str) -> None:
    """Answer on a free port, which is printed, until told to stop."""
    overrides = [f"store.url=file:{definitions}", "proxies.trusted=127.0.0.1", "limits.address=1000000/second"]
    overrides += ["limits.token=1000000/second", "limits.definitions=", "limits.conditional_definitions="]
    overrides += ["concurrency.definitions=1000", "concurrency.bootstrap=1000"]
    settings = load(None, {}, [*overrides, "concurrency.mode=fixed"]).settings
    set_up_logging(settings.log, is_batched=True)
    live, clock, metrics = Live(settings), SystemClock(), Metrics()
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    connections = Connections(lambda: settings.server, loop.time)
    whole = create_app(live, clock, metrics=metrics)
    async with running(whole) as state:
        if kind == "bare":
            app: ASGIApp = bare
        elif kind == "prototype":
            app = Starlette(routes=[Route("/flags", Prototype(Path(definitions)), methods=["POST"])])
        elif kind == "undefended":
            app = RecordRequests(ErrorBoundary(Router(ROUTES, redirect_slashes=False)), live, clock, metrics)
            state["limits"] = NoLimits()
        else:
            app = InFlight(whole, loop.time)
        refuse = whole.refuse if kind == "defended" else lambda _: None
        engine = make_engine(engine_name, Serving(app, state, connections, lambda: settings.server, refuse))
        Acceptor(listener, engine.make_protocol, connections, lambda: 1000).begin()
        print(listener.getsockname()[1], flush=True)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        connections.abort()


class Prototype:
    """The least that answers: decodes, evaluates and encodes, and knows one project and no failure."""

    def __init__(self, definitions: Path) -> None:
        (document,) = msgspec.json.decode(definitions.read_bytes())["projects"]
        self._snapshot = build_snapshot(msgspec.json.encode(document), 1, encode_result)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = msgspec.json.decode(await Request(scope, receive).body())
        context = Context(distinct_id=asked["distinct_id"], person_properties=asked["person_properties"])
        outcomes = evaluate(self._snapshot, context, Facts(), datetime.now(UTC)).outcomes
        body = encode_response(
            Shape.RECORDS, outcomes, errors=False, request_id="x", evaluated_at_ms=1, config_for_flags=None
        )
        await Response(body, media_type="application/json")(scope, receive, send)


class NoLimits:
    """In place of the service that holds tokens to their rates."""

    async def check_token(self, *_: object) -> None:
        pass


class Client(asyncio.Protocol):
    """Asks the same again as soon as it was answered."""

    answered = 0

    def __init__(self, request: bytes = REQUEST) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._missing = 0
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 304")), data[:500]
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._missing = (0 if head.startswith(b"HTTP/1.1 304") else int(length)) - len(body)
        else:
            self._missing -= len(data)
        if not self._missing:
            Client.answered += 1
            self._transport.write(self._request)


class Server:
    """One of the servers as a process."""

    def __init__(self, kind: str, engine: str, definitions: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.gateway", kind, engine, str(definitions)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def used_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


async def measure(server: Server, request: bytes = REQUEST) -> tuple[float, float]:
    """Microseconds of the server's processor per request, and requests per second."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Client(request), "127.0.0.1", server.port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_S)
    answered, used_s, began = Client.answered, server.used_s(), time.perf_counter()
    await asyncio.sleep(ROUND_S)
    answered, used_s = Client.answered - answered, server.used_s() - used_s
    rate = answered / (time.perf_counter() - began)
    for transport, _ in made:
        transport.abort()
    return used_s / answered * 1e6, rate


def main(engines: Sequence[str] = ("uvicorn", "hypercorn"), counts: Sequence[int] = (10, 100)) -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for flags in counts:
            definitions = Path(folder, f"{flags}.json")
            definitions.write_bytes(b'{"projects":[' + project(flags) + b"]}")
            for engine in engines:
                table(engine, flags, definitions)


def table(engine: str, flags: int, definitions: Path) -> None:
    servers = {kind: Server(kind, engine, definitions) for kind in KINDS}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            for _ in range(ROUNDS):
                for kind, server in servers.items():
                    found[kind].append(runner.run(measure(server)))
    finally:
        for server in servers.values():
            server.stop()
    for kind, rounds in found.items():
        least, most = min(rounds)[0], max(rate for _, rate in rounds)
        print(f"{engine:<10} {flags:>4} flags  {kind:<11} {least:7.1f} us  {most:8.0f} requests/s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve(*sys.argv[1:4]))
    else:
        main()

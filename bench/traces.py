"""What traces cost: microseconds of a worker's processor time per request, without, with one of a hundred, with all.

Real servers, one at a time under 64 busy connections, rounds interleaved; the least of each is told, and which part of
the spans was dropped. The collector is one that takes everything, in the process of the clients.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.evaluation import project
from bench.gateway import ROUNDS, measure
from drills.machine import machine
from gateway.server.engines import new_event_loop

FLAGS = 10
RATIOS = {"off": None, "1 %": 0.01, "100 %": 1.0}
SETTINGS = (
    "server.port=0", "server.workers=1", "server.control_path=", "metrics.port=0", "limits.mode=off",
    "concurrency.mode=fixed",
)  # fmt: skip


class Server:
    """`flagstone serve` with its log going nowhere; with a ratio, its traces go to the collector at this port."""

    def __init__(self, engine: str, definitions: Path, ratio: float | None, collector: int) -> None:
        settings = [*SETTINGS, f"server.engine={engine}", f"store.url=file:{definitions}"]
        if ratio is not None:
            settings += [f"traces.url=http://127.0.0.1:{collector}", f"traces.sample_ratio={ratio}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", *(it for setting in settings for it in ("--set", setting))],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rpartition(":")[2])
        self._metrics_url = self._process.stdout.readline().split()[-1]

        pid = self._process.pid
        (self._worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def used_s(self) -> float:
        """What the worker used; its supervisor does nothing meanwhile."""
        fields = Path(f"/proc/{self._worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def dropped(self) -> float:
        """The part of all spans that went nowhere."""
        with urllib.request.urlopen(self._metrics_url) as answer:
            told = answer.read().decode()
        spans = dict(re.findall(r'^flagstone_trace_spans_total\{.*outcome="(\w+)".*\} (\S+)$', told, re.MULTILINE))
        return float(spans["full"]) / max(1.0, sum(map(float, spans.values())))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a collector on this connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def table(engine: str, definitions: Path) -> None:
    collector = await asyncio.start_server(take, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    servers = {name: Server(engine, definitions, ratio, port) for name, ratio in RATIOS.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    dropped = dict.fromkeys(servers, 0.0)
    try:
        for _ in range(ROUNDS):
            for name, server in servers.items():
                found[name].append(await measure(server))
        dropped = {name: server.dropped() for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.stop()
        collector.close()
    for name, rounds in found.items():
        least, most = min(rounds)[0], max(rate for _, rate in rounds)
        told = f"{least:7.1f} us  {most:8.0f} requests/s  {dropped[name]:5.1%} of spans dropped"
        print(f"{engine:<10} traces {name:<6} {told}", flush=True)


def main(engines: Sequence[str] = ("uvicorn", "hypercorn")) -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        definitions = Path(folder, "definitions.json")
        definitions.write_bytes(b'{"projects":[' + project(FLAGS) + b"]}")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            for engine in engines:
                runner.run(table(engine, definitions))


if __name__ == "__main__":
    main()

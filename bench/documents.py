"""What clients cost that do not ask for flags: pages rendered with them, and SDKs that evaluate by themselves.

As bench.gateway does it: microseconds of processor time per request, rounds interleaved, the least of each. "Bare" is
the engine alone, "liveness" the least that the whole service answers.
"""

import asyncio
import http.client
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from bench.evaluation import DISTINCT_ID, project
from bench.gateway import ROUNDS, Server, measure
from drills.machine import machine
from gateway.server.engines import new_event_loop

SECRET = "phs_bench_secret_token"
DEFINITIONS = "/flags/definitions?token=phc_bench"
BOOTSTRAP = f"/bootstrap?token=phc_bench&distinct_id={DISTINCT_ID}"
SECRETLY = {"Authorization": f"Bearer {SECRET}"}


def request(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: flagstone", "User-Agent: posthog-python/7", "X-Forwarded-For: 203.0.113.9"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def etag(server: Server, path: str, headers: dict[str, str]) -> str:
    """What the answer is known by."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    client.request("GET", path, headers={**headers, "X-Forwarded-For": "203.0.113.9"})
    answer = client.getresponse()
    body = answer.read()
    assert answer.status == 200, body[:500]
    client.close()
    return answer.headers["ETag"]


def table(engine: str, flags: int, definitions: Path) -> None:
    bare, whole = Server("bare", engine, definitions), Server("defended", engine, definitions)
    try:
        known = {"If-None-Match": etag(whole, DEFINITIONS, SECRETLY)}
        known_page = {"If-None-Match": etag(whole, BOOTSTRAP, {})}
        asked: dict[str, tuple[Server, bytes]] = {
            "bare engine": (bare, request("/", {})),
            "liveness": (whole, request("/_liveness", {})),
            "definitions 304": (whole, request(DEFINITIONS, SECRETLY | known)),
            "definitions 200": (whole, request(DEFINITIONS, SECRETLY)),
            "bootstrap 304": (whole, request(BOOTSTRAP, known_page)),
            "bootstrap 200": (whole, request(BOOTSTRAP, {})),
        }
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in asked}
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            for _ in range(ROUNDS):
                for what, (server, sent) in asked.items():
                    found[what].append(runner.run(measure(server, sent)))
    finally:
        bare.stop()
        whole.stop()
    least = min(found["bare engine"])[0]
    for what, rounds in found.items():
        cost, most = min(rounds)[0], max(rate for _, rate in rounds)
        row = f"{what:<15} {cost:7.1f} us  {most:8.0f} requests/s  {cost / least:5.2f} x bare"
        print(f"{engine:<10} {flags:>4} flags  {row}", flush=True)


def main(engines: tuple[str, ...] = ("uvicorn", "hypercorn"), counts: tuple[int, ...] = (10, 100)) -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for flags in counts:
            document: dict[str, Any] = msgspec.json.decode(project(flags))
            document["secret_tokens"] = [SECRET]
            definitions = Path(folder, f"{flags}.json")
            definitions.write_bytes(msgspec.json.encode({"projects": [document]}))
            for engine in engines:
                table(engine, flags, definitions)


if __name__ == "__main__":
    main(*((tuple(sys.argv[1].split(",")),) if len(sys.argv) > 1 else ()))

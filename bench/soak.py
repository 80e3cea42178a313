"""Load with random faults for some minutes: every answer compared with a reference, memory and tasks watched.

`python -m bench.soak --seconds 600`. Ends with 1 when an answer was wrong, none came, or memory grew.
"""

import argparse
import asyncio
import random
import sys
import time
from statistics import quantiles
from typing import Any

import httpx

from bench.stage import Backends, Service, backends, service
from tests.drills.conftest import TOKEN, WITH_FACTS, WITHOUT_FACTS

BUDGET_S = 0.4
CLIENTS = 8
PEOPLE = 40
MAX_GROWTH_KB = 16_000
SETTLE_S = 20.0
"""Until memory counts: code is loaded and caches are filled by then."""
SETTINGS = (
    f"requests.budget_ms={int(BUDGET_S * 1000)}", "persons_pool.connect_timeout_ms=150",
    "persons_pool.acquire_timeout_ms=150", "persons_pool.statement_timeout_ms=200", "breakers.open_s=0.3",
    "breakers.max_open_s=1", "snapshots.refresh_s=0.5",
)  # fmt: skip
FAULTS: list[dict[str, Any]] = [
    {"mode": "blackhole"}, {"mode": "refuse"}, {"mode": "reset"}, {"mode": "delay", "seconds": 0.05, "jitter": 0.3},
    {"mode": "delay", "seconds": 2.0}, {"mode": "bandwidth", "bytes_per_s": 2000},
]  # fmt: skip


class Tally:
    """What became of all requests."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.partial = 0
        self.wrong: list[str] = []


def request(number: int) -> dict[str, Any]:
    return {"token": TOKEN, "distinct_id": f"u{number}", "person_properties": {"plan": "free"}}


def check(answer: httpx.Response, reference: dict[str, Any], tally: Tally) -> None:
    """Exact, or failed where stored facts are needed; anything else is wrong."""
    if answer.status_code != 200:
        tally.wrong.append(f"status {answer.status_code}: {answer.text[:100]}")
        return
    flags = answer.json()["flags"]
    tally.partial += answer.json()["errorsWhileComputingFlags"]
    for key in WITHOUT_FACTS | WITH_FACTS:
        may_fail = key in WITH_FACTS and flags[key].get("failed") and not flags[key]["enabled"]
        if flags[key] != reference[key] and not may_fail:
            tally.wrong.append(f"{key}: {flags[key]}")


async def load(url: str, reference: list[dict[str, Any]], ends_at: float, tally: Tally) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:

        async def one() -> None:
            while time.monotonic() < ends_at:
                number = random.randrange(PEOPLE)
                began = time.perf_counter()
                answer = await client.post("/flags?v=2", json=request(number))
                tally.seconds.append(time.perf_counter() - began)
                check(answer, reference[number], tally)

        await asyncio.gather(*(one() for _ in range(CLIENTS)))


async def disturb(behind: Backends, ends_at: float) -> None:
    """Break and heal one or both backends, for random times."""
    while time.monotonic() < ends_at - 5:
        for proxy in random.sample((behind.postgres, behind.redis), random.choice((1, 2))):
            await asyncio.to_thread(proxy.set, **random.choice(FAULTS))
        await asyncio.sleep(random.uniform(0.2, 4))
        await asyncio.to_thread(behind.postgres.heal)
        await asyncio.to_thread(behind.redis.heal)
        await asyncio.sleep(random.uniform(0.5, 4))


async def watch(serving: Service, ends_at: float) -> list[int]:
    """Memory in kB, every ten seconds once it has settled."""
    samples: list[int] = []
    await asyncio.sleep(SETTLE_S)
    while time.monotonic() < ends_at:
        samples.append(serving.memory_kb())
        print(f"{ends_at - time.monotonic():5.0f} s left, {samples[-1] / 1024:.1f} MiB", file=sys.stderr)
        await asyncio.sleep(10)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    seconds = parser.parse_args().seconds
    with backends() as behind, service(*behind.settings, *SETTINGS) as serving:
        tally = Tally()
        asked = [httpx.post(f"{serving.url}/flags?v=2", json=request(number)) for number in range(PEOPLE)]
        reference = [answer.json()["flags"] for answer in asked]

        async def soak() -> list[int]:
            ends_at = time.monotonic() + seconds
            _, _, samples = await asyncio.gather(
                load(serving.url, reference, ends_at, tally), disturb(behind, ends_at), watch(serving, ends_at)
            )
            return samples

        samples = asyncio.run(soak())
        growth_kb = samples[-1] - samples[0]
        centiles = quantiles(tally.seconds, n=1000)
        slow = ", ".join(f"p{at / 10:g} {centiles[at - 1] * 1000:.0f} ms" for at in (500, 990, 999))
        print(f"{len(tally.seconds)} requests in {seconds:.0f} s, {tally.partial} partial, {len(tally.wrong)} wrong")
        print(f"{slow}, longest {max(tally.seconds) * 1000:.0f} ms of a budget of {BUDGET_S * 1000:.0f} ms")
        print(f"memory {samples[0] / 1024:.1f} -> {samples[-1] / 1024:.1f} MiB, at most {max(samples) / 1024:.1f}")
        print(f"breakers changed {serving.metric('breaker_transitions_total'):.0f} times, "
              f"tasks at the end {serving.metric('tasks'):.0f}")  # fmt: skip
        for wrong in tally.wrong[:10]:
            print(wrong)
    return int(bool(tally.wrong) or growth_kb > MAX_GROWTH_KB)


if __name__ == "__main__":
    sys.exit(main())

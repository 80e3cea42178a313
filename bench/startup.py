"""From starting the process to its first answer: with healthy backends, and with every backend hung and a disk.

`python -m bench.startup`. The two are measured by turns, so that the machine's moods meet both.
"""

import sys
import time
from statistics import median

import httpx

from bench.stage import backends, service
from tests.drills.conftest import TOKEN

ROUNDS = 7
MOST = 1.5
BODY = {"token": TOKEN, "distinct_id": "u1", "flag_keys": ["on"]}


def first_answer_s(*settings: str) -> tuple[float, str]:
    """Seconds until the first answer, and where its definitions came from."""
    began = time.perf_counter()
    with service(*settings) as serving:
        answer = httpx.post(f"{serving.url}/flags?v=2", json=BODY, timeout=10)
        seconds = time.perf_counter() - began
    assert answer.status_code == 200, answer.text
    return seconds, answer.headers["x-flagstone-snapshot"].rpartition("=")[2]


def main() -> int:
    healthy, hung = [], []
    with backends() as behind:
        first_answer_s(*behind.settings)  # Leaves the definitions on disk.
        for _ in range(ROUNDS):
            healthy.append(first_answer_s(*behind.settings)[0])
            behind.postgres.set("blackhole")
            behind.redis.set("blackhole")
            took_s, source = first_answer_s(*behind.settings)
            assert source == "disk", source
            hung.append(took_s)
            behind.postgres.heal()
            behind.redis.heal()
    ratio = median(hung) / median(healthy)
    for name, seconds in (("healthy", healthy), ("all hung", hung)):
        print(f"{name}: {median(seconds) * 1000:.0f} ms ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})")
    print(f"ratio {ratio:.2f}, at most {MOST}")
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())

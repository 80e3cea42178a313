"""`python -m tests.ofrep_conformance --base-url URL`: the suite against a server, its grid, and an exit code."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from tests.ofrep_conformance.cases import Flags
from tests.ofrep_conformance.runner import Result, Target, grid, run


def main(words: Sequence[str] | None = None) -> int:
    """0 when nothing failed, else 1."""
    parser = argparse.ArgumentParser(
        "tests.ofrep_conformance", description="Is a server one that OFREP's clients take?"
    )
    parser.add_argument("--base-url", required=True, help="what comes before /ofrep/v1")
    parser.add_argument("--token", help="sent as Authorization: Bearer; without it, nothing is")
    parser.add_argument("--flags", type=Path, help="a JSON file that says which flags the server has: see README.md")
    parser.add_argument("--burst", type=int, default=0, help="how many requests may be sent to be limited")
    given = parser.parse_args(words)
    flags = msgspec.json.decode(given.flags.read_bytes(), type=Flags) if given.flags else Flags()
    results = asyncio.run(_run(given.base_url, given.token, flags, given.burst))
    sys.stdout.write(grid(results) + "\n")
    return int(any(result.outcome == "fail" for result in results))


async def _run(base_url: str, token: str | None, flags: Flags, burst: int) -> list[Result]:
    async with httpx.AsyncClient(base_url=base_url) as client:
        return await run(Target(client, token, flags, burst))


if __name__ == "__main__":
    sys.exit(main())

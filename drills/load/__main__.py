"""Load from the command line, such as `python -m drills.load 'http://127.0.0.1:8000/flags?v=2' --flags-body phc_token`.

Exit code 0 whatever the answers were: what they mean is for whoever reads the report.
"""

import argparse
import asyncio
import gc
import sys
import time
from pathlib import Path

import msgspec

from drills.load.generator import run
from drills.load.plan import LoadPlan, flags_bodies
from drills.load.report import draw, progress, table

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m drills.load", description=__doc__)
    add = parser.add_argument
    add("url", nargs="?", default="", help="not needed with --plan")
    add("--plan", type=Path, metavar="FILE", help="a whole plan as JSON, instead of all the others")
    add("--at", type=float, metavar="SECONDS", help="when to begin, in seconds since 1970 (default: now)")
    add("--rate", type=float, default=1000.0, help="requests per second (default: 1000)")
    add("--duration", type=float, default=10.0, help="seconds (default: 10)")
    add("--phase", action="append", metavar="SECONDS:RATE", help="instead of both, any number of times")
    add("--connections", type=int, default=256)
    add("--body", type=Path, metavar="FILE", help="POST this (default: GET)")
    add("--flags-body", metavar="TOKEN", help="POST requests for the flags of 1000 people")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'")
    add("--timeout", type=float, default=3.0, help="seconds from when an attempt is due (default: 3)")
    add("--retries", type=int, default=0, help="how often a failed request is sent again (default: 0)")
    add("--retry-delay", type=float, default=0.1, help="seconds (default: 0.1)")
    add("--probe", metavar="PATH", help="GET this ten times a second on a connection of its own")
    add("--progress", action="store_true", default=sys.stderr.isatty(), help="a line each second, as on a terminal")
    add("--json", action="store_true", help="print the report as JSON")
    add("--plot", type=Path, metavar="FILE.svg")
    chosen = parser.parse_args()
    if not (chosen.url or chosen.plan):
        parser.error("give a URL or --plan")
    phases = (it.partition(":") for it in chosen.phase or [f"{chosen.duration}:{chosen.rate}"])
    body = (chosen.body.read_bytes(),) if chosen.body else ()
    plan = msgspec.json.decode(chosen.plan.read_bytes(), type=LoadPlan) if chosen.plan else LoadPlan(
        url=chosen.url, phases=tuple((float(seconds), float(rate)) for seconds, _, rate in phases),
        bodies=flags_bodies(chosen.flags_body) if chosen.flags_body else body, headers=tuple(chosen.header),
        connections=chosen.connections, timeout_s=chosen.timeout, retries=chosen.retries,
        retry_delay_s=chosen.retry_delay, probe=chosen.probe,
    )  # fmt: skip
    time.sleep(max(0.0, (chosen.at or 0.0) - time.time()))
    gc.freeze()  # What is loaded is garbage at no time; looking through it would make attempts late.
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        report = runner.run(run(plan, progress if chosen.progress else None))
    print(msgspec.json.encode(report).decode() if chosen.json else table(report))
    for warning in report.warnings:
        print(f"WARNING: {warning}", file=sys.stderr)
    if chosen.plot:
        chosen.plot.write_text(draw(report), encoding="utf-8")


if __name__ == "__main__":
    main()

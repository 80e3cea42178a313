"""`python -m drills.report.page DIR FILE` writes what the results in DIR have shown into FILE, docs/drills.md.

What people have written there is above the marker and stays; all below it is made anew. Invariant: no figure of that
page is typed by anybody.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from drills.model import PHASES, Drill, Step
from drills.report import read, tables, words
from drills.report.tables import Table
from drills.results import Result

MARKER: Final = "<!-- What follows is made by `python -m drills.report.page` from results. -->"

_TIME: Final = re.compile(r" \d\d:\d\d UTC")
"""Of the day it was is enough."""


def page(written: str, results: Sequence[Result]) -> str:
    """The page: what was written above the marker, and then the results."""
    above, marker, _ = written.partition(MARKER)
    if not marker:
        raise ValueError(f"there is no line {MARKER}")
    return f"{above}{MARKER}\n\n" + "\n\n".join(_page(results)) + "\n"


def _page(results: Sequence[Result]) -> Iterator[str]:
    incidents = [it for it in results if _is_incident(it)]
    others = [it for it in results if not _is_incident(it)]
    yield "## Results"
    taken = dict.fromkeys(_TIME.sub("", it.run.machine) for it in results)
    yield "\n".join(f"Taken on {machine}." for machine in taken)
    yield f"{sum(it.has_passed for it in results)} of {len(results)} drills passed."
    if incidents:
        yield "### Incidents that have happened"
        yield markdown(_figures(incidents, has_then=True))
    if others:
        yield "### Other ways to fail" if incidents else "### Figures"
        yield markdown(_figures(others, has_then=False))
    yield (
        "Failed: the share of requests that got no flags while the fault lasted. Without: with the protection turned "
        "off that the drill is about. p99: of the answers, from when they were due. Noticed: until the first alert, as "
        "long as it would have taken with the rules at their own pace."
    )
    for result in results:
        yield from _section(result)


def _is_incident(result: Result) -> bool:
    """Those are named by their day."""
    return re.match(r"\d{4}-\d\d-\d\d", result.drill.name) is not None


def _figures(results: Sequence[Result], *, has_then: bool) -> Table:
    head = ["Drill", "Failed here", "without", "p99 before", "during", "after", "without", "Noticed here", "Verdict"]
    if has_then:
        head[1:1] = ["Failed then"]
        head[-2:-2] = ["Noticed then"]
    return Table(tuple(head), [tuple(_row(result, has_then=has_then)) for result in results])


def _row(result: Result, *, has_then: bool) -> Iterator[str]:
    drill, without = result.drill, result.without
    original = drill.original if has_then else None
    yield f"[{drill.name}](#{_anchor(_heading(result))})"
    if has_then:
        yield words.measured("failed_share", original.failed_share if original else None)
    yield words.measured("failed_share", tables.figure(result.run, "during", "failed_share"))
    yield words.measured("failed_share", tables.figure(without, "during", "failed_share"))
    for phase in PHASES:
        yield words.measured("p99_ms", tables.figure(result.run, phase, "p99_ms"))
    yield words.measured("p99_ms", tables.figure(without, "during", "p99_ms"))
    if has_then:
        after = original.noticed_after_min if original else None
        yield words.NOTHING if after is None else words.minutes(after)
    first = words.first_alert(result.run)
    yield words.NOTHING if first is None else words.minutes(first.from_s / drill.minute_s)
    yield tables.verdict(result)


def _heading(result: Result) -> str:
    return f"{result.drill.name}: {result.drill.title}"


def _anchor(heading: str) -> str:
    """What a heading is linked as."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _section(result: Result) -> Iterator[str]:
    drill, original = result.drill, result.drill.original
    yield f"### {_heading(result)}"
    if original:
        yield f"{_one_line(original.what)} ([{original.who}]({original.source}))"
    steps = sorted(drill.timeline, key=lambda it: it.at_s)
    facts = [
        f"**Fault**: {'; '.join([*_surge(drill), *map(_step, steps)]) or 'none'}. It lasts {drill.load.during_s:g} s.",
        f"**Alerts**: {_list(drill.alerts) or 'none may fire'}" + (
            f"; right to fire: {_list(drill.may_fire)}" if drill.may_fire else ""
        ),
    ]  # fmt: skip
    if drill.without:
        off = [f"`{name} = {_literal(value)}`" for name, value in drill.without.settings.items()]
        off += [f"the balancer asks `{drill.without.check}`"] if drill.without.check else []
        alerted = f"; then {_list(drill.without.alerts)} must fire" if drill.without.alerts else ""
        facts.append(f"**Protection**: {drill.without.protection}. Turned off by {', '.join(off)}{alerted}")
    yield "\n".join(f"- {fact}" for fact in facts)
    yield markdown(tables.lines(result))
    if result.failures:
        yield "\n".join(["Not passed:", "", *(f"- {it}" for it in result.failures)])


def _surge(drill: Drill) -> Iterator[str]:
    if (rate := drill.load.during_rate) is not None:
        again = f", each tried {words.number(drill.load.retries)} times more" if drill.load.retries else ""
        yield f"{words.number(rate)} requests a second instead of {words.number(drill.load.rate)}{again}"


def _step(step: Step) -> str:
    return f"+{step.at_s:g} s {_one_line(str(step))}"


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def markdown(table: Table) -> str:
    """A table of a Markdown page."""
    rows = [table.head, tuple("---" for _ in table.head), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, path = map(Path, arguments)
    path.write_text(page(path.read_text(encoding="utf-8"), read(folder)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

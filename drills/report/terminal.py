"""A report as text for a terminal, or for the log of a job that nobody opens a picture in.

Invariant: no colors and no width that depends on where it is printed, so that two reports can be compared.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import fill, wrap
from typing import Final

from drills.report import tables
from drills.report.tables import Table
from drills.results import Result

WIDTH: Final = 118
CELL: Final = 44


def text(result: Result) -> str:
    """The whole report."""
    return "\n".join(_report(result))


def _report(result: Result) -> Iterator[str]:
    yield f"{tables.verdict(result).upper()}  {result.drill.name}: {result.drill.title}"
    yield tables.summary(result)
    yield from (fill(f"- {it}", WIDTH, subsequent_indent="  ") for it in result.failures)
    yield from (fill(it, WIDTH) for it in tables.remarks(result))
    for table in (tables.lines(result), tables.measures(result), tables.then_and_now(result)):
        if table.rows:
            yield from ("", columns(table))
    for run in (result.run, result.without):
        if run is not None and (fired := tables.alerts(result, run)).rows:
            yield from ("", f"Alerts without the {run.without}" if run.without else "Alerts", columns(fired))
    yield from ("", columns(tables.timeline(result.run)))


def columns(table: Table) -> str:
    """A table with its columns below each other; what is long goes on in the next line."""
    rows = [[wrap(cell, CELL) or [""] for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(part) for row in rows for part in row[at]) for at in range(len(table.head))]
    return "\n".join(line for row in rows for line in _line(row, widths))


def _line(row: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for parts in zip_longest(*row, fillvalue=""):
        yield "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()

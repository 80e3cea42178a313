"""Reports as HTML: one file for a drill, with its pictures inside, and one that lists several.

Without scripts, and nothing is fetched: a report can be mailed, attached to a ticket, and printed. Invariant: whatever
is not written here is escaped.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import quote

from drills.report import tables, words
from drills.report.tables import Table
from drills.results import Result

CSS: Final = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
GOOD: Final = frozenset({"held", "broken, as it must", tables.PASSED})
BAD: Final = frozenset({"broken", "held, and must not", "never", "not expected", tables.MISSED})
LEGEND: Final = (
    "Failed: the share of requests that got no flags while the fault lasted. An answer without the flags that the "
    "fault touches is an answer. Then: what was published about the incident. p99: of the answers, from when "
    "they were due."
)
LONG: Final = 24
"""A cell of so many characters may be broken into lines."""


def sheet(result: Result, pictures: Mapping[str, bytes]) -> str:
    """The report of one drill. `pictures` are PNGs, by what they show."""
    return _document(f"{result.drill.title} - drill report", "\n".join(_report(result, pictures)))


def index(results: Sequence[Result], not_run: Mapping[str, str]) -> str:
    """The list of several drills, whose reports are beside it."""
    passed = sum(result.has_passed for result in results)
    total = len(results) + len(not_run)
    state = "verdict passed" if passed == total else "verdict"
    body = [
        "<h1>Drills</h1>",
        f'<div class="{state}"><strong>{passed} of {total} passed</strong></div>',
        html_table(tables.overview(results), links={it.drill.name: f"{quote(it.drill.name)}.html" for it in results}),
        f"<p><small>{LEGEND}</small></p>",
    ]
    body += [f'<p class="missing">{escape(name)} was not run: {escape(why)}</p>' for name, why in not_run.items()]
    missing = dict.fromkeys(it for result in results for it in result.run.missing)
    body += [f'<p class="missing">{escape(it)}</p>' for it in missing]
    if results:
        body.append(f"<p><small>{escape(results[-1].run.machine)}</small></p>")
    return _document("Drills", "\n".join(body))


def _report(result: Result, pictures: Mapping[str, bytes]) -> Iterator[str]:
    drill = result.drill
    yield f"<h1>{escape(drill.title)}</h1>"
    yield f"<p><small>{escape(drill.name)}, {escape(result.run.began)}</small></p>"
    yield from _verdict(result)
    yield "<h2>What had to hold</h2>"
    yield html_table(tables.lines(result))
    if (compared := tables.then_and_now(result)).rows:
        yield "<h2>Then and now</h2>" if drill.original else "<h2>With and without</h2>"
        if drill.original:
            yield f"<p>{escape(drill.original.who)}: {escape(drill.original.what)}</p>"
        yield html_table(compared)
        if drill.original:
            yield f"<p><small>Source: {_source(drill.original.source)}</small></p>"
    yield "<h2>What happened to the requests</h2>"
    for caption, picture in pictures.items():
        data = b64encode(picture).decode()
        yield f'<figure class="wide"><img alt="{escape(caption)}" src="data:image/png;base64,{data}"></figure>'
    yield "<h2>Measures</h2>"
    yield html_table(tables.measures(result))
    for run in (result.run, result.without):
        if run is not None:
            beside = f" without the {escape(run.without)}" if run.without else ""
            fired = tables.alerts(result, run)
            yield f"<h2>Alerts{beside}</h2>"
            yield (
                html_table(fired)
                if fired.rows
                else f"<p>{'None fired' if words.is_watched(run) else 'Not watched'}.</p>"
            )
    yield "<h2>What was done, and what was seen</h2>"
    yield html_table(tables.timeline(result.run))
    if result.without is not None:
        yield f"<details><summary>The same without the {escape(result.without.without)}</summary>"
        yield html_table(tables.timeline(result.without)) + "</details>"
    yield "<h2>The stage</h2>"
    yield html_table(tables.stage(result))


def _verdict(result: Result) -> Iterator[str]:
    passed = result.has_passed
    reasons = "".join(f"<li>{escape(it)}</li>" for it in result.failures)
    state = "verdict passed" if passed else "verdict"
    yield f'<div class="{state}"><strong>{tables.verdict(result).capitalize()}</strong>'
    yield f"<p>{escape(tables.summary(result))}</p>"
    yield f"<ul>{reasons}</ul></div>" if reasons else "</div>"
    yield from (f'<p class="missing">{escape(it)}</p>' for it in tables.remarks(result))


def _source(text: str) -> str:
    safe = escape(text)
    return f'<a href="{safe}">{safe}</a>' if text.startswith(("https://", "http://")) else safe


def html_table(table: Table, links: Mapping[str, str] | None = None) -> str:
    """A table that scrolls by itself where it is too wide. The first cells of rows are links where there are any."""
    head = ""
    if any(table.head):
        head = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in table.head)}</tr></thead>"
    rows = "".join(f"<tr>{''.join(_cells(row, links or {}))}</tr>" for row in table.rows)
    return f'<div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _cells(row: Sequence[str], links: Mapping[str, str]) -> Iterator[str]:
    for at, cell in enumerate(row):
        said = escape(cell)
        if at == 0 and cell in links:
            said = f'<a href="{escape(links[cell])}">{said}</a>'
        kind = "good" if cell in GOOD else "bad" if cell in BAD else ""
        if not kind and len(cell) < LONG and (cell == words.NOTHING or any(it.isdigit() for it in cell)):
            kind = "number"
        yield f'<td class="{kind}">{said}</td>' if kind else f"<td>{said}</td>"


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )

"""Reports of drills: what they say is what was measured, in a terminal, as pictures, and as a page of its own."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills import report
from drills.model import Load, Without
from drills.report import plot, tables, words
from drills.report.sheet import html_table, index
from drills.report.tables import Table
from drills.results import Alerted, Happened, Result
from tests.clients.browser_session import Chromium
from tests.rehearsal.results import DRILL, MACHINE, result, run

replace = msgspec.structs.replace


class Page(HTMLParser):
    """What a page is made of: tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def failed(**changes: Any) -> Result:
    return result(run=run(problems=["FlagstoneDown fired before the faults"]), **changes)


def test_text__drill__says_the_verdict_and_every_line_first() -> None:
    """Whoever reads the first lines of a log knows whether it passed; every line stands there with bound and value."""
    text = report.text(result())
    assert text.startswith("PASSED  database-hangs: The database accepts connections and never answers\n")
    assert "0 % of the requests failed; 82.6 % without the breakers; 78 % back then." in text
    assert re.search(
        r"held +Requests fail as rarely as before +during +at most 0.1 % +0 % +82.6 % +broken, as it", text
    )
    assert re.search(r"not judged +Connections held", text)
    assert max(map(len, text.splitlines())) <= 180


def test_text__drill_that_has_not_passed__gives_every_reason() -> None:
    """A report that says no says why, before anything else."""
    first, _, *reasons = report.text(failed()).splitlines()
    assert first.startswith("NOT PASSED")
    assert reasons[0] == "- FlagstoneDown fired before the faults"


def test_text__what_is_missing__is_told() -> None:
    """What could not be shown on this machine, and a load that was not sent in time, stand in the report."""
    made = run(missing=["No Prometheus, so no alert is judged"])
    late = replace(made.load, lateness=replace(made.load.lateness, p99_ms=80.0))
    text = report.text(result(run=replace(made, load=late), without=replace(run(is_protected=False), load=late)))
    assert "No Prometheus, so no alert is judged" in text
    assert "The load: the generator could not keep up" in text
    assert "The load, without the breakers: the generator could not keep up" in text


def test_text__drill_without_incident_or_protection__has_no_comparison() -> None:
    """Where there is nothing to compare with, no empty table stands."""
    text = report.text(Result(drill=replace(DRILL, original=None, without=None), run=run()))
    assert "Then" not in text
    assert "breakers," not in text
    assert "Noticed" not in text


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 %"), (0.000001, "< 0.001 %"), (0.00012, "0.012 %"), (0.97, "97 %"), (0.9999, "99.99 %"), (1, "100 %")],
)
def test_share__value__never_hides_a_failure(value: float, said: str) -> None:
    """One failure in a million is not none, and all but one is not all."""
    assert words.share(value) == said


@pytest.mark.parametrize(
    ("minutes", "said"), [(1.75, "1.75 min"), (108, "108 min"), (429, "7 h 9 min"), (5760, "4 days")]
)
def test_minutes__value__is_said_as_people_do(minutes: float, said: str) -> None:
    """Incidents last minutes, hours or days."""
    assert words.minutes(minutes) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at_most": 5, "at_least": None}, "at most 5 ms"),
        ({"at_most": None, "at_least": 1200}, "at least 1,200 ms"),
        ({"at_most": 5, "at_least": 1}, "1 ms to 5 ms"),
    ],
)
def test_bound__line__says_both_ends(changes: dict[str, Any], said: str) -> None:
    """What a line asks for is said with the unit of its measure."""
    assert words.bound(replace(DRILL.lines[1], **changes)) == said


@pytest.mark.parametrize("value", [None, float("nan")])
def test_measured__nothing__is_a_dash(value: float | None) -> None:
    """What was not measured is not said to be zero."""
    assert words.measured("failed_share", value) == words.NOTHING


def test_lines__without_the_protection__say_which_must_break() -> None:
    """Each line says whether the run without the protection has shown what it was to show."""
    drill = replace(DRILL, without=replace(DRILL.without, fails=("failed", "wrong")))
    fates = [row[-1] for row in tables.lines(result(drill=drill)).rows]
    assert fates[0] == "broken, as it must"
    assert fates[1] == "broken as well"
    assert fates[2] == "held, and must not"
    assert fates[-1] == "not judged"


def test_lines__line_that_the_other_run_has_not__stands_with_a_dash() -> None:
    """Results of different versions of a drill can still be shown."""
    other = run(is_protected=False)
    rows = tables.lines(result(without=replace(other, judged=other.judged[1:]))).rows
    assert rows[0][-2:] == (words.NOTHING, "")


def test_alerts__each__says_whether_it_was_to_fire() -> None:
    """Alerts that must fire, may fire, speak of the machine, should not have fired, or have not, are told apart."""
    made = run(
        alerts=[
            Alerted("FlagstoneBreakerOpen", "ticket", 1.0, 2.0),
            Alerted("FlagstoneSnapshotOld", "ticket", 2.0, None),
            Alerted("FlagstoneCpuPressure", "page", 3.0, None),
            Alerted("FlagstoneDown", "page", 4.0, None),
        ]
    )
    rows = tables.alerts(result(run=made), made).rows
    assert [row[0].removeprefix("Flagstone") + ": " + row[-1] for row in rows] == [
        "BreakerOpen: must fire", "SnapshotOld: may fire", "CpuPressure: of this machine", "Down: not expected",
        "PartialAnswers: must fire",
    ]  # fmt: skip
    assert rows[-1][2] == "never"


def test_alerts__without_the_protection__none_is_wrong_to_fire() -> None:
    """While a protection is off, only the alerts that it names are asked for."""
    other = run(is_protected=False, alerts=[Alerted("FlagstoneDown", "page", 4.0, None)])
    rows = tables.alerts(result(without=other), other).rows
    assert [row[-1] for row in rows] == ["may fire", "must fire"]


def test_alerts__no_prometheus__are_not_said_to_have_stayed_away(tmp_path: Path) -> None:
    """Where nothing could have fired, the report does not say that nothing has."""
    made = run(alerts=[], missing=["No Prometheus, so no alert is judged"])
    unwatched = result(run=made, drill=replace(DRILL, alerts=("FlagstoneDown",)))
    assert [row[2] for row in tables.alerts(unwatched, made).rows] == ["not watched"]
    assert tables.then_and_now(unwatched).rows[-1][-1] == words.NOTHING
    quiet = result(run=made, drill=replace(DRILL, alerts=()))
    assert "<p>Not watched.</p>" in report.write(quiet, tmp_path).read_text()


def test_remarks__run_that_was_left_out__is_told() -> None:
    """A verdict that was reached without the run that shows what the protection is for says so."""
    assert tables.remarks(result(without=None)) == ["The run without the breakers was left out."]
    assert tables.remarks(result()) == []


def test_then_and_now__incident__has_what_callers_saw_and_when_it_was_noticed() -> None:
    """The incident stands beside both runs, in the same words."""
    head, rows = tables.then_and_now(result())
    assert head == ("", "Then", "Here, without the breakers", "Here")
    said = {row[0]: row[1:] for row in rows}
    assert said["Failed"] == ("78 %", "82.6 %", "0 %")
    assert said["Callers saw"][0] == "504"
    assert said["Callers saw"][2] == "partial 51.4 %, whole 48.6 %"
    assert said["Noticed"][0] == "after 27 min"
    assert said["Noticed"][2] == "FlagstoneBreakerOpen, after 3.5 s (1.75 min by its rule's clock)"


def test_then_and_now__alert_before_the_fault__has_noticed_nothing() -> None:
    """Only what fires after the fault tells of it."""
    made = run(alerts=[Alerted("FlagstoneDown", "page", -2.0, None)])
    assert tables.then_and_now(result(run=made)).rows[-1][-1] == "by no alert"


def test_write__result__can_be_read_again(tmp_path: Path) -> None:
    """A report can be made anew of what was written, without running the drill."""
    path = report.write(result(), tmp_path / "deep")
    assert sorted(it.name for it in path.parent.iterdir()) == [
        "database-hangs-without.png", "database-hangs.html", "database-hangs.json", "database-hangs.png"
    ]  # fmt: skip
    assert report.read(path.parent) == [result()]


def test_write__page__needs_no_other_file(tmp_path: Path) -> None:
    """The report is one file without scripts: it can be mailed, and still be read in ten years."""
    page = Page(report.write(result(), tmp_path).read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "srcset")]
    assert len(sources) == 2
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    links = [attributes["href"] for tag, attributes in page.tags if "href" in attributes and tag != "a"]
    assert links == ["data:,"]
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_write__texts__are_escaped(tmp_path: Path) -> None:
    """What somebody has written into a drill is text, and no part of the page."""
    evil = '<script>alert("1")</script>'
    original = replace(DRILL.original, who=evil, what=evil, source="javascript:alert(1)", symptom=evil)
    lines = tuple(replace(line, what=evil) for line in DRILL.lines)
    drill = replace(DRILL, title=evil, original=original, lines=lines, without=Without(protection=evil, fails=()))
    made = run(drill=drill, problems=[evil], missing=[evil], happened=[Happened(1.0, evil)])
    other = replace(made, without=evil)
    page = Page(report.write(Result(drill=drill, run=made, without=other), tmp_path).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text
    assert all(tag != "a" for tag, _ in page.tags)


def test_overview__drills__are_listed_with_those_that_were_not_run(tmp_path: Path) -> None:
    """The list has a link, figures and the verdict of each drill, and says what could not be run, and why."""
    other = failed(drill=replace(DRILL, name="other", original=None, without=None), without=None)
    html = report.overview([result(), other], tmp_path, {"third": "haproxy is not installed"}).read_text()
    page = Page(html)
    assert "1 of 3 passed" in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["database-hangs.html", "other.html"]
    assert "third was not run: haproxy is not installed" in page.text
    assert MACHINE in page.text
    assert '<td class="bad">not passed</td>' in html
    assert "0 of 0 passed" in index([], {})


def test_table__cells__say_what_they_are() -> None:
    """Verdicts can be seen at a glance, and numbers are not broken into lines."""
    html = html_table(Table((), [("held", "not expected", "1,050 ms", "a long sentence that is 4 words and more")]))
    assert re.findall('class="([a-z]+)">', html) == ["wide", "good", "bad", "number"]


def test_picture__two_runs__have_the_same_axes() -> None:
    """Both pictures reach as far as the higher of the two, so that one can be held against the other."""
    one, other = run(), run(is_protected=False)
    both = plot.scales(DRILL, one, other)
    assert both.per_s == max(plot.scales(DRILL, one).per_s, plot.scales(DRILL, other).per_s)
    assert both.p99_ms[1] == plot.scales(DRILL, other).p99_ms[1]
    assert both.series["Connections in use"][1] > 30
    for it in (one, other):
        assert plot.picture(DRILL, it, both).startswith(b"\x89PNG")


def test_picture__nothing_to_draw__is_a_picture() -> None:
    """A drill in which nobody was answered and nothing was seen has a report too."""
    slots = [replace(slot, goodput=0, partial=0, p99_ms=None) for slot in run().load.slots]
    unanswered = run(
        alerts=[],
        series={"nothing": [], "NaN": [(0.0, float("nan"))], "flat": [(0.0, 0.0)]},
        happened=[],
        load=replace(run().load, slots=slots),
    )
    for it in (unanswered, replace(unanswered, load=replace(unanswered.load, slots=[]))):
        assert plot.picture(DRILL, it, plot.scales(DRILL, it)).startswith(b"\x89PNG")


def test_picture__steps_at_the_same_time__share_a_number() -> None:
    """Numbers that would cover each other are one, and none is lost."""
    happened = [Happened(at_s, "") for at_s in (24.0, 0.0, 0.6, 0.7, 12.0)]
    assert [label for _, label in plot._numbers(run(happened=happened), 1.0)] == ["1-3", "4", "5"]
    assert list(plot._numbers(run(happened=[]), 1.0)) == []


@pytest.mark.parametrize(
    ("bars", "place", "side"),
    [
        ([(0.0, None)], 0.0, "left"),
        ([(2.0, 4.0), (30.0, 32.0)], 4.0, "left"),
        ([(33.0, None)], 33.0, "right"),
        ([(1.0, 2.0), (30.0, None)], 2.0, "left"),
    ],
)
def test_picture__label_of_an_alert__stands_where_there_is_room(
    bars: list[tuple[float, float | None]], place: float, side: str
) -> None:
    """In a bar that is long enough, or where no bar is."""
    scale = plot.scales(replace(DRILL, load=Load()), run())
    at, _, found = plot._place([Alerted("A", "page", begins, ends) for begins, ends in bars], scale)
    assert (at, found) == (place, side)


@pytest.mark.client
@pytest.mark.parametrize("width", [390, 1200])
def test_page__in_a_browser__fits_and_asks_for_nothing(browser: Chromium, tmp_path: Path, width: int) -> None:
    """On a phone and on a desk the page is as wide as the screen; nothing is fetched, and nothing goes wrong in it."""
    pages = [report.write(result(), tmp_path), report.overview([result(), failed()], tmp_path)]
    for path in pages:
        with browser.page(viewport={"width": width, "height": 900}, java_script_enabled=True) as visit:
            visit.go(path.as_uri())
            assert visit.run("document.documentElement.scrollWidth") <= width
            assert [it.url.path for it in visit.sent if it.url.scheme not in ("data", "blob")] == [str(path)]
            assert visit.run("[...document.images].every(it => it.complete && it.naturalWidth > 800)")
            assert not visit.troubles

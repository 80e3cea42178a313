"""docs/drills.md: its tables are made of results, and what people wrote of drill files is what the code takes."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from drills import report
from drills.model import Action, Contents, Drill, Line, Load, Measure, Original, Step, Topology, Without, read
from drills.report import page
from drills.report.tables import Table
from drills.results import Result
from tests.rehearsal.results import DRILL, result, run

PATH = Path(__file__).parents[2] / "docs" / "drills.md"
DOCUMENT = PATH.read_text(encoding="utf-8")
NAMED = (("`", "`"), ("`", " ="), ("`[", "]`"), ("`[[", "]]`"), ("`[topology.", "]`"))
WRITTEN = f"# Written by hand\n\n{page.MARKER}\n\nold\n"
replace = msgspec.structs.replace


def incident() -> Result:
    made = result()
    return replace(made, drill=replace(made.drill, name="2025-09-29"))


def test_page__written_part__stays_and_the_rest_is_new() -> None:
    """What people have written is never touched; making the page twice changes nothing."""
    once = page.page(WRITTEN, [result()])
    assert once.startswith(f"# Written by hand\n\n{page.MARKER}\n\n## Results\n")
    assert "old" not in once
    assert page.page(once, [result()]) == once
    with pytest.raises(ValueError, match="there is no line"):
        page.page("# Another page", [])


def test_page__incidents__stand_beside_what_happened_then() -> None:
    """Incidents have a table with the share that failed back then, other faults one without it."""
    made = page.page(WRITTEN, [incident(), result()])
    first, second = (row for row in made.splitlines() if row.startswith("| ["))
    link = "[2025-09-29](#2025-09-29-the-database-accepts-connections-and-never-answers)"
    figures = "78 % | 0 % | 82.6 % | 10.8 ms | 311 ms | 10.8 ms | 2,910 ms | 27 min | 1.75 min | passed"
    assert first == f"| {link} | {figures} |"
    assert "78 %" not in second
    assert "2 of 2 drills passed." in made


def test_page__drill__has_fault_alerts_protection_and_lines() -> None:
    """Each drill says what is done, what must fire, what is turned off and how, and what each line came to."""
    made = page.page(WRITTEN, [incident()])
    assert "### 2025-09-29: The database accepts connections and never answers" in made
    assert "([PostHog, 2025-09-29](https://github.com/PostHog/posthog/issues/39133))" in made
    assert "- **Fault**: +0 s blackhole postgres; +24 s heal postgres. It lasts 24 s." in made
    assert "- **Alerts**: FlagstoneBreakerOpen, FlagstonePartialAnswers; right to fire: FlagstoneSnapshotOld" in made
    assert "Turned off by `breakers.is_enabled = false`; then FlagstoneServerErrors must fire" in made
    assert "| held | Requests fail as rarely as before | during | at most 0.1 % | 0 % | 82.6 % |" in made


def test_page__drill_that_has_not_passed__says_why() -> None:
    """The page hides no failure."""
    without = replace(DRILL.without, settings={}, check="/_liveness", alerts=())
    drill = replace(DRILL, original=None, alerts=(), may_fire=(), timeline=(), without=without)
    made = page.page(WRITTEN, [Result(drill=drill, run=run(alerts=[], problems=["not sent"]))])
    assert "Not passed:\n\n- not sent" in made
    assert "- **Fault**: none." in made
    assert "- **Alerts**: none may fire\n" in made
    assert "Turned off by the balancer asks `/_liveness`" in made
    assert "0 of 1 drills passed." in made


def test_markdown__cells__cannot_break_the_table() -> None:
    """A bar or a tag in a text is shown as it is."""
    assert page.markdown(Table(("a",), [("x | <b>",)])) == "| a |\n| --- |\n| x \\| &lt;b> |"


def test_main__folder_of_results__rewrites_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command brings the page up to what the last drills have shown."""
    report.write(result(), tmp_path)
    document = tmp_path / "drills.md"
    document.write_text(WRITTEN)
    assert page.main([str(tmp_path), str(document)]) == 0
    assert document.read_text() == page.page(WRITTEN, [result()])
    assert page.main([]) == 2
    assert "drills.report.page" in capsys.readouterr().err


def test_document__example__is_a_drill(tmp_path: Path) -> None:
    """Whoever copies the example has a drill that can be run."""
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "example.toml").write_text(text)
    assert read(tmp_path / "example.toml").without is not None


@pytest.mark.parametrize("kind", [Drill, Original, Topology, Contents, Load, Step, Line, Without])
def test_document__member_of_a_file__stands_there_with_its_default(kind: type[msgspec.Struct]) -> None:
    """Everything that a file may say is described, with the default where it is a number or a choice."""
    for field in msgspec.structs.fields(kind):
        if field.name == "name" and kind is Drill:
            continue  # The file's own name.
        default = field.default
        if kind in (Topology, Contents, Load) and isinstance(default, bool | int | float | str):
            said = f"{default:g}" if type(default) in (int, float) else msgspec.json.encode(default).decode()
            assert f"`{field.name} = {said}`" in DOCUMENT
        else:
            assert any(f"{before}{field.name}{after}" in DOCUMENT for before, after in NAMED)


@pytest.mark.parametrize("word", [*get_args(Action), *get_args(Measure)])
def test_document__action_or_measure__stands_there(word: str) -> None:
    """Whatever can be done or measured is described."""
    rows = [row.split("|")[1] for row in DOCUMENT.splitlines() if row.startswith("| `")]
    assert any(f"`{word}`" in row for row in rows)


def test_document__marker__is_there_once() -> None:
    """The tables can be made anew."""
    assert DOCUMENT.count(page.MARKER) == 1

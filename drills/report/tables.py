"""What a report says, as tables of words: pass lines, measures, then and now, alerts, what was done, several drills.

How a table looks is for terminal.py, sheet.py and page.py. Invariant: they all show the same words, so a report in a
terminal and the one in a browser cannot disagree.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from drills.model import PHASES, Measure, Phase
from drills.report import words
from drills.results import OF_THE_MACHINE, Judged, Result, Run


class Table(NamedTuple):
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


PASSED: Final = "passed"
MISSED: Final = "not passed"
ALWAYS: Final[tuple[Measure, ...]] = ("failed_share", "partial_share", "p50_ms", "p99_ms", "goodput_per_s")
"""The others stand there where they are something."""


def verdict(result: Result) -> str:
    return PASSED if result.has_passed else MISSED


def summary(result: Result) -> str:
    """The drill in a sentence: how many requests failed here, without the protection, and back then."""
    here, without = (_failed(run) for run in (result.run, result.without))
    found = [f"{here} of the requests failed"]
    if result.without:
        found.append(f"{without} without the {result.without.without}")
    if result.drill.original and result.drill.original.failed_share is not None:
        found.append(f"{words.share(result.drill.original.failed_share)} back then")
    return "; ".join(found) + "."


def lines(result: Result) -> Table:
    """The pass lines, and what becomes of them without the protection."""
    head = ("", "Line", "When", "Must be", "Was")
    if result.without is None:
        return Table(head, [_line(judged) for judged in result.run.judged])
    fails = result.drill.without.fails if result.drill.without else ()
    others = {judged.line.name: judged for judged in result.without.judged}
    rows = []
    for judged in result.run.judged:
        other = others.get(judged.line.name)
        beside = ("", words.NOTHING) if other is None else (_fate(other, fails), _value(other))
        rows.append((*_line(judged), beside[1], beside[0]))
    return Table((*head, f"Without the {result.without.without}", ""), rows)


def _line(judged: Judged) -> tuple[str, ...]:
    line = judged.line
    return words.held(judged), line.what, line.phase, words.bound(line), _value(judged)


def _value(judged: Judged) -> str:
    return words.measured(judged.line.measure, judged.value)


def _fate(judged: Judged, fails: Sequence[str]) -> str:
    """What became of a line without the protection, and whether that is what was to be shown."""
    if not judged.is_judged:
        return words.held(judged)
    if judged.line.name in fails:
        return "held, and must not" if judged.holds else "broken, as it must"
    return "held all the same" if judged.holds else "broken as well"


def measures(result: Result) -> Table:
    """What was measured in each phase."""
    runs = [result.run, *([result.without] if result.without else [])]
    columns = [(result.run, phase) for phase in PHASES]
    head = ["", *PHASES]
    if result.without:
        columns += [(result.without, phase) for phase in PHASES[1:]]
        head += [f"without: {phase}" for phase in PHASES[1:]]
    rows = []
    for measure, name in words.NAMES.items():
        if measure in ALWAYS or any(it.get(measure) for run in runs for it in run.measures.values()):
            rows.append((name, *(words.measured(measure, figure(run, phase, measure)) for run, phase in columns)))
    return Table(tuple(head), rows)


def then_and_now(result: Result) -> Table:
    """What happened in the incident beside what happens here; no rows where there is nothing to compare."""
    drill, original, without = result.drill, result.drill.original, result.without
    if original is None and without is None:
        return Table((), [])
    now = [run for run in (without, result.run) if run is not None]
    head = ["", *(["Then"] if original else []), *([f"Here, without the {without.without}"] if without else []), "Here"]
    pace = f"{words.number(drill.load.during_s)} s"
    rows = [
        ["Lasted", *(pace for _ in now)],
        ["Failed", *(_failed(run) for run in now)],
        ["Callers saw", *(words.answers(run) for run in now)],
        ["Noticed", *(words.noticed(run, drill.minute_s) for run in now)],
    ]
    if original:
        then = (
            words.minutes(original.lasted_min) if original.lasted_min is not None else words.NOTHING,
            words.measured("failed_share", original.failed_share),
            original.symptom or words.NOTHING,
            words.NOTHING
            if original.noticed_after_min is None
            else f"after {words.minutes(original.noticed_after_min)}",
        )
        rows = [[row[0], it, *row[1:]] for row, it in zip(rows, then, strict=True)]
    return Table(tuple(head), [tuple(row) for row in rows])


def figure(run: Run | None, phase: Phase, measure: Measure) -> float | None:
    """What a run has measured in a phase; None where there is nothing."""
    return run.measures.get(phase, {}).get(measure) if run else None


def _failed(run: Run | None) -> str:
    return words.measured("failed_share", figure(run, "during", "failed_share"))


def remarks(result: Result) -> list[str]:
    """What whoever reads the figures must know: what was not there, and whether the load was as it should be."""
    found = [*result.run.missing, *(f"The load: {it}." for it in result.run.load.warnings)]
    if result.without:
        found += result.without.missing
        found += [f"The load, without the {result.without.without}: {it}." for it in result.without.load.warnings]
    if result.drill.without and result.without is None:
        found.append(f"The run without the {result.drill.without.protection} was left out.")
    return list(dict.fromkeys(found))


def alerts(result: Result, run: Run) -> Table:
    """The alerts of a run, and the ones that were waited for in vain."""
    must = _must(result, run)
    rows = [
        (
            it.name,
            it.severity,
            words.moment(it.from_s),
            "the end" if it.until_s is None else words.moment(it.until_s),
            _expected(result, run, it.name),
        )
        for it in sorted(run.alerts, key=lambda it: it.from_s)
    ]
    fired = {it.name for it in run.alerts}
    seen = "never" if words.is_watched(run) else "not watched"
    rows += [(name, "", seen, "", "must fire") for name in must if name not in fired]
    return Table(("Alert", "Severity", "From", "Until", ""), rows)


def _must(result: Result, run: Run) -> tuple[str, ...]:
    if run is result.run:
        return result.drill.alerts
    return result.drill.without.alerts if result.drill.without else ()


def _expected(result: Result, run: Run, name: str) -> str:
    """Nothing is said against any alert while a protection is off."""
    if name in _must(result, run):
        return "must fire"
    if name in OF_THE_MACHINE:
        return "of this machine"
    return "may fire" if run is not result.run or name in result.drill.may_fire else "not expected"


def timeline(run: Run) -> Table:
    """What was done and seen to happen, numbered as in the picture."""
    happened = sorted(run.happened, key=lambda it: it.at_s)
    return Table(("", "At", "What"), [(str(at), words.moment(it.at_s), it.what) for at, it in enumerate(happened, 1)])


def stage(result: Result) -> Table:
    """What stood, and what it was asked."""
    topology, load = result.drill.topology, result.drill.load
    stood = [
        f"{topology.instances} x flagstone",
        *(["HAProxy"] if topology.has_balancer else []),
        *(["a builder apart"] if topology.has_builder else []),
        *(["PgBouncer"] if topology.has_pgbouncer else []),
        "PostgreSQL",
        *(["Redis"] if topology.has_redis else []),
    ]
    rate = f"{words.number(load.rate)}/s"
    if load.during_rate is not None:
        rate += f", {words.number(load.during_rate)}/s while it lasts"
    rows = [
        ("Stage", ", ".join(stood)),
        ("Load", f"{rate}, from {load.clients} addresses, {load.timeout_s:g} s patience, {load.retries} retries"),
        ("Phases", f"{load.before_s:g} s before, {load.during_s:g} s during, {load.after_s:g} s after"),
        ("Alert rules", f"{result.drill.minute_s:g} s stand for a minute of theirs"),
        *((f"{name}", f"{value}") for name, value in topology.settings.items()),
        ("Taken", result.run.machine),
    ]
    return Table(("", ""), rows)


def overview(results: Sequence[Result]) -> Table:
    """One row for each drill."""
    head = (
        "Drill", "Failed then", "Failed here", "without protection", "p99 before", "during", "after",
        "Alerts", "Protection", "Verdict",
    )  # fmt: skip
    return Table(head, [tuple(_summary(result)) for result in results])


def verdicts(results: Sequence[Result]) -> Table:
    """The overview as narrow as a terminal: without alerts and protections."""
    head, rows = overview(results)
    return Table((head[0], head[-1], *head[1:7]), [(row[0], row[-1], *row[1:7]) for row in rows])


def _summary(result: Result) -> Iterator[str]:
    drill, without = result.drill, result.without
    yield drill.name
    yield words.measured("failed_share", drill.original.failed_share if drill.original else None)
    yield _failed(result.run)
    yield _failed(without)
    for phase in PHASES:
        yield words.measured("p99_ms", figure(result.run, phase, "p99_ms"))
    yield ", ".join(dict.fromkeys(it.name for it in result.run.alerts)) or words.NOTHING
    yield drill.without.protection if drill.without else words.NOTHING
    yield verdict(result)

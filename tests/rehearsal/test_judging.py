"""Measures and verdicts: what was counted becomes shares and times, and what was not measured holds no line."""

from collections.abc import Sequence

import msgspec
import pytest

from drills.judging import judged, measures
from drills.load.report import SLOT_S, Report, Slot, Stats
from drills.model import Drill, Line, Load, Without
from drills.results import Alerted, Result, Run
from drills.witness import Seen

LOAD = Load(before_s=1, during_s=2, after_s=3)
STATS = Stats(count=0, p50_ms=5, p90_ms=6, p99_ms=7, p999_ms=8, max_ms=9)


def stats(count: int) -> Stats:
    return msgspec.structs.replace(STATS, count=count)


def report(during: dict[str, int], failed_until_s: float = 0.0) -> Report:
    """A report whose second phase ended like this; requests fail until a moment of the run."""
    slots = [
        Slot(at_s=round(it * SLOT_S, 1), due=1, retried=0, goodput=1, shed=0, limited=0, p99_ms=1,
             failed=int(it * SLOT_S < failed_until_s))
        for it in range(60)
    ]  # fmt: skip
    counted = {outcome: stats(count) for outcome, count in during.items()}
    return Report(
        url="", machine="", phases=((1, 1), (2, 1), (3, 1)), seconds=6, goodput_per_s=1, first={}, retried={},
        by_phase=[], due_by_phase=[{}, counted, {"ok": stats(30), "good": stats(30)}], probe={}, statuses={},  # type: ignore[list-item, dict-item]
        connections=1, reconnects=0, queued=0, lateness=stats(60), own_cpu=0, slots=slots, curve=[],
    )  # fmt: skip


def test_measures__of_a_phase__are_shares_of_all_that_ended_in_it() -> None:
    """Refused is failed; a partial answer is an answer."""
    counted = {"ok": 50, "partial": 20, "shed": 10, "limited": 15, "timeout": 5, "good": 70, "refused": 25}
    during = measures(LOAD, report(counted), [], [], 0)["during"]
    assert during["failed_share"] == pytest.approx(0.3)
    assert during["partial_share"] == pytest.approx(0.2)
    assert during["limited_share"] == pytest.approx(0.15)
    assert during["shed_share"] == pytest.approx(0.1)
    assert during["goodput_per_s"] == 35
    assert (during["p50_ms"], during["p99_ms"], during["refused_p99_ms"]) == (5, 7, 7)


def test_measures__nothing_answered__have_no_times() -> None:
    """A phase in which all failed has no latency that could hold a line."""
    during = measures(LOAD, report({"timeout": 5}), [], [], 0)["during"]
    assert during["failed_share"] == 1
    assert "p99_ms" not in during


def test_measures__what_the_witness_saw__counts_in_its_phase() -> None:
    """Wrong answers before a fault are not blamed on it."""
    seen = [
        Seen(at=99.5, is_wrong=True, is_unready=False, what="early"),
        Seen(at=101.0, is_wrong=True, is_unready=False, what="flag"),
        Seen(at=101.5, is_wrong=False, is_unready=True, what="503"),
    ]
    found = measures(LOAD, report({"ok": 1, "good": 1}), seen, [2.0, 7.5], 100.0)
    assert (found["before"]["wrong"], found["during"]["wrong"], found["after"]["wrong"]) == (1, 1, 0)
    assert found["during"]["unready_answers"] == 1
    assert found["during"]["ready_s"] == 7.5


@pytest.mark.parametrize(
    ("failed_until_s", "expected"), [(0, 0), (2.9, 0), (3.5, 0.5), (4.9, 1.9), (4.95, 2.0), (5.5, None), (9, None)]
)
def test_recovery__after_the_faults__is_when_something_failed_for_the_last_time(
    failed_until_s: float, expected: float | None
) -> None:
    """What still fails within the last second has not recovered."""
    found = measures(LOAD, report({}, failed_until_s), [], [], 0)["after"]
    assert found.get("recovery_s") == (None if expected is None else pytest.approx(expected))


def drill(*lines: Line, alerts: Sequence[str] = (), without: Without | None = None) -> Drill:
    return Drill(title="It", lines=lines, alerts=tuple(alerts), without=without, name="it")


ANSWERED = Line(name="answered", what="All is answered.", measure="failed_share", at_most=0.01)
ASKED = Line(name="asked", what="Somebody asked.", query="up", at_least=1)


def test_judged__without_prometheus__queries_are_not_judged() -> None:
    """A line that cannot be looked at neither holds nor fails."""
    found = judged(drill(ANSWERED, ASKED), {"before": {}, "during": {"failed_share": 0.5}, "after": {}}, None)
    assert [(it.value, it.holds, it.is_judged) for it in found] == [(0.5, False, True), (None, False, False)]


def test_judged__with_prometheus__its_answer_is_the_value() -> None:
    """No answer is not a good one."""
    measured: dict[str, dict[str, float]] = {"before": {}, "during": {}, "after": {}}
    assert [it.holds for it in judged(drill(ASKED), measured, lambda _: 1.0)] == [True]  # type: ignore[arg-type]
    assert [it.holds for it in judged(drill(ASKED), measured, lambda _: None)] == [False]  # type: ignore[arg-type]


def made(of: Drill, failed: float, fired: Sequence[str] = (), missing: Sequence[str] = ()) -> Run:
    return Run(
        without="", began="", machine="", measures={}, happened=[], load=report({}), missing=list(missing),
        judged=judged(of, {"before": {}, "during": {"failed_share": failed}, "after": {}}, None),
        alerts=[Alerted(name, "page", 1, None) for name in fired],
    )  # fmt: skip


def test_result__all_lines_hold__has_passed() -> None:
    """Nothing failed, nothing fired: passed."""
    assert Result(drill=drill(ANSWERED), run=made(drill(ANSWERED), 0)).has_passed


def test_result__a_line_fails__is_named() -> None:
    """The first thing to know of a drill that failed is what did."""
    assert Result(drill=drill(ANSWERED), run=made(drill(ANSWERED), 1)).failures == ["answered: All is answered."]


def test_result__alerts__must_be_those_that_are_expected() -> None:
    """One that is missing fails a drill, and so does one too many."""
    of = drill(ANSWERED, alerts=["FlagstoneSlow"])
    assert Result(drill=of, run=made(of, 0, ["FlagstoneSlow", "FlagstoneCpuPressure"])).has_passed
    assert Result(drill=of, run=made(of, 0)).failures == ["FlagstoneSlow did not fire"]
    assert Result(drill=of, run=made(of, 0, missing=["No Prometheus: not installed"])).has_passed
    assert Result(drill=of, run=made(of, 0, ["FlagstoneSlow", "FlagstoneDown"])).failures == ["FlagstoneDown fired"]


def test_result__protection_turned_off__must_show() -> None:
    """A drill that passes without what it is about shows nothing."""
    of = drill(ANSWERED, without=Without(protection="breakers", settings={"a.b": 1}, fails=("answered",)))
    assert Result(drill=of, run=made(of, 0), without=made(of, 1)).has_passed
    (failure,) = Result(drill=of, run=made(of, 0), without=made(of, 0)).failures
    assert failure == "without the breakers, answered holds all the same"


def test_result__written_as_json__is_read_again() -> None:
    """A report can be made later, and elsewhere."""
    result = Result(drill=drill(ANSWERED), run=made(drill(ANSWERED), 0))
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result

"""The local limiter: bursts, refilling, denials, and how little it remembers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rates import Rates
from gateway.resilience.gcra import ALLOW, LocalLimiter, Outcome
from tests.fakes import FakeClock

TEXTS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 9), st.sampled_from(["second", "minute"])),
    min_size=1,
    max_size=3,
    unique_by=lambda rate: (rate[1], rate[2]),
).map(lambda rates: "; ".join(f"{amount}/{multiple} {unit}" for amount, multiple, unit in rates))


def limiter(clock: FakeClock, max_keys: int = 100) -> LocalLimiter:
    return LocalLimiter(clock, max_keys)


def admitted(subject: LocalLimiter, rates: Rates, times: int, key: str = "a") -> int:
    return sum(subject.check(key, rates).outcome is not Outcome.DENY for _ in range(times))


@pytest.mark.parametrize("amount", [1, 2, 3, 7, 50, 1000, 10_000])
@pytest.mark.parametrize("window", ["second", "7 seconds", "day"])
def test_check__burst_at_once__is_the_amount(amount: int, window: str) -> None:
    """The amount goes at once, and not one more."""
    assert admitted(limiter(FakeClock()), Rates(f"{amount}/{window}"), amount + 5) == amount


def test_check__time_passes__places_come_back_one_by_one() -> None:
    """What was used comes back evenly over the window, and rest never makes more than the amount."""
    clock = FakeClock()
    subject, rates = limiter(clock), Rates("10/second")
    assert admitted(subject, rates, 20) == 10
    clock.advance(0.1)
    assert admitted(subject, rates, 20) == 1
    clock.advance(0.35)
    assert admitted(subject, rates, 20) == 3
    clock.advance(1000)
    assert admitted(subject, rates, 20) == 10


def test_check__no_limit__allows_and_remembers_nothing() -> None:
    """Empty rates let everybody in for free."""
    subject = limiter(FakeClock())
    assert subject.check("a", Rates("")) is ALLOW
    assert len(subject) == 0


def test_check__well_below__is_the_shared_allow() -> None:
    """The common answer costs no memory."""
    subject = limiter(FakeClock())
    assert all(subject.check("a", Rates("10/second")) is ALLOW for _ in range(7))


def test_check__most_is_used__warns_with_what_remains() -> None:
    """From the eighth of ten on, the answer says how much is left and when all of it is back."""
    subject, rates = limiter(FakeClock()), Rates("10/minute")
    decisions = [subject.check("a", rates) for _ in range(10)][7:]
    assert [decision.outcome for decision in decisions] == [Outcome.WARN] * 3
    assert [(decision.limit, decision.remaining) for decision in decisions] == [(10, 2), (10, 1), (10, 0)]
    assert [decision.reset_s for decision in decisions] == pytest.approx([48, 54, 60])
    assert decisions[0].retry_after_s == 0


def test_check__own_warn_ratio__decides_when() -> None:
    """Who wants to be warned earlier, is."""
    subject, rates = LocalLimiter(FakeClock(), 10, warn_ratio=0.5), Rates("4/minute; 100/hour")
    assert [subject.check("a", rates).outcome.value for _ in range(5)] == ["allow", "warn", "warn", "warn", "deny"]


def test_check__two_rates_nearly_used_up__warns_of_the_fuller() -> None:
    """The numbers are those of the rate that will deny first."""
    subject, rates = limiter(FakeClock()), Rates("10/minute; 9/hour")
    assert [subject.check("a", rates) for _ in range(8)][-1].limit == 9


def test_check__used_up__denies_with_all_that_headers_need() -> None:
    """A denial says how much there is, that nothing is left, when to come again, and when all of it is back."""
    clock = FakeClock()
    subject, rates = limiter(clock), Rates("10/minute")
    assert admitted(subject, rates, 10) == 10
    clock.advance(1.5)
    denied = subject.check("a", rates)
    assert (denied.outcome, denied.limit, denied.remaining) == (Outcome.DENY, 10, 0)
    assert (denied.retry_after_s, denied.reset_s) == pytest.approx((4.5, 58.5))
    clock.advance(denied.retry_after_s)
    assert admitted(subject, rates, 2) == 1


def test_check__several_rates_deny__the_longest_wait_is_told() -> None:
    """Coming back when told is never too early."""
    clock = FakeClock()
    subject, rates = limiter(clock), Rates("2/second; 2/hour")
    assert admitted(subject, rates, 2) == 2
    denied = subject.check("a", rates)
    assert (denied.limit, denied.retry_after_s, denied.reset_s) == (2, 1800, 3600)
    clock.advance(denied.retry_after_s)
    assert admitted(subject, rates, 2) == 1


def test_check__denied_over_and_over__uses_nothing_up() -> None:
    """Whoever knocks on a closed door waits no longer for it, at none of the rates."""
    clock = FakeClock()
    subject, rates = limiter(clock), Rates("1/second; 10/minute")
    assert admitted(subject, rates, 10_000) == 1
    for _ in range(9):
        clock.advance(1)
        assert admitted(subject, rates, 100) == 1
    clock.advance(1)
    assert subject.check("a", rates).limit == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("10/hour", "10/second"),
        ("10/second", "1/hour"),
        ("1000/minute", "1/minute"),
        ("1/day", "1000/minute"),
        ("5/day; 5/hour", "5/minute"),
        ("5/second", "5/minute; 50/hour"),
        ("5/second; 50/day", "5/hour; 7/second"),
    ],
)
def test_check__rates_change__locks_nobody_out_beyond_the_new_window(before: str, after: str) -> None:
    """After a reload the new rates apply at once; nobody waits longer than they would have made them wait."""
    clock = FakeClock()
    subject = limiter(clock)
    assert 0 < admitted(subject, Rates(before), 2000) < 2000
    decision = subject.check("a", Rates(after))
    waited_s = 0.0
    while decision.outcome is Outcome.DENY:
        waited_s += decision.retry_after_s
        clock.advance(decision.retry_after_s)
        decision = subject.check("a", Rates(after))
    assert waited_s <= max(window_s / amount for amount, window_s in Rates(after).windows) + 1e-6
    clock.advance(max(window_s for _, window_s in Rates(after).windows))
    assert admitted(subject, Rates(after), 5000) == min(amount for amount, _ in Rates(after).windows)


@given(TEXTS, st.lists(st.tuples(st.floats(0, 30), st.integers(1, 15)), max_size=40))
def test_check__any_arrivals__over_no_interval_more_than_promised(text: str, steps: list[tuple[float, int]]) -> None:
    """Between any two moments, each rate lets in its amount and what came back meanwhile, and no more."""
    clock, rates = FakeClock(), Rates(text)
    subject = limiter(clock)
    let_in: list[tuple[float, int]] = []
    for pause, arrivals in steps:
        clock.advance(pause)
        let_in.append((clock.monotonic(), admitted(subject, rates, arrivals)))
    for first, (since, _) in enumerate(let_in):
        total = 0
        for at, count in let_in[first:]:
            total += count
            for amount, window_s in rates.windows:
                assert total <= amount + (at - since) * amount / window_s + 1


@given(TEXTS, st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=60))
def test_check__two_keys__do_not_influence_each_other(text: str, steps: list[tuple[float, str]]) -> None:
    """A key gets the answers it would get alone."""
    clock, rates = FakeClock(), Rates(text)
    shared, alone = limiter(clock), {"a": limiter(clock), "b": limiter(clock)}
    for pause, key in steps:
        clock.advance(pause)
        assert shared.check(key, rates) == alone[key].check(key, rates)


@given(TEXTS, st.lists(st.floats(0, 20), max_size=60))
def test_check__denied__may_come_when_told_and_not_before(text: str, pauses: list[float]) -> None:
    """Retry-After is neither too early nor too late."""
    clock, rates = FakeClock(), Rates(text)
    subject = limiter(clock)
    for pause in pauses:
        clock.advance(pause)
        decision = subject.check("a", rates)
        if decision.outcome is Outcome.DENY:
            clock.advance(decision.retry_after_s * 0.9)
            assert decision.retry_after_s < 1 or subject.check("a", rates).outcome is Outcome.DENY
            clock.advance(decision.retry_after_s * 0.1)
            assert subject.check("a", rates).outcome is not Outcome.DENY


def test_check__more_keys_than_remembered__the_one_unseen_longest_goes() -> None:
    """Keys that keep coming are kept, whether they are let in or denied."""
    subject, rates = limiter(FakeClock(), max_keys=3), Rates("1/hour")
    for key in "abc":
        assert subject.check(key, rates).outcome is Outcome.WARN
    assert subject.check("a", rates).outcome is Outcome.DENY
    assert subject.check("d", rates).outcome is Outcome.WARN
    assert subject.check("a", rates).outcome is Outcome.DENY
    assert subject.check("c", rates).outcome is Outcome.DENY
    assert subject.check("b", rates).outcome is Outcome.WARN
    assert repr(subject) == "<LocalLimiter 3/3 keys, 3 denied, 2 evicted>"


def test_check__a_million_keys__remembers_no_more_than_it_may() -> None:
    """Whoever makes up keys fills nobody's memory."""
    subject, rates = limiter(FakeClock(), max_keys=1000), Rates("5/minute")
    assert all(subject.check(str(number), rates) is ALLOW for number in range(1_000_000))
    assert len(subject) == 1000
    assert subject.evicted == 999_000


def test_max_keys__lowered__forgets_at_once() -> None:
    """A reload that lowers the bound keeps it from then on; one that raises it makes room."""
    subject, rates = limiter(FakeClock(), max_keys=10), Rates("1/hour")
    assert [admitted(subject, rates, 1, str(number)) for number in range(10)] == [1] * 10
    subject.max_keys = 4
    assert (len(subject), subject.max_keys) == (4, 4)
    assert subject.check("9", rates).outcome is Outcome.DENY
    subject.max_keys = 20
    assert [admitted(subject, rates, 1, str(number)) for number in range(6)] == [1] * 6
    assert len(subject) == 10


def test_clear__afterwards__everybody_starts_afresh() -> None:
    """Nothing is remembered of anybody."""
    subject, rates = limiter(FakeClock()), Rates("1/hour")
    assert admitted(subject, rates, 2) == 1
    subject.clear()
    assert len(subject) == 0
    assert admitted(subject, rates, 2) == 1

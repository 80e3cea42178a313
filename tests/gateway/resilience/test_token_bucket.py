"""The token bucket: a burst, a rate, and debts that are paid back."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.resilience.token_bucket import TokenBucket
from tests.fakes import FakeClock


def test_take__burst_is_used_up__comes_back_with_time() -> None:
    """The burst goes at once, then the rate decides, and rest never makes more than the burst."""
    clock = FakeClock()
    bucket = TokenBucket(2, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.advance(1000)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_owe__more_than_there_is__is_paid_back_first() -> None:
    """What was used beyond the level keeps everything waiting until it is made up for."""
    clock = FakeClock()
    bucket = TokenBucket(10, 10, clock)
    bucket.owe(30)
    assert bucket.level() == -20
    clock.advance(2)
    assert not bucket.take()
    clock.advance(0.1)
    assert bucket.take()
    assert repr(bucket) == "<TokenBucket 0.0/10.0>"


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 5)), max_size=60))
def test_take__any_sequence__never_grants_more_than_burst_and_rate_allow(steps: list[tuple[float, float]]) -> None:
    """Over any time, what is granted stays within burst + rate * time."""
    clock = FakeClock()
    bucket = TokenBucket(1.5, 4, clock)
    granted = elapsed = 0.0
    for pause, amount in steps:
        clock.advance(pause)
        elapsed += pause
        granted += amount * bucket.take(amount)
        assert granted <= 4 + 1.5 * elapsed + 1e-6


def test_adopt__another_rate__keeps_what_was_used() -> None:
    """What was used, saved up or owed under the old rate counts under the new one, up to its burst."""
    clock = FakeClock()
    bucket = TokenBucket(10, 10, clock)
    bucket.owe(12)
    bucket.adopt(2, 4)
    assert bucket.level() == -2
    clock.advance(1.5)
    assert bucket.level() == 1
    clock.advance(100)
    assert bucket.level() == 4
    bucket.adopt(1, 3)
    assert bucket.level() == 3

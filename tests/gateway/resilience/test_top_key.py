"""How much of the checks is one key's, with bounded memory and whatever the order."""

import random

import pytest

from gateway.resilience.top_key import FEW, MAX_KEYS, TopKey
from tests.fakes import FakeClock

WINDOW_S = 30.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def share_of(clock: FakeClock, keys: list[str]) -> float | None:
    top_key = TopKey(clock, WINDOW_S)
    for key in keys:
        top_key.count(key)
    clock.advance(WINDOW_S)
    return top_key.share()


def test_share__one_key_alone__is_one(clock: FakeClock) -> None:
    """When everybody looks like one client, that shows as what it is."""
    assert share_of(clock, ["balancer"] * FEW) == 1


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_share__one_key_among_a_multitude__is_told_closely(clock: FakeClock, part: float) -> None:
    """However many others come in between, in any order, the share is hardly too small and never too large."""
    times = 20_000
    keys = ["often"] * int(times * part) + [f"other {n}" for n in range(int(times * (1 - part)))]
    random.Random(7).shuffle(keys)
    share = share_of(clock, keys)
    assert share is not None
    assert part - 1 / (MAX_KEYS + 1) <= share <= part


def test_share__nobody_comes_often__is_next_to_nothing(clock: FakeClock) -> None:
    """Ordinary traffic of many clients raises no alarm, and takes no memory for each of them."""
    top_key = TopKey(clock, WINDOW_S)
    for number in range(10_000):
        top_key.count(f"client {number}")
        assert len(top_key._counts) <= MAX_KEYS
    clock.advance(WINDOW_S)
    share = top_key.share()
    assert share is not None
    assert share < 0.001


def test_share__few_checks__is_not_told(clock: FakeClock) -> None:
    """Two requests of one client at night are no flood."""
    assert share_of(clock, ["one"] * (FEW - 1)) is None


def test_share__as_time_goes_by__is_of_the_last_window(clock: FakeClock) -> None:
    """A share stays until the next window is over, and then what came before counts no more."""
    top_key = TopKey(clock, WINDOW_S)
    assert top_key.share() is None
    for _ in range(FEW):
        top_key.count("one")
    assert top_key.share() is None
    clock.advance(WINDOW_S)
    assert top_key.share() == 1
    for number in range(FEW):
        top_key.count("one" if number % 2 else "two")
    assert top_key.share() == 1
    clock.advance(WINDOW_S)
    assert top_key.share() == 0.5
    clock.advance(WINDOW_S)
    assert top_key.share() is None
    assert repr(top_key) == "<TopKey None of before, 0 checks since>"

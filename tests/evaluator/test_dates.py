"""The edges of the calendar, and what holds for any text; single forms are rows of the corpus."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.dates import moment_of_filter, moment_of_property
from tests.builders import NOW

UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize("span", ["-9999h", "-9999d", "-9999w", "-9999m", "-9999y", "-1m"])
def test_relative_date__beyond_the_calendar__is_no_moment(span: str) -> None:
    """A span that leads before the year 1 names nothing, and raises nothing."""
    moment = moment_of_filter(span, UTC_ZONE)
    assert moment is not None
    assert moment(datetime(1, 1, 2, tzinfo=UTC)) is None


def test_relative_date__with_thousands_of_digits__is_no_date() -> None:
    """Digits that no number type takes are refused like any other number that is too large."""
    assert moment_of_filter("1" * 5000 + "d", UTC_ZONE) is None


@given(st.text(max_size=70) | st.from_regex(r"\A[0-9a-zA-Z ,:./+-]{1,30}\Z"))
def test_moment__of_any_text__is_found_or_not_without_raising(text: str) -> None:
    """Whatever the text, the answer is an aware moment or none."""
    found = moment_of_property(text, NOW, BERLIN)
    assert found is None or found.utcoffset() == timedelta(0)


@given(moments)
def test_moment__of_a_written_moment__is_that_moment(moment: datetime) -> None:
    """What ISO text, its local form and its seconds say is what was written."""
    whole = moment.replace(microsecond=0)
    assert moment_of_property(moment.isoformat(), NOW, BERLIN) == moment
    assert moment_of_property(moment.replace(tzinfo=None).isoformat(" "), NOW, UTC_ZONE) == moment
    assert moment_of_property(whole.timestamp(), NOW, BERLIN) == whole
    assert moment_of_property(whole.strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW, BERLIN) == whole


@given(moments, st.integers(0, 600))
def test_relative_date__in_months__is_as_many_single_steps(now: datetime, number: int) -> None:
    """Going back n months at once ends where n times one month ends."""
    stepwise: datetime | None = now
    one = moment_of_filter("-1m", UTC_ZONE)
    at_once = moment_of_filter(f"-{number}m", UTC_ZONE)
    assert one is not None
    assert at_once is not None
    for _ in range(number):
        assert stepwise is not None
        stepwise = one(stepwise)
    assert at_once(now) == stepwise

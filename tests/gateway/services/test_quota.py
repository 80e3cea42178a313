"""Quotas: counted at once, by the calendar, within bounds, and alike whether anybody else counts too or not."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from config.clients import Quota
from config.rates import Rates, RateTable
from config.reload import Live
from config.settings import Settings
from gateway.metrics import Metrics
from gateway.services.quota import QuotaService
from tests.fakes import FakeClock

DAY_S = 86_400


def settings(project: str = "", projects: dict[str, str] | None = None, max_projects: int = 100) -> Settings:
    quota = Quota(project=Rates(project), projects=RateTable(projects or {}), max_projects=max_projects)
    return Settings(quota=quota)


class Bench:
    """A service that counts for itself, and what it runs on."""

    def __init__(self, start: Settings) -> None:
        self.live = Live(start)
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.service = QuotaService(self.live, self.clock, self.metrics)

    def spend(self, times: int, token: str = "phc_a", units: int = 1) -> int:
        """How often there was something left."""
        return sum(self.service.spend(token, units) for _ in range(times))

    def move_to(self, *date: int) -> None:
        self.clock.advance((datetime(*date, tzinfo=UTC) - self.clock.now()).total_seconds())  # type: ignore[arg-type, misc]

    def counted(self, name: str) -> float:
        rows = self.metrics.render().decode().splitlines()
        return next(float(row.split()[1]) for row in rows if row.startswith(f"flagstone_{name} "))


def test_spend__quota_of_each_project__holds_for_each() -> None:
    """quota.project: whoever used what there is gets no more, and takes nothing from others; without, all is free."""
    bench = Bench(settings("3/day"))
    assert (bench.spend(5), bench.spend(5, "phc_b")) == (3, 3)
    assert bench.counted("over_quota_total") == 4
    assert bench.counted("quota_projects") == 2
    unlimited = Bench(settings())
    assert unlimited.spend(100) == 100
    assert unlimited.counted("quota_projects") == 0


def test_spend__quota_of_a_single_project__counts_instead() -> None:
    """quota.projects: a project can have more, less, or no quota at all."""
    bench = Bench(settings("3/day", {"phc_few": "1/day", "phc_many": "5/day", "phc_all": ""}))
    tokens = ("phc_few", "phc_many", "phc_all", "phc_other")
    assert [bench.spend(10, token) for token in tokens] == [1, 5, 10, 3]
    only_one = Bench(settings(projects={"phc_few": "1/day"}))
    assert (only_one.spend(10, "phc_few"), only_one.spend(10, "phc_other")) == (1, 10)


def test_spend__day_and_month__both_hold() -> None:
    """The scarcer one decides, and what a day refused is not taken from the month."""
    bench = Bench(settings("3/day; 5/month"))
    assert bench.spend(10) == 3
    bench.clock.advance(DAY_S)
    assert bench.spend(10) == 2
    bench.clock.advance(DAY_S)
    assert bench.spend(10) == 0


@pytest.mark.parametrize(
    ("quota", "last", "first"),
    [
        ("1/day", (2026, 1, 15, 23, 59, 59, 999_999), (2026, 1, 16)),
        ("1/month", (2026, 1, 31, 23, 59, 59, 999_999), (2026, 2, 1)),
        ("1/month", (2026, 2, 28, 23, 59, 59, 999_999), (2026, 3, 1)),
        ("1/month", (2026, 12, 31, 23, 59, 59, 999_999), (2027, 1, 1)),
    ],
)
def test_spend__period_ends__begins_anew_at_that_moment(quota: str, last: Sequence[int], first: Sequence[int]) -> None:
    """A quota is over until the last moment of its day or month in UTC, and whole in the next one."""
    bench = Bench(settings(quota))
    bench.move_to(*last[:2], last[2])
    assert bench.spend(2) == 1
    bench.move_to(*last)
    assert bench.spend(1) == 0
    bench.move_to(*first)
    assert bench.spend(2) == 1


def test_spend__clock_was_wrong__goes_by_the_right_one() -> None:
    """A clock that is put back takes the period with it, rather than leaving a project without its quota for long."""
    bench = Bench(settings("1/month"))
    bench.move_to(2030, 1, 1)
    assert bench.spend(2) == 1
    bench.move_to(2026, 1, 15)
    assert bench.spend(2) == 1


def test_spend__several_units__count_as_many() -> None:
    """What costs more than is left is refused and costs nothing; what costs nothing is never refused."""
    bench = Bench(settings("25/day"))
    assert bench.spend(5, units=10) == 2
    assert bench.spend(10) == 5
    assert bench.spend(3, units=0) == 3


def test_spend__settings_replaced__hold_at_once_for_what_was_used() -> None:
    """A quota that is raised goes on from what was used; one that is lowered below that is over."""
    bench = Bench(settings("3/day"))
    assert bench.spend(5) == 3
    bench.live.settings = settings("5/day")
    assert bench.spend(5) == 2
    bench.live.settings = settings("4/day")
    assert bench.spend(5) == 0
    bench.live.settings = settings()
    assert bench.spend(5) == 5


def test_spend__more_projects_than_are_kept__forgets_the_one_not_asked_for() -> None:
    """quota.max_projects: so many are counted; a forgotten one has its quota anew where nobody else counted it."""
    bench = Bench(settings("2/day", max_projects=2))
    for token in ("phc_a", "phc_b", "phc_a", "phc_c", "phc_a"):
        bench.service.spend(token)
    assert repr(bench.service) == "<QuotaService 2/2 projects, 0 unsent>"
    assert (bench.spend(5, "phc_a"), bench.spend(5, "phc_b")) == (0, 2)
    bench.live.settings = settings("2/day", max_projects=3)
    assert [bench.spend(5, token) for token in ("phc_a", "phc_b", "phc_c")] == [0, 0, 2]

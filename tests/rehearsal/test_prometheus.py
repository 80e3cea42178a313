"""A real Prometheus before a real service: it sees it, is silent while it does well, and fires when it is gone.

Invariant: every wait ends, and none is for a time instead of for what is waited for, except that nothing fires.
"""

import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from drills.prometheus import Prometheus, WrongQuery
from drills.servers import NotInstalled, running
from tests.conftest import ServerProcess
from tests.servers import unavailable

MINUTE_S = 1.0
OF_THE_MACHINE = {
    "FlagstoneCpuPressure",
    "FlagstoneCpuThrottled",
    "FlagstoneEventLoopLag",
    "FlagstoneContainerMemoryHigh",
}
"""What a machine that others keep busy is right to be told of."""
PATIENCE_S = 30.0


@pytest.fixture
def service(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    """The demo, as one worker with metrics."""
    return start_server("--demo", "--set", "server.workers=1").wait_until_ready()


@pytest.fixture
def prometheus(service: ServerProcess) -> Iterator[Prometheus]:
    """One that watches the service, a second for a minute."""
    try:
        server = Prometheus({"flagstone": [urlsplit(service.metrics_url).netloc]}, MINUTE_S)
    except NotInstalled as reason:
        unavailable(str(reason))
    with running(server):
        server.start()
        yield server


def wait_until(is_so: Callable[[], object], what: str) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at, f"never: {what}"
        time.sleep(0.05)


def fired(prometheus: Prometheus, begins: float) -> set[str]:
    """The alerts about the service that have fired since."""
    return {it.name for it in prometheus.alerted(begins, time.time())} - OF_THE_MACHINE


def test_prometheus__before_a_service_that_stops__fires_only_then(
    service: ServerProcess, prometheus: Prometheus
) -> None:
    """Nothing fires while the service does well; once it is gone FlagstoneDown does, with its severity and time."""
    begins = time.time()
    wait_until(lambda: time.time() - begins > 12 * MINUTE_S, "twelve minutes pass")
    assert prometheus.value('flagstone_workers{state="ready"}', time.time()) == 1
    assert fired(prometheus, begins) == set()
    curve = prometheus.curve('up{job="flagstone"}', begins, time.time())
    assert len(curve) > 10
    assert {value for _, value in curve} == {1.0}
    gone = time.time()
    service.end()
    wait_until(lambda: "FlagstoneDown" in fired(prometheus, begins), "FlagstoneDown fires")
    (down,) = [it for it in prometheus.alerted(begins, time.time()) if it.name == "FlagstoneDown"]
    assert (down.severity, down.until_s) == ("page", None)
    assert gone < down.from_s < time.time()
    assert fired(prometheus, begins) <= {"FlagstoneDown", "FlagstoneInstanceNotReady"}


def test_alerted__service_that_comes_back__has_ended(
    service: ServerProcess, prometheus: Prometheus, start_server: Callable[..., ServerProcess]
) -> None:
    """An alert that no longer fires has both of its times."""
    begins = time.time()
    address = urlsplit(service.metrics_url)
    service.end()
    wait_until(lambda: "FlagstoneDown" in fired(prometheus, begins), "FlagstoneDown fires")
    start_server("--demo", "--set", "server.workers=1", "--set", f"metrics.port={address.port}").wait_until_ready()

    def is_over() -> bool:
        down = [it for it in prometheus.alerted(begins, time.time()) if it.name == "FlagstoneDown"]
        return all(it.until_s is not None and begins < it.from_s < it.until_s < time.time() for it in down)

    wait_until(is_over, "FlagstoneDown has ended")


def test_value__of_queries_of_each_kind__is_a_number_or_nothing(prometheus: Prometheus) -> None:
    """What is found is added up, what is not found is None, and a wrong query is said to be wrong."""
    now = time.time()
    assert prometheus.value("1 + 1", now) == 2
    assert prometheus.value("vector(1) or label_replace(vector(2), 'a', 'b', '', '')", now) == 3
    assert prometheus.value("no_such_metric", now) is None
    assert prometheus.curve("no_such_metric", now - 10, now) == []
    with pytest.raises(WrongQuery, match=r"sum\(: .*parse error"):
        prometheus.value("sum(", now)

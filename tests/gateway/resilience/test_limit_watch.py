"""The limiter's doubt about itself, through the incident it is for: everybody behind one address."""

from ipaddress import ip_address

import pytest

from config.networks import Networks
from config.rates import Rates
from gateway.resilience.gcra import LocalLimiter, Outcome
from gateway.resilience.limit_watch import MAX_PEERS, Address, LimitWatch, Reason, Suspicion
from tests.fakes import FakeClock

INTERNAL = Networks("10.0.0.0/8")
BALANCER = ip_address("10.0.0.7")
FLOODER = ip_address("203.0.113.9")
RATES = Rates("10/second")


class Door:
    """A limiter that asks the watch before it sends anybody away, as whoever wires the two must."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watch = LimitWatch(self.clock)
        self._limiter = LocalLimiter(self.clock, 1000)

    def come(self, address: Address, times: int = 1, *, is_unproven: bool = False, is_trusted: bool = False) -> int:
        """How many of the requests are sent away."""
        is_internal, sent_away = address in INTERNAL, 0
        for _ in range(times):
            self.watch.observe(address, is_internal, is_unproven, is_trusted)
            if self._limiter.check(str(address), RATES).outcome is Outcome.DENY:
                sent_away += self.watch.suspicion(address, is_internal) is None
        return sent_away

    def come_many(self, clients: int) -> int:
        """One request of each of so many public clients."""
        return sum(self.come(ip_address(f"198.51.{number // 256}.{number % 256}")) for number in range(clients))

    def reasons(self) -> list[tuple[str, str]]:
        return [(suspicion.reason.value, str(suspicion.address)) for suspicion in self.watch.active()]


def test_incident__balancer_is_not_trusted__nobody_is_sent_away_until_it_is() -> None:
    """Behind an untrusted balancer the limit waits for the fix, while a public flood is limited throughout."""
    door = Door()
    for _ in range(3):
        assert door.come(BALANCER, 500, is_unproven=True) == 0
        assert door.come(FLOODER, 500) == 490
        door.clock.advance(20)
    assert door.reasons() == [("untrusted_proxy", "10.0.0.7")]

    door.watch.reset()  # The balancer is trusted now, so its clients have addresses of their own.
    assert door.reasons() == []
    assert door.come_many(500) == 0
    assert door.come(FLOODER, 500) == 490
    assert door.come(BALANCER, 50, is_trusted=True) == 40
    assert door.reasons() == []


def test_suspicion__trusted_balancer_names_no_client__is_not_limited() -> None:
    """A balancer that writes another header than the one that is read must not cost everybody their answers."""
    door = Door()
    assert door.come(BALANCER, 500, is_trusted=True) == 0
    assert door.reasons() == [("no_client_named", "10.0.0.7")]


def test_suspicion__balancer_sends_no_headers__is_not_limited() -> None:
    """Nor does a balancer that hides its clients altogether."""
    door = Door()
    assert door.come(BALANCER, 500) == 0
    assert door.reasons() == [("one_internal_address", "10.0.0.7")]


def test_suspicion__heavy_internal_client_among_the_public__is_limited() -> None:
    """One busy service inside is a client like any other, as long as others are seen."""
    door = Door()
    door.come_many(200)
    assert door.come(BALANCER, 500) == 490
    assert door.reasons() == []


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize(("balancers", "is_doubted"), [(8, True), (9, False)])
def test_suspicion__traffic_spread_evenly__doubts_eight_addresses_at_most(
    balancers: int, is_doubted: bool, is_trusted: bool
) -> None:
    """Several balancers are one mistake; many internal addresses are clients."""
    door = Door()
    sent_away = sum(
        door.come(ip_address(f"10.0.1.{number}"), is_trusted=is_trusted)
        for _ in range(50)
        for number in range(balancers)
    )
    assert (sent_away == 0) is is_doubted
    assert len(door.watch.active()) == (balancers if is_doubted else 0)


@pytest.mark.parametrize(("public", "is_doubted"), [(11, True), (12, False)])
def test_suspicion__share_of_the_traffic__decides_at_nine_tenths(public: int, is_doubted: bool) -> None:
    """Doubt begins at 90 % of what was seen in the window."""
    watch = LimitWatch(FakeClock())
    for _ in range(100):
        watch.observe(BALANCER, True, False, False)
    for _ in range(public):
        watch.observe(FLOODER, False, False, False)
    assert (watch.suspicion(BALANCER, True) is not None) is is_doubted


def test_suspicion__small_client_beside_eight_balancers__is_limited() -> None:
    """Only the addresses that make up the traffic are doubted, not everybody inside."""
    watch = LimitWatch(FakeClock())
    for number in range(8):
        for _ in range(100):
            watch.observe(ip_address(f"10.0.1.{number}"), True, False, False)
    watch.observe(BALANCER, True, False, False)
    assert watch.suspicion(BALANCER, True) is None
    assert watch.suspicion(ip_address("10.0.2.1"), True) is None


def test_suspicion__address_outside__is_never_doubted() -> None:
    """Not even when it is all there is, and sends headers."""
    watch = LimitWatch(FakeClock())
    for _ in range(100):
        watch.observe(FLOODER, False, True, False)
    assert watch.suspicion(FLOODER, False) is None
    assert watch.unproven_public == 100
    assert repr(watch) == "<LimitWatch 100 requests, 0 internal peers, 0 suspicions>"


def test_active__suppressed_nothing_for_a_window__is_gone() -> None:
    """An operator sees the doubt for as long as it has an effect, and a window longer."""
    door = Door()
    door.come(BALANCER, 20, is_unproven=True)
    door.clock.advance(59)
    assert door.reasons() == [("untrusted_proxy", "10.0.0.7")]
    door.clock.advance(1)
    assert door.reasons() == []


def test_observe__window_passes__headers_and_shares_are_forgotten() -> None:
    """What was seen a window ago says nothing any more."""
    clock = FakeClock()
    watch = LimitWatch(clock)
    watch.observe(BALANCER, True, True, False)
    watch.observe(FLOODER, False, True, False)
    for _ in range(2):
        clock.advance(29)
        for _ in range(20):
            watch.observe(FLOODER, False, False, False)
    assert watch.suspicion(BALANCER, True) == Suspicion(Reason.UNTRUSTED_PROXY, BALANCER)
    assert watch.unproven_public == 1
    clock.advance(3)
    assert watch.suspicion(BALANCER, True) is None
    assert watch.unproven_public == 0
    watch.observe(FLOODER, False, True, False)
    clock.advance(1000)
    assert watch.unproven_public == 0
    watch.observe(BALANCER, True, False, False)
    assert watch.suspicion(BALANCER, True) == Suspicion(Reason.ONE_INTERNAL_ADDRESS, BALANCER)


def test_suspicion__half_a_window_later__remembers_the_half_before() -> None:
    """A turn of the window is no moment in which everybody is limited."""
    clock = FakeClock()
    watch = LimitWatch(clock)
    for _ in range(50):
        watch.observe(BALANCER, True, False, True)
    clock.advance(30)
    watch.observe(FLOODER, False, False, False)
    assert watch.suspicion(BALANCER, True) == Suspicion(Reason.NO_CLIENT_NAMED, BALANCER)


def test_observe__many_internal_addresses__remembers_few_and_doubts_the_rest_only_with_headers() -> None:
    """Memory is bounded, and an untrusted proxy too many is not limited for want of room."""
    clock = FakeClock()
    watch = LimitWatch(clock)
    addresses = [ip_address(f"10.1.{number // 256}.{number % 256}") for number in range(1000)]
    for address in addresses:
        watch.observe(address, True, False, False)
    assert repr(watch) == "<LimitWatch 1000 requests, 64 internal peers, 0 suspicions>"
    assert watch.suspicion(addresses[-1], True) is None
    for address in addresses:
        watch.observe(address, True, True, False)
        clock.advance(0.001)
        assert watch.suspicion(address, True) == Suspicion(Reason.UNTRUSTED_PROXY, address)
    assert {suspicion.address for suspicion in watch.active()} == set(addresses[-MAX_PEERS:])


@pytest.mark.parametrize(
    ("reason", "settings"),
    [
        (Reason.UNTRUSTED_PROXY, ["proxies.trusted"]),
        (Reason.NO_CLIENT_NAMED, ["proxies.trusted", "proxies.header"]),
        (Reason.ONE_INTERNAL_ADDRESS, ["load balancer", "proxies.trusted"]),
    ],
)
def test_text__every_reason__names_the_address_and_what_to_change(reason: Reason, settings: list[str]) -> None:
    """Whoever reads it knows where to look."""
    text = Suspicion(reason, BALANCER).text
    assert text.startswith("10.0.0.7 ")
    assert all(setting in text for setting in settings)

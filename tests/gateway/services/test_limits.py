"""Who is held to which rates, and what becomes of a denial - without a server, on a clock that is moved."""

import logging
import re
from typing import Any

import pytest

from config.edge import Limits, Proxies
from config.networks import Networks
from config.rates import Rates, RateTable
from config.reload import Live
from config.settings import Settings
from gateway.errors import RateLimited
from gateway.metrics import Metrics
from gateway.resilience.gcra import ALLOW, Decision, Outcome
from gateway.services.limits import LimitService
from gateway.telemetry import RequestRecord
from gateway.wire.forwarded import client_of
from tests.fakes import FakeClock

PUBLIC = "203.0.113.9"
BALANCER = "10.0.0.7"
DENIED = Decision(Outcome.DENY, limit=7)


class FakeFleet:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, decision: Decision | None = ALLOW) -> None:
        self.decision = decision
        self.asked: list[str] = []

    async def check(self, key: str, rates: Rates) -> Decision | None:
        self.asked.append(f"{key} {rates}")
        return self.decision


class Door:
    """The limits before an app: `come` is one request."""

    def __init__(self, fleet: FakeFleet | None = None, **limits: Any) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        self.fleet = fleet or FakeFleet()
        self.live = Live(Settings(limits=Limits(**{"address": Rates("10/minute"), **limits})))
        self.service = LimitService(self.live, self.clock, self.metrics, self.fleet)

    def reload(self, **sections: Any) -> None:
        """Put these sections in force; the others become equal ones, as in a worker that is told."""
        kept: dict[str, Any] = {"limits": Limits(**_fields(self.live.settings.limits))}
        kept["proxies"] = Proxies(**_fields(self.live.settings.proxies))
        self.live.settings = Settings(**{**kept, **sections})

    async def come(self, peer: str = PUBLIC, forwarded: str = "", *, route: str = "flags", token: str = "") -> str:
        """ "in", "near" for in with a warning, or "out"."""
        settings, record = self.live.settings, self.record()
        headers = [(settings.proxies.header.encode(), forwarded.encode())] if forwarded else []
        try:
            client = client_of(peer, headers, settings.proxies.trusted, settings.proxies.header)
            await self.service.check_address(client, route, record)
            if token:
                await self.service.check_token(token, record)
        except RateLimited:
            return "out"
        return "near" if record.is_near_limit else "in"

    async def come_often(self, times: int, *arguments: str, **more: Any) -> int:
        """How many of so many requests are let in."""
        return sum([await self.come(*arguments, **more) != "out" for _ in range(times)])

    async def refusal(self) -> RateLimited:
        """What one more request is refused with."""
        with pytest.raises(RateLimited) as caught:
            await self.service.check_address(client_of(PUBLIC, (), Networks("")), "flags", self.record())
        return caught.value

    def record(self) -> RequestRecord:
        settings = self.live.settings
        return RequestRecord(self.clock, settings, 1, request_id="", method="POST", path="/flags", user_agent="")

    def counted(self, limit: str, outcome: str) -> float:
        return self.metric(f'rate_limited_total{{limit="{limit}",outcome="{outcome}"}}')

    def metric(self, name: str) -> float:
        (value,) = re.findall(rf"^flagstone_{re.escape(name)} (\S+)$", self.metrics.render().decode(), re.MULTILINE)
        return float(value)


def _fields(section: Any) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__struct_fields__}


@pytest.mark.parametrize(
    ("rates", "let_in"), [("10/minute", 10), ("3/minute", 3), ("30/minute; 5/second", 5), ("", 50)]
)
async def test_address__asking_too_often__is_denied(rates: str, let_in: int) -> None:
    """limits.address: its rates hold for each client address, all at once; without any nobody is limited."""
    door = Door(address=Rates(rates))
    assert await door.come_often(50) == let_in
    assert await door.come_often(50, "198.51.100.7") == let_in
    assert door.counted("address", "denied") == 2 * (50 - let_in)


async def test_address__after_its_window__is_let_in_again() -> None:
    """A denial lasts no longer than the rate says."""
    door = Door()
    await door.come_often(20)
    door.clock.advance(6.1)
    assert await door.come_often(20) == 1
    door.clock.advance(60)
    assert await door.come_often(20) == 10


async def test_address__of_one_ipv6_subscriber__is_one_client() -> None:
    """Whoever has a /64 to choose addresses from is limited as one."""
    door = Door()
    assert sum([await door.come_often(1, f"2001:db8::{number:x}") for number in range(1, 51)]) == 10
    assert await door.come_often(50, "2001:db8:0:1::1") == 10


async def test_route__with_rates_of_its_own__counts_apart() -> None:
    """limits.routes: a route in the table has its own rates and its own count; the others share limits.address."""
    door = Door(routes=RateTable({"decide": "2/minute", "other": ""}))
    assert await door.come_often(50, route="decide") == 2
    assert await door.come_often(50, route="other") == 50
    assert await door.come_often(50, route="flags") == 10


async def test_token__asking_too_often__is_denied_from_every_address() -> None:
    """limits.token: its rates hold for a project, whoever asks."""
    door = Door(token=Rates("20/minute"))
    let_in = [await door.come_often(1, f"203.0.113.{number}", token="phc_one") for number in range(50)]
    assert sum(let_in) == 20
    assert await door.come("198.51.100.7", token="phc_two") == "in"
    assert door.counted("token", "denied") == 30


async def test_token__without_rates__is_not_limited() -> None:
    """Left alone, a project may have any number of clients."""
    door = Door()
    assert sum([await door.come_often(1, f"198.51.100.{number}", token="phc_one") for number in range(200)]) == 200


@pytest.mark.parametrize(("rates", "let_in"), [("2/minute", 2), ("40/minute", 40), ("", 50)])
async def test_token__with_rates_of_its_own__has_those(rates: str, let_in: int) -> None:
    """limits.tokens: a project in the table has its own rates instead of limits.token, or none at all."""
    door = Door(address=Rates(""), token=Rates("10/minute"), tokens=RateTable({"phc_own": rates}))
    assert await door.come_often(50, token="phc_own") == let_in
    assert await door.come_often(50, token="phc_two") == 10


@pytest.mark.parametrize(("warn_ratio", "in_silence"), [(0.8, 7), (0.5, 4), (1.0, 9)])
async def test_warning__near_the_limit__is_noted(warn_ratio: float, in_silence: int) -> None:
    """limits.warn_ratio: from this part of a rate on, whoever is let in is told."""
    door = Door(warn_ratio=warn_ratio)
    expected = ["in"] * in_silence + ["near"] * (10 - in_silence) + ["out"]
    assert [await door.come() for _ in range(11)] == expected
    assert door.counted("address", "warned") == 10 - in_silence


async def test_denial__has_the_numbers_of_the_rate_that_decided_in_whole_seconds() -> None:
    """The client learns which rate it is, and a time to wait that is not too short."""
    door = Door(address=Rates("100/second; 7/minute"))
    await door.come_often(7)
    door.clock.advance(0.5)
    refusal = await door.refusal()
    assert dict(refusal.headers) == {
        b"ratelimit-limit": b"7", b"ratelimit-remaining": b"0", b"ratelimit-reset": b"60",
    }  # fmt: skip
    assert refusal.retry_after_s == 9


async def test_denial__of_a_fleet_that_names_no_time__asks_for_a_second() -> None:
    """Nobody is told to try again at once."""
    assert (await Door(FakeFleet(DENIED), is_fleet_wide=True).refusal()).retry_after_s == 1


async def test_mode__shadow__only_counts() -> None:
    """limits.mode: in shadow everybody is let in, and what would be denied is in the metrics."""
    door = Door(mode="shadow", token=Rates("5/minute"))
    assert await door.come_often(50, token="phc_one") == 50
    assert door.counted("address", "would_deny") == 40
    assert door.counted("token", "would_deny") == 45
    assert door.counted("address", "denied") == door.counted("token", "denied") == 0


async def test_mode__off__does_not_even_count() -> None:
    """limits.mode: when off, nothing is remembered of anybody."""
    door = Door(mode="off", token=Rates("5/minute"))
    assert await door.come_often(50, token="phc_one") == 50
    assert door.metric("limiter_keys") == 0


@pytest.mark.parametrize(("max_keys", "let_in"), [(1, 1), (2, 0)])
async def test_max_keys__too_few__forgets_whom_it_has_not_seen_for_longest(max_keys: int, let_in: int) -> None:
    """limits.max_keys: no more addresses than these are remembered; a forgotten one begins anew."""
    door = Door(max_keys=max_keys)
    await door.come_often(10)
    await door.come("198.51.100.7")
    assert await door.come_often(1) == let_in
    assert door.metric("limiter_keys") == max_keys


async def test_reload__of_the_limits__holds_from_the_next_request_on() -> None:
    """Rates, mode, ratio and bound that are loaded anew need no restart."""
    door = Door()
    await door.come_often(11)
    door.reload(limits=Limits(address=Rates("20/minute"), warn_ratio=1.0))
    door.clock.advance(30)  # Nobody is kept out for longer than the new rate says.
    assert [await door.come() for _ in range(9)] == ["in"] * 9
    door.reload(limits=Limits(mode="off"))
    assert await door.come_often(50) == 50
    door.reload(limits=Limits(max_keys=1))
    await door.come("198.51.100.7")
    assert door.metric("limiter_keys") == 1


async def test_fleet__not_asked_for__is_not_asked() -> None:
    """limits.is_fleet_wide: without it each worker counts for itself, and Redis is left alone."""
    door = Door(FakeFleet(DENIED))
    assert await door.come_often(50) == 10
    assert door.fleet.asked == []


async def test_fleet__denies__is_believed() -> None:
    """limits.is_fleet_wide: what all processes let in together counts, also where this one has let in little."""
    door = Door(FakeFleet(DENIED), is_fleet_wide=True, routes=RateTable({"other": ""}))
    assert await door.come() == "out"
    assert door.fleet.asked == [f"a:{PUBLIC} 10/minute"]
    assert await door.come(route="other") == "in"
    assert len(door.fleet.asked) == 1


async def test_fleet__allows__leaves_the_workers_own_count_and_warning() -> None:
    """A worker's own denial costs no round trip, and its warning stands, as Redis has none."""
    door = Door(FakeFleet(ALLOW), is_fleet_wide=True, token=Rates("100/minute"))
    assert [await door.come(token="phc_one") for _ in range(12)] == ["in"] * 7 + ["near"] * 3 + ["out"] * 2
    assert door.fleet.asked == [f"a:{PUBLIC} 10/minute", "t:phc_one 100/minute"] * 10


@pytest.mark.parametrize(("on_failure", "let_in"), [("local", 10), ("allow", 50), ("deny", 0)])
async def test_fleet__says_nothing__is_done_without(on_failure: str, let_in: int) -> None:
    """limits.on_failure: while Redis does not answer, the worker's count decides, or nobody is denied, or everybody."""
    door = Door(FakeFleet(None), is_fleet_wide=True, on_failure=on_failure)
    assert await door.come_often(50) == let_in
    assert door.metric("fleet_limit_fallbacks_total") == len(door.fleet.asked) > 0
    door.fleet.decision = ALLOW
    assert await door.come_often(50, "198.51.100.7") == 10


async def test_suspended__untrusted_balancer__nobody_behind_it_is_denied(caplog: pytest.LogCaptureFixture) -> None:
    """A balancer that is not trusted costs its clients nothing; the log says once what to set, and when it is over."""
    caplog.set_level(logging.INFO)
    door = Door()
    for number in range(100):
        assert await door.come(BALANCER, f"198.51.100.{number}") != "out"
    assert [record.message for record in caplog.records] == ["address_limit_suspended"]
    assert caplog.records[0].levelno == logging.ERROR
    (suspicion,) = door.service.suspicions()
    assert BALANCER in suspicion.text
    assert "proxies.trusted" in suspicion.text
    assert door.counted("address", "suspended") == 90
    assert door.metric('address_limit_suspended{reason="untrusted_proxy"}') == 1
    door.clock.advance(61)
    assert door.metric('address_limit_suspended{reason="untrusted_proxy"}') == 0
    assert [record.message for record in caplog.records[1:]] == ["address_limit_resumed"]


async def test_suspended__put_right_by_a_reload__holds_real_clients_to_their_rates() -> None:
    """proxies.trusted: once the balancer is in it, doubts are gone at once and each client has its own count."""
    door = Door()
    await door.come_often(50, BALANCER, PUBLIC)
    door.reload(proxies=Proxies(trusted=Networks("10.0.0.0/8")))
    assert await door.come_often(50, BALANCER, PUBLIC) == 10
    assert await door.come_often(50, BALANCER, "198.51.100.7") == 10
    assert door.service.suspicions() == []


async def test_suspended__the_other_header_is_read_after_a_reload__is_over() -> None:
    """proxies.header: once it is the one the balancer writes, nobody is told any more that it names no client."""
    door = Door()
    door.reload(proxies=Proxies(trusted=Networks(BALANCER), header="forwarded"))
    assert await door.come_often(50, BALANCER) == 50
    (suspicion,) = door.service.suspicions()
    assert "proxies.header" in suspicion.text
    door.reload(proxies=Proxies(trusted=Networks(BALANCER)))
    assert await door.come_often(50, BALANCER, PUBLIC) == 10
    assert door.service.suspicions() == []


async def test_not_spared__untrusted_balancer__everybody_behind_it_has_one_rate() -> None:
    """limits.is_balancer_spared: switched off, a mistake in proxies.trusted denies nearly everybody, but is told."""
    door = Door()
    assert await door.come_often(50, BALANCER, PUBLIC) == 50
    door.reload(limits=Limits(address=Rates("10/minute"), is_balancer_spared=False))
    assert await door.come_often(50, BALANCER, PUBLIC) == 0
    assert len(door.service.suspicions()) == 1


async def test_suspended__something_else_is_reloaded__stays() -> None:
    """A reload that leaves proxies as they are forgets no doubt."""
    door = Door()
    await door.come_often(50, BALANCER, PUBLIC)
    door.reload(limits=Limits(address=Rates("5/minute")))
    await door.come()
    assert len(door.service.suspicions()) == 1


async def test_suspended__amid_a_public_flood__stays_so_for_the_balancer_alone() -> None:
    """Whoever floods from outside is limited throughout, and does not outnumber those that a balancer hides."""
    door = Door()
    for _ in range(10):
        assert await door.come_often(200, BALANCER) == 200
        assert await door.come_often(500) <= 11
        door.clock.advance(6)
    assert [suspicion.reason.value for suspicion in door.service.suspicions()] == ["one_internal_address"]


async def test_suspended__by_the_count_of_the_fleet__is_the_same() -> None:
    """Processes that share a count share no mistake about a balancer."""
    door = Door(FakeFleet(DENIED), is_fleet_wide=True)
    assert await door.come_often(50, BALANCER, PUBLIC) == 50
    assert await door.come_often(50) == 0


async def test_denied__heavy_client_inside_among_others__is_no_exception() -> None:
    """An internal address is held to its rates as long as it is plainly one client of many."""
    door = Door()
    for number in range(250):
        await door.come(f"198.51.100.{number}")
    assert await door.come_often(100, BALANCER) == 10
    assert door.service.suspicions() == []

"""Made-up addresses by the million, and addresses that are smuggled past a trusted proxy.

Invariant: what the limiter remembers is bounded, whoever comes, and nobody chooses an address of his own.
"""

from collections.abc import Callable

import pytest

from config.rates import Rates
from gateway.resilience.gcra import LocalLimiter, Outcome
from gateway.server.worker import resident_bytes
from tests.abuse.victim import LIVENESS, Victim, head
from tests.fakes import FakeClock

TRUSTING = ("proxies.trusted=127.0.0.1", "limits.mode=enforce", "limits.address=1/hour")


def test_limiter__a_million_keys__are_forgotten_beyond_the_bound() -> None:
    """limits.max_keys: beyond it those not seen for longest are forgotten; those who keep coming are not."""
    limiter = LocalLimiter(FakeClock(), max_keys=100_000)
    often, rarely = Rates("1000000/hour"), Rates("1/hour")
    assert limiter.check("a:regular", rarely).outcome is not Outcome.DENY
    before = resident_bytes()
    for number in range(1_000_000):
        limiter.check(f"a:{number}", often)
        if number % 1000 == 0:
            assert limiter.check("a:regular", rarely).outcome is Outcome.DENY
    assert len(limiter) == 100_000
    assert limiter.evicted == 900_001
    assert resident_bytes() - before < 100_000 * 600


@pytest.mark.parametrize(("max_keys", "remembered"), [(500, 500), (100_000, 3000)])
def test_addresses__made_up_by_the_thousand__are_forgotten(
    start_victim: Callable[..., Victim], engine: str, max_keys: int, remembered: int
) -> None:
    """limits.max_keys: as many addresses are remembered and no more, however many come through a proxy."""
    victim = start_victim(f"server.engine={engine}", *TRUSTING, f"limits.max_keys={max_keys}")
    asked = [head(b"X-Forwarded-For: 203.%d.%d.7" % divmod(n, 250), target=b"GET /") for n in range(3000)]
    with victim.connect() as connection:
        for start in range(0, len(asked), 30):
            connection.sendall(b"".join(asked[start : start + 30]))
            answers = b""
            while answers.count(b"HTTP/1.1 ") < 30:
                answers += connection.recv(65_536)
    assert abs(victim.metric("limiter_keys") - remembered) <= 1
    assert victim.ask() in {200, 429}


def test_address__in_a_trailer__is_not_believed(start_victim: Callable[..., Victim], engine: str) -> None:
    """What a client sends behind its body is no word of the proxy's, which stands before it."""
    victim = start_victim(f"server.engine={engine}", *TRUSTING)
    statuses = []
    for number in range(3):
        told = victim.answers(
            head(b"Transfer-Encoding: chunked", b"Connection: close", b"X-Forwarded-For: 203.0.113.9")
            + b"0\r\nX-Forwarded-For: 198.51.100.%d\r\n\r\n" % number
        )
        statuses.append(told[9:12])
    assert statuses[1:] == [b"429", b"429"]
    assert victim.answers(LIVENESS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")

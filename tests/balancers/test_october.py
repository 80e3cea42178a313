"""The outage of 24 October 2025 again, behind real balancers: everybody seems to come from the balancer's address.

The balancers run the files that are shipped. Clients have addresses of their own in 127.0.0.0/8, and rates are so low
that each of these tests would end in refusals for everybody if the mistake were not noticed.
"""

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.balancers.conftest import DEMO, TRUSTING, Balance, Balancer, Headers, ask
from tests.conftest import ServerProcess

StartServer = Callable[..., ServerProcess]

RATE = 5
LIMITED = ("--set", f"limits.address={RATE}/hour")
BALANCER = "127.0.0.1"
FLOODER = "127.0.0.99"
PUBLIC = "203.0.113.9"
CROWD = [f"127.0.1.{number}" for number in range(1, 41)]
"""So many that none of them looks like a balancer."""
PATIENCE_S = 10


def come(balancer: Balancer, sources: list[str], headers: Headers = ()) -> list[int]:
    """The status of one request from each of these addresses, some at once."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda source: ask(balancer, source=source, headers=headers).status_code, sources))


def logged(server: ServerProcess, event: str) -> list[dict[str, object]]:
    lines = [msgspec.json.decode(line) for line in server.errors.splitlines() if line.endswith("}") and event in line]
    return [line for line in lines if line["event"] == event]


def metric(server: ServerProcess, name: str, labels: str) -> float:
    """The sum of a metric's values whose labels include this text."""
    rows = re.findall(rf"^flagstone_{name}\{{(.*)\}} (\S+)$", httpx.get(server.metrics_url).text, re.MULTILINE)
    return sum(float(value) for found, value in rows if labels in found)


def warnings(server: ServerProcess) -> list[str]:
    answer = httpx.get(f"{server.url}/_readiness")
    assert answer.status_code == 200
    return list(answer.json().get("warnings", ()))


def reload(server: ServerProcess) -> None:
    """Have the settings read anew, as an operator would, and wait until they are in force."""
    before = len(logged(server, "settings_reloaded"))
    server.tell(signal.SIGHUP)
    ends_at = time.monotonic() + PATIENCE_S
    while len(logged(server, "settings_reloaded")) == before:
        assert time.monotonic() < ends_at
        time.sleep(0.02)
    assert logged(server, "settings_reloaded")[-1]["result"] == "changed"


def test_october__balancer_is_not_trusted__nobody_is_locked_out_and_it_is_told_until_put_right(
    balance: Balance, start_server: StartServer, tmp_path: Path
) -> None:
    """proxies.trusted: without the balancer in it everybody is served, and log, metric and readiness say what to set.

    Once that is set, without a restart, each client is held to its own rate, and nobody is told anything any more.
    """
    settings = tmp_path / "flagstone.toml"
    settings.write_text('[proxies]\ntrusted = ""\n')
    server = start_server(*DEMO, *LIMITED, "--config", str(settings)).wait_until_ready()
    balancer = balance([server])
    assert warnings(server) == []
    assert set(come(balancer, CROWD * 2)) == {200}
    (event,) = logged(server, "address_limit_suspended")
    (warning,) = warnings(server)
    assert event["level"] == "error"
    assert event["problem"] == warning
    assert "proxies.trusted" in warning
    assert warning.startswith(f"{BALANCER} ")
    assert metric(server, "address_limit_suspended", 'reason="untrusted_proxy"') == 1
    assert metric(server, "rate_limited_total", 'outcome="suspended"') == len(CROWD) * 2 - RATE
    assert metric(server, "rate_limited_total", 'outcome="denied"') == 0

    settings.write_text(f'[proxies]\ntrusted = "{BALANCER}"\n')
    reload(server)
    assert set(come(balancer, CROWD * 2)) == {200}
    assert come(balancer, [FLOODER] * 3 * RATE).count(200) == RATE
    assert set(come(balancer, CROWD)) == {200}
    assert warnings(server) == []
    assert metric(server, "address_limit_suspended", "reason=") == 0


@pytest.mark.parametrize("is_spoofing", [False, True])
def test_october__one_client_floods__is_limited_and_nobody_else(
    balance: Balance, start_server: StartServer, *, is_spoofing: bool
) -> None:
    """limits.address: whoever floods gets its rate, whatever it writes about itself; others are served meanwhile."""
    server = start_server(*DEMO, *LIMITED, *TRUSTING).wait_until_ready()
    balancer = balance([server])
    let_in = 0
    for turn in range(4):
        assert set(come(balancer, CROWD)) == {200}
        for number in range(10):
            spoofed = f"198.51.{turn}.{number}"
            headers = [("X-Forwarded-For", spoofed), ("Forwarded", f"for={spoofed}"), ("X-Real-IP", spoofed)]
            let_in += ask(balancer, source=FLOODER, headers=headers if is_spoofing else ()).status_code == 200
    assert let_in == RATE
    assert warnings(server) == []


def test_october__header_nobody_writes_is_read__nobody_is_locked_out(
    balance: Balance, start_server: StartServer
) -> None:
    """proxies.header: if it is not what the balancer writes, everybody is served, and readiness says so."""
    server = start_server(*DEMO, *LIMITED, *TRUSTING, "--set", "proxies.header=forwarded").wait_until_ready()
    assert set(come(balance([server]), CROWD)) == {200}
    (warning,) = warnings(server)
    assert "proxies.header" in warning
    assert BALANCER in warning


def test_october__public_client_floods_alone__is_limited(balance: Balance, start_server: StartServer) -> None:
    """Whoever comes from outside, here by one more proxy that is trusted, is limited even when nobody else asks."""
    outer = "127.0.0.50"
    server = start_server(*DEMO, *LIMITED, "--set", f"proxies.trusted={BALANCER},{outer}").wait_until_ready()
    balancer = balance([server])
    assert come(balancer, [outer] * 4 * RATE, [("X-Forwarded-For", PUBLIC)]).count(200) == RATE
    assert warnings(server) == []


def test_october__public_client_floods_past_an_untrusted_balancer__is_limited(
    balance: Balance, start_server: StartServer
) -> None:
    """A mistake about one balancer is no way in for those who come by another, which is trusted."""
    outer = "127.0.0.50"
    server = start_server(*DEMO, *LIMITED, "--set", f"proxies.trusted={outer}").wait_until_ready()
    balancer = balance([server])
    assert set(come(balancer, CROWD)) == {200}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=outer), headers={"X-Forwarded-For": PUBLIC}) as past:
        statuses = [past.get(f"{server.url}/flags").status_code for _ in range(4 * RATE)]
    assert statuses == [200] * RATE + [429] * 3 * RATE
    assert set(come(balancer, CROWD)) == {200}

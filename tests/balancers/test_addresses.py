"""Whom flagstone takes for the client behind HAProxy and nginx, as its log has it, whatever clients write."""

import time
from collections.abc import Callable

import msgspec
import pytest

from drills.faults import FaultProxy
from tests.balancers.conftest import CLIENT, DEMO, TRUSTING, Balance, Balancer, Headers, ask, has_ipv6
from tests.conftest import ServerProcess

StartServer = Callable[..., ServerProcess]

SPOOFED = "203.0.113.9"
WRITTEN_BY_CLIENTS: dict[str, Headers] = {
    "nothing": (),
    "one-address": [("X-Forwarded-For", SPOOFED)],
    "several-headers": [("X-Forwarded-For", SPOOFED), ("X-Forwarded-For", "198.51.100.7"), ("x-forwarded-for", "::1")],
    "a-trusted-proxy": [("X-Forwarded-For", f"{SPOOFED}, 127.0.0.1")],
    "nothing-but-commas": [("X-Forwarded-For", ",,,")],
    "an-empty-header": [("X-Forwarded-For", "")],
    "garbage": [("X-Forwarded-For", '"\xff\xfe;for=<script>, 1.2.3.4.5, [::1')],
    "a-long-list": [("X-Forwarded-For", ", ".join([SPOOFED] * 400))],
    "other-headers": [("Forwarded", f"for={SPOOFED}"), ("X-Real-IP", SPOOFED), ("X_Forwarded_For", SPOOFED)],
    "a-header-to-drop": [("X-Forwarded-For", SPOOFED), ("Connection", "close, X-Forwarded-For")],
}


def client_seen(server: ServerProcess, balancer: Balancer, *, source: str = CLIENT, headers: Headers = ()) -> str:
    """The client in the server's log line for a request from `source`."""
    answer = ask(balancer, source=source, headers=headers)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    ends_at = time.monotonic() + 5
    while time.monotonic() < ends_at:
        # The line is written after the answer has gone out.
        for line in server.errors.splitlines():
            if request_id in line and '"event":"request"' in line and line.endswith("}"):
                return str(msgspec.json.decode(line)["client"])
        time.sleep(0.01)
    raise AssertionError(f"no line for {request_id}")


@pytest.mark.parametrize("headers", WRITTEN_BY_CLIENTS.values(), ids=WRITTEN_BY_CLIENTS)
def test_address__whatever_a_client_writes__is_where_it_connects_from(
    before_flagstone: Balancer, flagstone: ServerProcess, headers: Headers
) -> None:
    """A client cannot pass for another."""
    assert client_seen(flagstone, before_flagstone, headers=headers) == CLIENT


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_address__of_a_client_by_ipv6__is_its_own(before_flagstone: Balancer, flagstone: ServerProcess) -> None:
    """Clients by IPv6 are told apart although the balancer asks by IPv4."""
    assert client_seen(flagstone, before_flagstone, source="::1", headers=[("X-Forwarded-For", SPOOFED)]) == "::1"


@pytest.mark.parametrize(("outer", "inner"), [("nginx", "haproxy"), ("haproxy", "nginx")])
def test_address__through_two_balancers__is_the_clients(
    flagstone: ServerProcess, request: pytest.FixtureRequest, outer: str, inner: str
) -> None:
    """Balancers in a row need nothing but to be trusted, each of them."""
    start: dict[str, Balance] = {name: request.getfixturevalue(name) for name in (outer, inner)}
    chain = start[outer]([start[inner]([flagstone])])
    assert client_seen(flagstone, chain, headers=[("X-Forwarded-For", SPOOFED)]) == CLIENT


def test_address__of_clients_that_share_a_connection_to_the_backend__is_their_own(
    balance: Balance, flagstone: ServerProcess
) -> None:
    """An address belongs to a request; a kept connection does not hand it on to the next."""
    with FaultProxy("127.0.0.1", flagstone.port) as counted:
        balancer = balance([counted])
        clients = ["127.0.0.2", "127.0.0.3"] * 15
        assert [client_seen(flagstone, balancer, source=client) for client in clients] == clients
        assert counted.accepted < len(clients) / 2


def test_address__with_a_balancer_nobody_trusts__is_the_balancers(balance: Balance, start_server: StartServer) -> None:
    """Without `proxies.trusted` all clients look like one, the balancer."""
    server = start_server(*DEMO).wait_until_ready()
    assert client_seen(server, balance([server]), headers=[("X-Forwarded-For", SPOOFED)]) == "127.0.0.1"


def test_address__looked_for_in_the_header_that_balancers_do_not_write__is_not_what_a_client_wrote_there(
    balance: Balance, start_server: StartServer
) -> None:
    """With `proxies.header` set to the wrong one, clients look like the balancer, and still cannot choose."""
    server = start_server(*DEMO, *TRUSTING, "--set", "proxies.header=forwarded").wait_until_ready()
    assert client_seen(server, balance([server]), headers=[("Forwarded", f"for={SPOOFED}")]) == "127.0.0.1"

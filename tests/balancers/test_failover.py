"""What clients notice of backends that die, stop being ready, hang or have too much to do, and what is asked twice."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.balancers.backends import Backend
from tests.balancers.conftest import DEMO, TRUSTING, Balance, ask
from tests.conftest import ServerProcess

StartServer = Callable[..., ServerProcess]


class Unreachable:
    """A port at which connections are neither accepted nor refused, as at a machine that is gone."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._filler = [socket.socket() for _ in range(2)]
        for connection in self._filler:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", self.port))

    def close(self) -> None:
        for end in (self._listener, *self._filler):
            end.close()


@pytest.fixture
def unreachable() -> Iterator[Unreachable]:
    port = Unreachable()
    yield port
    port.close()


def test_backend__killed__is_noticed_by_no_client(balance: Balance, start_server: StartServer) -> None:
    """Requests go to the other flagstone from the moment that one is dead, on new and on kept connections."""
    one, two = (start_server(*DEMO, *TRUSTING).wait_until_ready() for _ in range(2))
    balancer = balance([one, two])
    body = {"token": "phc_demo", "distinct_id": "alice"}
    with httpx.Client(base_url=balancer.url) as kept:
        before = [kept.post("/flags", json=body).status_code for _ in range(20)]
        one.end()
        after = [kept.post("/flags", json=body).status_code for _ in range(30)]
    after += [ask(balancer).status_code for _ in range(30)]
    assert before + after == [200] * 80


def test_backend__not_ready__is_asked_no_more_until_it_is(haproxy: Balance, backends: list[Backend]) -> None:
    """HAProxy leaves a flagstone within the 5 s that a stopping one goes on answering, and no client notices."""
    balancer = haproxy(backends)
    leaving, staying = backends
    leaving.is_ready = False
    ends_at = time.monotonic() + 5
    asked = -1
    while asked != leaving.requests:
        asked = leaving.requests
        assert {ask(balancer).status_code for _ in range(20)} == {200}
        assert time.monotonic() < ends_at
    leaving.is_ready = True
    ends_at = time.monotonic() + 5
    while asked == leaving.requests:
        assert ask(balancer).status_code == 200
        assert time.monotonic() < ends_at
    assert staying.requests > 20


def test_backend__not_ready__is_asked_by_nginx_all_the_same(nginx: Balance, backends: list[Backend]) -> None:
    """nginx knows of a flagstone only what its answers say; whoever needs more must tell it."""
    balancer = nginx(backends)
    backends[0].is_ready = False
    for _ in range(10):
        assert ask(balancer).status_code == 200
    assert backends[0].requests


def test_request__to_a_backend_that_dies_of_it__is_asked_once_more(balance: Balance, backends: list[Backend]) -> None:
    """A death without an answer is repaired by another backend, but a request that kills does not kill them all."""
    with Backend() as third:
        everyone = [*backends, third]
        balancer = balance(everyone)
        for backend in everyone:
            backend.behaviour = "die"
        assert ask(balancer).status_code == 502
        assert sum(backend.requests for backend in everyone) == 2
    backends[1].behaviour = "answer"
    balancer = balance(backends)
    assert {ask(balancer).status_code for _ in range(4)} == {200}


@pytest.mark.parametrize("path", ["/api/projects/1/feature_flags/", "/batch/", "/e/?compression=gzip-js", "/i/v0/e/"])
def test_request__that_changes_something__is_not_repeated(balance: Balance, backends: list[Backend], path: str) -> None:
    """An edit is not made twice, nor an event counted twice, because a server died after it had taken it."""
    balancer = balance(backends)
    for backend in backends:
        backend.behaviour = "die"
    assert ask(balancer, path=path).status_code == 502
    assert sum(backend.requests for backend in backends) == 1


def test_request__to_a_busy_backend__is_not_repeated(balance: Balance, backends: list[Backend]) -> None:
    """Overload is told to the client, who was given a time to come back; it is not doubled."""
    balancer = balance(backends)
    for backend in backends:
        backend.behaviour = "busy"
    assert ask(balancer).status_code == 503
    assert sum(backend.requests for backend in backends) == 1


def test_request__that_is_not_answered__is_not_repeated(haproxy: Balance, nginx: Balance) -> None:
    """What takes too long is given up, not asked of the next one as well."""

    def give_up(balance: Balance) -> tuple[int, int]:
        with Backend() as one, Backend() as two:
            one.behaviour = two.behaviour = "hang"
            return ask(balance([one, two])).status_code, one.requests + two.requests

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(give_up, [haproxy, nginx])) == [(504, 1), (504, 1)]


def test_request__to_a_machine_that_is_gone__is_asked_elsewhere(
    balance: Balance, backends: list[Backend], unreachable: Unreachable
) -> None:
    """A connection that does not come about costs half a second, not an answer."""
    balancer = balance([unreachable, backends[0]])
    for _ in range(4):
        began = time.monotonic()
        assert ask(balancer).status_code == 200
        assert time.monotonic() - began < 2

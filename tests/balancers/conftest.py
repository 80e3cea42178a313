"""HAProxy and nginx as `deploy/` has them, before real flagstones or before backends that misbehave on purpose.

Only addresses are put into the files; a file that has lost a line to change fails every test. A balancer stays until
the tests of its module are over.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from drills.balancer import addressed
from drills.servers import Server, accepts, found, running
from tests.balancers.backends import Backend
from tests.conftest import ServerProcess

DEPLOY = Path(__file__).parents[2] / "deploy"
CLIENT = "127.0.0.2"
"""Where clients connect from; the balancer itself is 127.0.0.1 to flagstone."""
DEMO = ("--demo", "--set", "log.format=json")
TRUSTING = ("--set", "proxies.trusted=127.0.0.1")

Headers = Sequence[tuple[str, str]]


class HasPort(Protocol):
    port: int


class Balancer(Server):
    """A balancer before these backends; clients connect to `port` of 127.0.0.1, and of ::1 where there is one."""

    def __init__(self, name: str, file: str, listen: str, backends: Sequence[HasPort]) -> None:
        super().__init__(name)
        addresses = [f"127.0.0.1:{self.port}", *([f"[::1]:{self.port}"] if has_ipv6() else [])]
        text = addressed((DEPLOY / file).read_text(), listen, addresses, [backend.port for backend in backends])
        self._configuration = self.write(file, text)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Balancer":
        options: dict[str, list[str | Path]] = {
            "haproxy": ["-f", self._configuration],
            "nginx": ["-p", self.folder, "-e", "stderr", "-c", self._configuration],
        }
        self.launch([found(self.name), *options[self.name]], lambda: accepts(self.port))
        return self


Balance = Callable[[Sequence[HasPort]], Balancer]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def haproxy() -> Iterator[Balance]:
    """Starts HAProxy before these backends."""
    with ExitStack() as started:
        yield lambda backends: _started(started, Balancer("haproxy", "haproxy.cfg", "bind :8080", backends))


@pytest.fixture(scope="module")
def nginx() -> Iterator[Balance]:
    """Starts nginx before these backends."""
    with ExitStack() as started:
        yield lambda backends: _started(started, Balancer("nginx", "nginx.conf", "listen 8080", backends))


def _started(stack: ExitStack, balancer: Balancer) -> Balancer:
    stack.enter_context(running(balancer))
    return balancer.start()


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def balance(request: pytest.FixtureRequest) -> Balance:
    """Starts one or the other."""
    start: Balance = request.getfixturevalue(request.param)
    return start


@pytest.fixture(scope="session")
def flagstone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A service that believes 127.0.0.1, with the demo's flags."""
    server = ServerProcess(tmp_path_factory.mktemp("flagstone"), *DEMO, *TRUSTING)
    try:
        yield server.wait_until_ready()
    finally:
        server.end()


@pytest.fixture(scope="module")
def before_flagstone(balance: Balance, flagstone: ServerProcess) -> Balancer:
    """One balancer before the service."""
    return balance([flagstone])


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    """Two backends that do as a test says."""
    with Backend() as one, Backend() as two:
        yield [one, two]


def ask(balancer: Balancer, *, source: str = CLIENT, headers: Headers = (), path: str = "/flags?v=2") -> httpx.Response:
    """What a new client at `source` gets for its flags, or whatever else is at this path."""
    host = "[::1]" if ":" in source else "127.0.0.1"
    with httpx.Client(transport=httpx.HTTPTransport(verify=False, local_address=source), timeout=10) as client:
        body = {"token": "phc_demo", "distinct_id": "alice"}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        return client.post(f"http://{host}:{balancer.port}{path}", json=body, headers=raw)

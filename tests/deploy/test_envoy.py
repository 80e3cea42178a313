"""Envoy as `deploy/` has it, before real flagstones or before backends that misbehave on purpose.

HAProxy and nginx are in tests/balancers/. Invariant: only addresses are put into the file.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from config.settings import Settings
from drills.balancer import BACKENDS
from drills.servers import Server, accepts, found, running
from tests.balancers.backends import Backend
from tests.balancers.conftest import CLIENT, DEMO, DEPLOY, TRUSTING, HasPort
from tests.conftest import ServerProcess
from tests.processes.listening import Listener

TEXT = (DEPLOY / "envoy.yaml").read_text()
FILE = yaml.safe_load(TEXT)
HTTP = FILE["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
BODY = {"token": "phc_demo", "distinct_id": "alice"}
PATIENCE_S = 20.0


class Envoy(Server):
    """Envoy before these backends; clients connect to `port` of 127.0.0.1."""

    def __init__(self, backends: Sequence[HasPort]) -> None:
        super().__init__("envoy")
        text = _replaced(TEXT, 'address: "0.0.0.0", port_value: 8080', f'address: "127.0.0.1", port_value: {self.port}')
        for address, backend in zip(BACKENDS, backends, strict=True):
            host, port = address.split(":")
            new = f"address: 127.0.0.1, port_value: {backend.port}"
            text = _replaced(text, f"address: {host}, port_value: {port}", new)
        self._configuration = self.write("envoy.yaml", text)

    def start(self) -> "Envoy":
        spec = find_spec("envoy")
        program = found("envoy", *([Path(spec.origin).parent / "_bin"] if spec and spec.origin else []))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        self.launch([program, "-c", self._configuration, *options], lambda: accepts(self.port))
        return self

    def ask(self, path: str = "/flags?v=2", *, headers: dict[str, str] | None = None) -> httpx.Response:
        """What a new client gets."""
        transport = httpx.HTTPTransport(local_address=CLIENT)
        with httpx.Client(transport=transport, timeout=10) as client:
            return client.post(f"http://127.0.0.1:{self.port}{path}", json=BODY, headers=headers or {})


Before = Callable[[Sequence[HasPort]], Envoy]


def _replaced(text: str, old: str, new: str) -> str:
    assert len(re.findall(rf"{re.escape(old)}.*# CHANGE", text)) == 1, f"{old} must stand on one line, marked CHANGE"
    return text.replace(old, new)


@pytest.fixture
def before() -> Iterator[Before]:
    """Starts Envoy before two backends, and waits until it asks both."""
    with ExitStack() as started:

        def start(backends: Sequence[HasPort]) -> Envoy:
            envoy = Envoy(backends)
            started.enter_context(running(envoy))
            envoy.start()
            _wait_until(lambda: envoy.ask().status_code == 200)
            return envoy

        yield start


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    """Two backends that do as a test says."""
    with Backend() as one, Backend() as two:
        yield [one, two]


def _wait_until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _asked(backends: Sequence[Backend]) -> int:
    return sum(backend.requests for backend in backends)


def _asked_by_twenty(envoy: Envoy, backend: Backend) -> int:
    """How many of twenty requests, all of them answered, a backend got."""
    before = backend.requests
    assert {envoy.ask().status_code for _ in range(20)} == {200}
    return backend.requests - before


def test_envoy__before_flagstones_one_of_which_dies__is_noticed_by_no_client(
    before: Before, start_server: Callable[..., ServerProcess]
) -> None:
    """Requests go to the other flagstone from the moment that one is dead, and the client's address arrives."""
    one, two = (start_server(*DEMO, *TRUSTING).wait_until_ready() for _ in range(2))
    envoy = before([one, two])
    answers = [envoy.ask() for _ in range(10)]
    one.end()
    answers += [envoy.ask() for _ in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    envoy.ask(headers={"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9"})
    _wait_until(lambda: f'"client":"{CLIENT}"' in two.errors)
    assert "203.0.113.9" not in two.errors


def test_envoy__backend_not_ready__is_asked_no_more_until_it_is(before: Before, backends: list[Backend]) -> None:
    """A stopping flagstone is left while it still answers, and asked again once it is ready."""
    envoy = before(backends)
    leaving = backends[0]
    leaving.is_ready = False
    _wait_until(lambda: _asked_by_twenty(envoy, leaving) == 0)
    asked = leaving.requests
    leaving.is_ready = True
    _wait_until(lambda: envoy.ask().status_code == 200 and leaving.requests > asked)


def test_envoy__nobody_ready__answers_503_and_asks_none(before: Before, backends: list[Backend]) -> None:
    """A flagstone that is not ready is left alone also when all others are not ready either."""
    envoy = before(backends)
    for backend in backends:
        backend.is_ready = False
    _wait_until(lambda: envoy.ask().status_code == 503)
    asked = _asked(backends)
    assert envoy.ask().status_code == 503
    assert _asked(backends) == asked


@pytest.mark.parametrize("headers", [{}, {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "5"}])
def test_envoy__busy_backend__is_asked_once(before: Before, backends: list[Backend], headers: dict[str, str]) -> None:
    """Overload is told to the client and not doubled, whatever the client says about trying again."""
    envoy = before(backends)
    asked = _asked(backends)
    for backend in backends:
        backend.behaviour = "busy"
    for _ in range(10):
        assert envoy.ask(headers=headers).status_code == 503
    assert _asked(backends) == asked + 10


@pytest.mark.parametrize(("path", "tries"), [("/flags", 2), ("/ofrep/v1/evaluate/flags", 2), ("/api/x", 1), ("/e/", 1)])
def test_envoy__request_that_kills__is_repeated_once_where_it_changes_nothing(
    before: Before, backends: list[Backend], path: str, tries: int
) -> None:
    """A death without an answer is repaired for whoever asks for flags; changes and events are never made twice."""
    envoy = before(backends)
    asked = _asked(backends)
    for backend in backends:
        backend.behaviour = "die"
    assert envoy.ask(path).status_code == 503
    assert _asked(backends) == asked + tries


def test_envoy__backend_that_hangs__is_not_asked_twice(before: Before, backends: list[Backend]) -> None:
    """A timeout is told to the client: the first request is still being worked on."""
    envoy = before(backends)
    asked = _asked(backends)
    for backend in backends:
        backend.behaviour = "hang"
    assert envoy.ask().status_code == 504
    assert _asked(backends) == asked + 1


def test_envoy__upgrades_and_large_bodies__do_not_pass(before: Before, backends: list[Backend]) -> None:
    """No connection becomes a tunnel, and no body is larger than `requests.max_body_bytes`."""
    envoy = before(backends)
    asked = _asked(backends)
    upgrade = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    assert envoy.ask(headers=upgrade).status_code == 200, "answered, and not switched"
    body = b"x" * (Settings().requests.max_body_bytes + 1)
    with httpx.Client(base_url=f"http://127.0.0.1:{envoy.port}") as client:
        assert client.post("/flags", content=body).status_code == 413
    assert _asked(backends) == asked + 1


def test_envoy__body_of_two_lengths__is_refused(before: Before, backends: list[Backend]) -> None:
    """Nothing that hides behind a body is taken for a request."""
    envoy = before(backends)
    asked = _asked(backends)
    lengths = {"content-length": "4", "transfer-encoding": "chunked"}
    with httpx.Client(base_url=f"http://127.0.0.1:{envoy.port}") as client:
        assert (
            client.post("/flags", content=b"0\r\n\r\nGET /_readiness HTTP/1.1\r\n\r\n", headers=lengths).status_code
            == 400
        )
    assert _asked(backends) == asked


def test_envoy__event_stream__comes_at_once_and_stays(
    before: Before, start_server: Callable[..., ServerProcess]
) -> None:
    """Nothing of a stream is kept back, and it goes on for longer than any answer may take."""
    flagstones = [
        start_server(*DEMO, *TRUSTING, "--set", "streams.heartbeat_s=0.5").wait_until_ready() for _ in range(2)
    ]
    with Listener(before(flagstones).port) as listener:
        assert listener.begun().status == 200
        listener.wait_for(lambda it: it.signs_of_life >= 10)


def test_envoy__every_limit__lies_beyond_what_flagstone_does_within_it() -> None:
    """Each waits longer than what it waits for, and a flagstone that stops is left within its lame duck."""
    settings = Settings()
    manager = HTTP["typed_config"]
    cluster = FILE["static_resources"]["clusters"][0]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    timeouts = {json.dumps(route["match"]): _seconds(route["route"]["timeout"]) for route in routes}
    flags = [value for match, value in timeouts.items() if "flags" in match]
    assert [value > settings.requests.budget_ms / 1000 for value in flags] == [True]
    assert timeouts['{"prefix": "/api/"}'] > settings.api.timeout_s
    assert timeouts['{"prefix": "/ofrep/v1/stream"}'] == 0, "for as long as it lives"
    assert _seconds(manager["stream_idle_timeout"]) > 2 * settings.streams.heartbeat_s
    assert _seconds(manager["request_timeout"]) >= settings.requests.body_timeout_s
    assert manager["http_filters"][0]["typed_config"]["max_request_bytes"] == settings.requests.max_body_bytes
    options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    assert _seconds(options["common_http_protocol_options"]["idle_timeout"]) < settings.server.keep_alive_timeout_s
    check = cluster["health_checks"][0]
    out_after_s = check["unhealthy_threshold"] * (_seconds(check["interval"]) + _seconds(check["timeout"]))
    assert out_after_s < settings.server.lame_duck_s


def test_envoy__retries__have_a_budget_and_never_follow_an_answer() -> None:
    """No route repeats what was answered or took too long, and all repetitions together are few."""
    routes = HTTP["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    assert {route["route"]["retry_policy"]["retry_on"] for route in routes} == {
        "connect-failure",
        "connect-failure,reset",
    }
    assert {route["route"]["retry_policy"]["num_retries"] for route in routes} == {1}
    assert not any("per_try_timeout" in route["route"]["retry_policy"] for route in routes)
    budget = FILE["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"][0]["retry_budget"]
    assert budget["budget_percent"]["value"] <= 20

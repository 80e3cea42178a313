"""Victims: one per engine for all attacks that its short bounds suit, and others with settings of their own.

Invariant: the shared one has been through every attack before, so that what an attack leaves behind adds up.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.abuse.victim import Victim

SHORT_BOUNDS = (
    "server.header_timeout_s=1", "server.write_timeout_s=1", "server.keep_alive_timeout_s=2",
    "requests.body_timeout_s=1",
)  # fmt: skip


@pytest.fixture(scope="package", params=["uvicorn", "hypercorn"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A server that gives nobody more than a second or two, the same one for all."""
    started = Victim(tmp_path_factory.mktemp("victim"), f"server.engine={request.param}", *SHORT_BOUNDS)
    yield started
    started.server.end()


@pytest.fixture
def start_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Victim]]:
    """Starts a server with these settings, and stops whatever was started."""
    started: list[Victim] = []

    def start(*settings: str, **options: object) -> Victim:
        started.append(Victim(tmp_path_factory.mktemp("victim"), *settings, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.server.end()

"""Fixtures of the tests with server-side SDKs: a stage to connect to, and clients that end with their test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from posthog import Posthog

from tests.clients.node_client import NodeClient, node_client
from tests.clients.stage import TOKEN, Stage, Start

MakeStage = Callable[..., Stage]
Connect = Callable[..., Posthog]
ConnectNode = Callable[..., NodeClient]


@pytest.fixture
def stage(start_server: Start, tmp_path: Path) -> MakeStage:
    """Makes a project of these flags, and a server that has it."""

    def make(*flags: dict[str, Any], settings: tuple[str, ...] = (), **fields: Any) -> Stage:
        return Stage(tmp_path, start_server, *flags, settings=settings, **fields)

    return make


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes Python clients; they send no events unless told so."""
    clients: list[Posthog] = []

    def make(server: Any, token: str = TOKEN, **options: Any) -> Posthog:
        client = Posthog(token, host=server.url, **{"send": False, **options})
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.shutdown()


@pytest.fixture
def connect_node() -> Iterator[ConnectNode]:
    """Makes posthog-node clients, each in a process of its own; they report no flags unless told so."""
    with ExitStack() as clients:

        def make(server: Any, token: str = TOKEN, **options: Any) -> NodeClient:
            wanted = {"host": server.url, "sendFeatureFlagEvent": False, **options}
            return clients.enter_context(node_client("posthog", token, wanted))

        yield make

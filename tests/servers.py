"""Servers that tests share, and what becomes of a test whose server this machine does not have.

Starting them is drills/servers.py's. Invariant: what is missing is skipped with its reason, and fails in CI.
"""

import os
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from drills.servers import PATIENCE_S, PgBouncer, Postgres, Redis, Server, accepts_redis, found, redis_folder, running


def unavailable(reason: str) -> NoReturn:
    """Skip the test - but not in CI, where nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must not go without: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests; each makes a database of its own in it."""
    server = Postgres()
    with running(server):
        yield server


@pytest.fixture(scope="session")
def one_redis() -> Iterator[Redis]:
    """One Redis for all tests."""
    server = Redis()
    with running(server):
        yield server


@pytest.fixture
def redis_server(one_redis: Redis) -> Redis:
    """The Redis of all tests, with nothing in it."""
    with one_redis.client() as client:
        client.flushall()
    return one_redis


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    server = PgBouncer("127.0.0.1", postgres.port, "default_pool_size = 2", "max_client_conn = 500")
    with running(server):
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The name of a new, empty database, dropped afterwards."""
    name = f"test_{os.urandom(6).hex()}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield name
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def one_sentinel(one_redis: Redis) -> Iterator[str]:
    """The address of a Sentinel that watches the Redis of all tests."""
    server = Server("sentinel")
    configuration = server.write("sentinel.conf", f"port {server.port}\nbind 127.0.0.1\n"
                                 f"sentinel monitor main 127.0.0.1 {one_redis.port} 1\n")  # fmt: skip
    with running(server):
        program = found("redis-server", *redis_folder())
        server.launch([program, configuration, "--sentinel"], lambda: accepts_redis(server.port))
        yield f"redis+sentinel://127.0.0.1:{server.port}/main/0"


@pytest.fixture
def sentinel_url(one_sentinel: str, redis_server: Redis) -> str:
    """The address of a Sentinel that watches the Redis of all tests, which has nothing in it."""
    assert redis_server
    return one_sentinel


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Redis]:
    """The address of a cluster of one node, which has all the slots."""
    server = Redis("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    with running(server):
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTS", *range(16384))
            ends_at = time.monotonic() + PATIENCE_S
            while client.cluster("INFO")["cluster_state"] != "ok":
                assert time.monotonic() < ends_at
                time.sleep(0.05)
        yield server


@pytest.fixture
def cluster_url(one_cluster: Redis) -> str:
    """The address of the cluster of all tests, with nothing in it."""
    with one_cluster.client() as client:
        client.flushall()
    return f"redis+cluster://127.0.0.1:{one_cluster.port}"

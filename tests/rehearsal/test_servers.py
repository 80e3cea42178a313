"""The real servers of the tests: each answers, and nothing of it is left, also when it never came up."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import trustme

from drills.servers import CannotStart, NotInstalled, PgBouncer, Postgres, Redis, Server, found, running
from tests.servers import unavailable

NEVER_UP = """
from drills.servers import Server

server = Server("stuck")
print(server.folder, flush=True)
server.launch(["sleep", "60"], lambda: print(server._process.pid, flush=True) or bool(1 / 0))
"""


async def _postgres_answers(server: Server) -> bool:
    assert isinstance(server, Postgres | PgBouncer)
    connection = await asyncpg.connect(server.url(), statement_cache_size=0, timeout=5)
    try:
        return bool(await connection.fetchval("SELECT 1") == 1)
    finally:
        await connection.close()


async def _redis_answers(server: Server) -> bool:
    assert isinstance(server, Redis)
    with server.client() as client:
        return bool(client.ping())


@pytest.mark.parametrize("kind", ["postgres", "redis", "pgbouncer"])
async def test_server__stopped__leaves_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """It answers while it runs; then its port is closed and its folder gone."""
    start: dict[str, Callable[[], Server]] = {
        "postgres": Postgres,
        "redis": Redis,
        "pgbouncer": lambda: PgBouncer("127.0.0.1", request.getfixturevalue("postgres").port),
    }
    with running(start[kind]()) as server:
        assert await (_redis_answers if kind == "redis" else _postgres_answers)(server)
    assert not server.folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


async def test_postgres__with_a_certificate__speaks_tls_and_keeps_its_data_over_a_restart() -> None:
    """A client that checks certificates is served, and finds after a restart what it had left."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    with (
        running(Postgres(certificate=chain, key=issued.private_key_pem.bytes())) as server,
        authority.cert_pem.tempfile() as pem,
    ):
        assert isinstance(server, Postgres)
        url = f"{server.url()}?sslmode=verify-full&sslrootcert={pem}"
        server.execute("CREATE TABLE kept (it int)", "INSERT INTO kept VALUES (1)")
        server.stop()
        server.start()
        connection = await asyncpg.connect(url, timeout=5)
        assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert await connection.fetchval("SELECT it FROM kept") == 1
        await connection.close()


def test_server__never_comes_up__is_gone_with_the_interpreter() -> None:
    """A start that fails leaves no process and no folder behind."""
    done = subprocess.run(
        [sys.executable, "-c", NEVER_UP], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert "ZeroDivisionError" in done.stderr
    folder, pid = done.stdout.split()
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_server__dies_at_once__shows_its_log() -> None:
    """What it wrote is what the failure says."""
    with pytest.raises(CannotStart, match="no-such-option"):
        Redis("--no-such-option", "1")


def test_found__nowhere__says_where_it_looked() -> None:
    """What a machine does not have is named, with the folder that it may be put into."""
    with pytest.raises(NotInstalled, match=r"no-such-server is neither installed nor in .*servers"):
        found("no-such-server")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_unavailable__in_ci__fails_instead_of_skipping(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Elsewhere a missing server costs its tests, with the reason."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no such server"):
        unavailable("no such server")

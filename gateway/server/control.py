"""The socket through which an operator's commands reach the supervisor: one JSON line each way.

Invariant: only the service's own user can open it, and what is said there takes bounded time and memory.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.server.reloading import Outcome
from gateway.server.supervisor import Supervisor
from gateway.standing import WorkerState
from gateway.telemetry import log_event

MAX_LINE_BYTES: Final = 4096
ASK_TIMEOUT_S: Final = 5.0


class Status(msgspec.Struct, frozen=True):
    """What the service is doing."""

    generation: int
    workers: list[WorkerState]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command."""

    error: str = ""
    reload: Outcome | None = None
    is_rolled: bool | None = None
    status: Status | None = None


@asynccontextmanager
async def controlled(supervisor: Supervisor, path: str) -> AsyncIterator[None]:
    """Listens for commands meanwhile. Another service's socket is left alone, and told of."""
    if not path:
        yield
        return
    try:
        listener = _listen(path)
    except OSError as error:
        log_event("control_socket_unavailable", logging.WARNING, path=path, reason=error.strerror or str(error))
        yield
        return
    identity = os.stat(path).st_ino
    server = await asyncio.start_unix_server(_Session(supervisor).answer, sock=listener, limit=MAX_LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        with suppress(OSError):
            if os.stat(path).st_ino == identity:
                os.unlink(path)


def _listen(path: str) -> socket.socket:
    """A socket there; one that nobody listens on any more is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX) as other:
                other.settimeout(ASK_TIMEOUT_S)
                try:
                    other.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                else:
                    raise OSError(0, "another flagstone listens there")
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener


class _Session:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                line = await reader.readline()
            writer.write(msgspec.json.encode(await self._do(line.decode("ascii", "replace").strip())) + b"\n")
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await writer.drain()
        except (TimeoutError, ValueError, OSError):
            pass  # Whoever asked has gone, or asked nothing that could be understood.
        finally:
            writer.close()

    async def _do(self, command: str) -> Answer:
        supervisor = self._supervisor
        match command:
            case "reload":
                return Answer(reload=await supervisor.reload())
            case "restart":
                return Answer(is_rolled=await supervisor.roll())
            case "status":
                report = supervisor.report()
                return Answer(status=Status(report.generation, list(report.workers)))
        return Answer(error=f"no such command: {command[:40]!r}")


def tell(path: str, command: str) -> None:
    """Have the service listening there do something. Raises OSError when there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ASK_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")


def ask(path: str, command: str, timeout_s: float) -> Answer:
    """What the service listening there answers. Raises OSError when there is none, or none in time."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ASK_TIMEOUT_S)
        connection.connect(path)
        connection.settimeout(timeout_s)
        connection.sendall(command.encode() + b"\n")
        with connection.makefile("rb") as answer:
            line = answer.readline()
    try:
        return msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError:
        raise OSError(0, "the service stopped before it answered") from None

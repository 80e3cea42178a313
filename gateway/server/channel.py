"""What supervisor and workers tell each other, and the socket pair they do it through.

Invariant: messages arrive whole and in order; the end of the channel means that the other process is gone.
"""

import asyncio
import socket
from typing import Final

import msgspec

MAX_MESSAGE_BYTES: Final = 64 << 20
_LENGTH_BYTES: Final = 4


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One of those below."""


class Begin(Message, frozen=True):
    """To a worker: who it is, and the settings to open everything with."""

    index: int
    settings: bytes


class Opened(Message, frozen=True):
    """From a worker: everything is open, and it could accept connections."""


class Go(Message, frozen=True):
    """To a worker: accept connections, under these settings, which may be newer than those at its beginning."""

    generation: int
    settings: bytes


class Accepting(Message, frozen=True):
    """From a worker: connections are accepted."""


class Ready(Message, frozen=True):
    """From a worker: a snapshot can be evaluated."""


class Prepare(Message, frozen=True):
    """To a worker: make these settings ready to be put in force."""

    generation: int
    settings: bytes


class Prepared(Message, frozen=True):
    """From a worker: they can be put in force, or why not."""

    generation: int
    problem: str = ""


class Commit(Message, frozen=True):
    """To a worker: put what was prepared in force."""

    generation: int


class Committed(Message, frozen=True):
    """From a worker: it is in force."""

    generation: int


class LameDuck(Message, frozen=True):
    """To a worker: say that you are not ready, and go on answering."""


class Drain(Message, frozen=True):
    """To a worker: accept no more, finish what is in flight, and exit."""


class CutOff(Message, frozen=True):
    """To a worker: end what is in flight now."""


class ReplaceMe(Message, frozen=True):
    """From a worker: it has had its time."""

    reason: str


class Render(Message, frozen=True):
    """To a worker: send your metrics, or your status."""

    query: int
    is_status: bool = False


class Rendered(Message, frozen=True):
    """From a worker: its metrics, or its status."""

    query: int
    text: bytes


class Gather(Message, frozen=True):
    """From a worker: send it the metrics of all processes but itself, or their status."""

    query: int
    is_status: bool = False


class Gathered(Message, frozen=True):
    """To a worker: metrics, or statuses, by the index of the worker, and the supervisor's under an empty one."""

    query: int
    texts: dict[str, bytes]


ToWorker = Begin | Go | Prepare | Commit | LameDuck | Drain | CutOff | Render | Gathered
FromWorker = Opened | Accepting | Ready | Prepared | Committed | ReplaceMe | Rendered | Gather

_decode_to_worker: Final = msgspec.msgpack.Decoder(ToWorker)
_decode_from_worker: Final = msgspec.msgpack.Decoder(FromWorker)


class _Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Hand it to the other process, if it still lives."""
        raw = msgspec.msgpack.encode(message)
        self._writer.write(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw)

    async def _receive(self) -> bytes | None:
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            return await self._reader.readexactly(length) if length <= MAX_MESSAGE_BYTES else None
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        self._writer.close()


class WorkerEnd(_Channel):
    async def receive(self) -> ToWorker | None:
        """The next message; None once the supervisor is gone."""
        raw = await self._receive()
        return None if raw is None else _decode_to_worker.decode(raw)


class SupervisorEnd(_Channel):
    async def receive(self) -> FromWorker | None:
        """The next message; None once the worker is gone, or says what cannot be understood."""
        raw = await self._receive()
        try:
            return None if raw is None else _decode_from_worker.decode(raw)
        except msgspec.DecodeError:
            return None


async def worker_end(end: socket.socket) -> WorkerEnd:
    return WorkerEnd(*await asyncio.open_connection(sock=end))


async def supervisor_end(end: socket.socket) -> SupervisorEnd:
    return SupervisorEnd(*await asyncio.open_connection(sock=end))

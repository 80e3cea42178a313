"""A worker's questions to the other processes: their metrics, and how they stand. The supervisor passes them on.

The other side is in gathering.py. Invariant: whoever does not answer in time is left out; what is told is true of the
rest.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from itertools import count
from typing import Final

import msgspec

from gateway.errors import Unavailable
from gateway.server.channel import Gather, Gathered, Message
from gateway.server.exposition import merged
from gateway.standing import SupervisorReport, WorkerReport
from gateway.wire.status import Status, full_status

GATHER_TIMEOUT_S: Final = 2.0
SUPERVISOR: Final = ""


class Colleagues:
    """Those of the worker `index`, whose own part `render` and `report` give."""

    def __init__(
        self,
        index: int,
        send: Callable[[Message], None],
        render: Callable[[], bytes],
        report: Callable[[], WorkerReport],
    ) -> None:
        self._index = index
        self._send = send
        self._render = render
        self._report = report
        self._queries = count()
        self._waiting: dict[int, asyncio.Future[dict[str, bytes]]] = {}

    def __repr__(self) -> str:
        return f"<Colleagues of {self._index}, {len(self._waiting)} questions>"

    def own(self, *, is_status: bool) -> bytes:
        """What this worker has to say when another one asks."""
        return msgspec.json.encode(self._report()) if is_status else self._render()

    async def metrics(self) -> bytes:
        """The metrics of every process."""
        return merged({**await self._gather(is_status=False), str(self._index): self._render()})

    async def status(self) -> Status:
        """How the service stands. Raises Unavailable without a supervisor, as nobody knows of the workers then."""
        texts = await self._gather(is_status=True)
        if SUPERVISOR not in texts:
            raise Unavailable
        supervisor = msgspec.json.decode(texts.pop(SUPERVISOR), type=SupervisorReport)
        others = {int(index): msgspec.json.decode(text, type=WorkerReport) for index, text in texts.items()}
        return full_status({**others, self._index: self._report()}, supervisor, version("flagstone"))

    async def _gather(self, *, is_status: bool) -> dict[str, bytes]:
        query = next(self._queries)
        waiting = self._waiting[query] = asyncio.get_running_loop().create_future()
        self._send(Gather(query, is_status))
        texts: dict[str, bytes] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_TIMEOUT_S):
                texts = await waiting
        self._waiting.pop(query, None)
        return texts

    def gathered(self, message: Gathered) -> None:
        """The others have answered."""
        waiting = self._waiting.pop(message.query, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message.texts)

"""Has every worker send its metrics, or its status, to the one that was asked for them.

Invariant: a worker that does not answer in time is left out, and delays nobody longer.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final

from gateway.server.channel import Gathered, Render, Rendered
from gateway.server.child import Child, State
from gateway.server.tally import Tally

TIMEOUT_S: Final = 1.5


class Gathering:
    def __init__(self, tally: Tally, children: Mapping[int, Child], status: Callable[[], bytes]) -> None:
        self._tally = tally
        self._children = children
        self._status = status
        self._queries = count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def gather(self, asking: Child, query: int, *, is_status: bool = False) -> None:
        """Send `asking` the metrics of all others, and of the supervisor; or their statuses."""
        answers: dict[asyncio.Future[bytes], Child] = {}
        numbers = []
        for child in self._children.values():
            if child is not asking and child.state is not State.STARTING:
                numbers.append(next(self._queries))
                answer = self._waiting[numbers[-1]] = asyncio.get_running_loop().create_future()
                answers[answer] = child
                child.send(Render(numbers[-1], is_status))
        if answers:
            await asyncio.wait(answers, timeout=TIMEOUT_S)
        for number in numbers:
            self._waiting.pop(number, None)
        texts = {str(child.index): answer.result() for answer, child in answers.items() if answer.done()}
        if is_status:
            texts[""] = self._status()
        else:
            texts[""] = self._tally.render_with([child.state.value for child in self._children.values()])
        asking.send(Gathered(query, texts))

    def rendered(self, message: Rendered) -> None:
        """A worker has answered."""
        answer = self._waiting.pop(message.query, None)
        if answer is not None and not answer.done():
            answer.set_result(message.text)

"""Tasks that run beside everything else: kept from being collected, and told of when they crash.

Invariant: no task disappears without a word.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from gateway.telemetry import log_event


class Background:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Background {len(self._tasks)} tasks>"

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this meanwhile; nobody waits for what comes of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_event("task_crashed", logging.ERROR, exception=error)

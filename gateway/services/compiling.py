"""Definitions -> Snapshot, beside the event loop where it takes long, and told in the log.

Invariant: no document, however large or broken, holds up the requests of other projects.
"""

import asyncio
import logging
from typing import Final

from evaluator.definitions import InvalidDefinitions
from evaluator.snapshot import Snapshot, build_snapshot
from evaluator.types import Encode
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.ports import Definitions
from gateway.telemetry import log_event, masked

MAX_INLINE_BYTES: Final = 32 * 1024
"""Larger documents take milliseconds to compile."""
MAX_LOGGED_PROBLEMS: Final = 3


class Compiler:
    def __init__(self, encode: Encode, metrics: Metrics) -> None:
        self._encode = encode
        self._metrics = metrics

    async def compile(self, token: str, definitions: Definitions, source: str) -> Snapshot:
        """The snapshot of a document that came from `source`. Raises InvalidDefinitions."""
        document, version = definitions.document, definitions.version
        if len(document) > MAX_INLINE_BYTES:
            snapshot = await asyncio.to_thread(build_snapshot, document, version, self._encode)
        else:
            snapshot = build_snapshot(document, version, self._encode)
        self._metrics.snapshot_builds.inc()
        log_event(
            "snapshot_built",
            token=masked(token),
            project_id=snapshot.project_id,
            version=version,
            source=source,
            flags=len(snapshot.flags),
            problems=len(snapshot.problems),
            first_problems="; ".join(map(str, snapshot.problems[:MAX_LOGGED_PROBLEMS])),
        )
        return snapshot


def tell(token: str, error: Exception) -> None:
    """Log why there is no new snapshot of a project."""
    match error:
        case StoreError():
            pass  # Told of where it happened.
        case InvalidDefinitions():
            log_event("definitions_rejected", logging.ERROR, token=masked(token), problems=str(error))
        case _:
            log_event("snapshot_crashed", logging.ERROR, token=masked(token), exception=error)

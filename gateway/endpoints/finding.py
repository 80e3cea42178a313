"""The project that a request is about: its token held to its rates, and its snapshot waited for.

For protocols that look at the snapshot before they evaluate. Invariant: what was waited is on the record, which knows
the token whatever becomes of the request.
"""

from collections.abc import Mapping
from typing import Any

from gateway.metrics import Metrics, Phase
from gateway.ports import Deadline
from gateway.services.flags import FlagService
from gateway.services.held import Held
from gateway.services.limits import LimitService
from gateway.telemetry import RequestRecord


async def find_project(state: Mapping[str, Any], token: str | None, deadline: Deadline) -> Held:
    """The snapshot of the project with this token. Raises RateLimited, and whatever FlagService.find does."""
    record: RequestRecord = state["record"]
    limits: LimitService = state["limits"]
    service: FlagService = state["flags"]
    metrics: Metrics = state["metrics"]
    record.token = token
    if token:
        await limits.check_token(token, record)
    began_s = record.duration_s()
    held = await service.find(token, deadline)
    waited_s = record.duration_s() - began_s
    record.waited_s += waited_s
    metrics.phase(Phase.SNAPSHOT, waited_s)
    return held

"""Takes in as many requests at once as can be answered in time, has a few wait, and refuses the rest at once.

An engine may ask `refuse` about a request that is there as a whole, before a task is made for it. Any other is asked
about once its body is there: a client that sends slowly takes no place from anybody. Invariant: a refusal costs next to
nothing, and whoever was let in has left in the end, whatever happened.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from config.edge import Concurrency
from config.reload import Live
from gateway.errors import Overloaded
from gateway.metrics import Metrics
from gateway.middleware.paths import kind_of, partition_of
from gateway.middleware.rate_limit import ALWAYS_ADMITTED
from gateway.ports import Clock
from gateway.refusing import cors_headers, reject, with_cors
from gateway.resilience.adaptive import AdaptiveLimit, FixedLimit, Limit
from gateway.resilience.gate import Gate, Shed, Ticket
from gateway.telemetry import RequestRecord

_FIXED: Final = ("definitions", "bootstrap", "streams", "capture", "management")
"""Partitions beside that of flags, each with a setting of its own."""
_TURNED_AWAY: Final = 100
"""Streams at once beyond those for which there is room: each is told when to come back, and ends at once."""
_UNLIMITED: Final = 1 << 30
_BUSY_RATIO: Final = 0.5
"""Of a core: below it, the loop is late because of something else than work, and once says nothing."""

_REFUSAL: Final = Overloaded()
_HEAD: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nvary: Origin\r\n"
    b"retry-after: %d\r\ncontent-length: %d\r\n" % (_REFUSAL.retry_after_s or 0, len(_REFUSAL.detail))
)
_BODY: Final = b"\r\n" + _REFUSAL.detail.encode()


class Admission:
    def __init__(self, app: ASGIApp, live: Live, clock: Clock, metrics: Metrics) -> None:
        self._app = app
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self._settings = live.settings.concurrency
        self._was_late = False
        self.arriving = 0
        wait_s = self._settings.max_wait_ms / 1000
        self.gates = {
            name: Gate(limit, self._settings.max_queued, wait_s, clock)
            for name, limit in self._limits(self._settings).items()
        }
        self._flags = self.gates["flags"]
        metrics.at_scrape(self._measure)

    def __repr__(self) -> str:
        return f"<Admission {self.gates!r}, {self.arriving} arriving>"

    def refuse(self, scope: Scope) -> bytes | None:
        """A whole answer for a request that cannot be taken in; None for one that has been, and may go to the app."""
        if self._place(scope):
            return None
        self._metrics.turned_away(kind_of(scope["path"]))
        return self._refusal(scope)

    def release(self, scope: Scope) -> None:
        """Take back the place of a request of which nothing came after all."""
        ticket: Ticket | None = scope["state"].get("ticket")
        if ticket is not None and not ticket.is_taken:
            scope["state"]["gate"].abandon(ticket)

    def _refusal(self, scope: Scope) -> bytes:
        allowed = b"".join(b"%s: %s\r\n" % header for header in cors_headers(scope["headers"]))
        is_last = self._live.is_leaving or scope["http_version"] == "1.0" or scope["state"].get("is_last")
        closing = b"connection: close\r\n" if is_last else b""
        return _HEAD + allowed + closing + (_BODY if scope["method"] != "HEAD" else b"\r\n")

    def sample_lag(self, lag_s: float, busy_ratio: float) -> None:
        """Take in how late the event loop was, and how much of a core this process used meanwhile."""
        is_late = lag_s > self._settings.max_lag_ms / 1000
        if is_late and (busy_ratio > _BUSY_RATIO or self._was_late):
            self._flags.limit.sample_lag(lag_s)
        self._was_late = is_late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ADMITTED:
            await self._app(scope, receive, send)
            return
        ticket: Ticket | None = scope["state"].get("ticket")
        if ticket is not None:
            ticket.is_taken = True
        if ticket is None or ticket.turn is not None:
            try:
                await (self._arrive(scope) if ticket is None else self._take_turn(scope, ticket))
            except Overloaded:
                self._metrics.turned_away(kind_of(scope["path"]))
                await reject(with_cors(scope, send), _REFUSAL)
                return
        try:
            await self._app(scope, receive, send)
        finally:
            self._leave(scope["state"])

    async def enter(self, scope: Scope) -> None:
        """Take a place for a request whose body has arrived by now. Raises Overloaded when there is none in time."""
        if self._give_back(scope["state"]):
            if not self._place(scope):
                raise Overloaded
            await self._take_turn(scope, scope["state"]["ticket"])

    def step_back(self, scope: Scope) -> None:
        """Take the place back from a request that is as good as answered, and of whose body the rest still comes."""
        if "ticket" in scope["state"]:
            self._leave(scope["state"])
            self.arriving += 1
            scope["state"]["admission"] = self

    async def _arrive(self, scope: Scope) -> None:
        """Let the body arrive first, for which there is room for many, but not for any number."""
        settings = self._live.settings.concurrency
        if self.arriving >= settings.ceiling and settings.mode != "off":
            self._metrics.shed(partition_of(scope["path"]), "full")
            raise Overloaded
        self.arriving += 1
        scope["state"]["admission"] = self

    def _give_back(self, state: dict[str, Any]) -> bool:
        """Whether this request was arriving until now."""
        is_arriving = state.pop("admission", None) is not None
        self.arriving -= is_arriving
        return is_arriving

    async def _take_turn(self, scope: Scope, ticket: Ticket) -> None:
        state = scope["state"]
        gate: Gate = state["gate"]
        try:
            await gate.wait(ticket)
        except BaseException as error:
            del state["ticket"]
            if not isinstance(error, Shed):
                raise
            self._metrics.shed(partition_of(scope["path"]), error.reason)
            raise Overloaded from None
        if (record := state.get("record")) is not None:
            ticket.waited_s = record.waited_s

    def _leave(self, state: dict[str, Any]) -> None:
        self._give_back(state)
        ticket: Ticket | None = state.get("ticket")
        if ticket is not None and ticket.since is not None:
            record: RequestRecord = state["record"]
            own_s = None
            # Refusals say nothing about what requests usually take.
            if record.error is None and record.status is not None:
                own_s = max(0.0, self._clock.monotonic() - ticket.since - (record.waited_s - ticket.waited_s))
            gate: Gate = state["gate"]
            gate.leave(ticket, own_s)

    def _place(self, scope: Scope) -> bool:
        """Whether the request has a place inside or in line."""
        path = scope["path"]
        if path in ALWAYS_ADMITTED:
            return True
        settings = self._live.settings
        if settings.concurrency is not self._settings:
            self._follow(settings.concurrency)
        gate = self.gates[partition_of(path)]
        ticket = gate.place(settings.requests.budget_ms / 1000)
        if ticket is None:
            self._metrics.shed(partition_of(path), gate.last_shed)
            return False
        state = scope["state"]
        state["gate"], state["ticket"] = gate, ticket
        return True

    def _limits(self, settings: Concurrency) -> dict[str, Limit]:
        if settings.mode == "off":
            return {name: FixedLimit(_UNLIMITED) for name in ("flags", *_FIXED)}
        flags: Limit = FixedLimit(settings.limit)
        if settings.mode == "adaptive":
            begin = min(max(settings.limit, settings.floor), settings.ceiling)
            lag_s = settings.max_lag_ms / 1000
            flags = AdaptiveLimit(settings.floor, settings.ceiling, begin, self._clock, max_lag_s=lag_s)
        limits: dict[str, Limit] = {name: FixedLimit(getattr(settings, name)) for name in _FIXED}
        return {**limits, "flags": flags, "streams": FixedLimit(settings.streams + _TURNED_AWAY)}

    def _follow(self, settings: Concurrency) -> None:
        """Put a reload in force; what is under way stays, and so does what was learned unless it was about this."""
        is_same, self._settings = settings == self._settings, settings
        if is_same:
            return
        for name, limit in self._limits(settings).items():
            gate = self.gates[name]
            gate.limit, gate.max_queued, gate.max_wait_s = limit, settings.max_queued, settings.max_wait_ms / 1000

    def _measure(self) -> None:
        for name, gate in self.gates.items():
            self._metrics.gate(name, limit=gate.limit.limit, in_flight=gate.in_flight, queued=gate.queued)

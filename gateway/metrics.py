"""The metric families of a worker, and one small method per event that hides their labels.

What families have in common is in families.py. Invariant: the values of labels come from closed sets, so that no
client can make a new time series; children are bound once, so that counting costs no look-up of labels.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from importlib.metadata import version
from typing import Final, Literal, get_args

from prometheus_client import Histogram

from gateway.families import PREFIX, Families, bound
from gateway.hot_metrics import HotCounter, HotHistogram

ENDPOINTS: Final = (
    "flags", "decide", "definitions", "remote_config", "bootstrap", "ofrep", "streams", "config", "capture",
    "management", "readiness", "liveness", "status", "root", "other",
)  # fmt: skip
STATUS_CLASSES: Final = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
OUTCOMES: Final = ("whole", "partial", "stale", "limited", "shed", "refused", "failed", "gone")
PARTS: Final = ("person", "group", "override")
CAUSES: Final = ("timeout", "database_unavailable", "database_error", "hash_key_override_error", "other")
SOURCES: Final = ("redis", "store", "disk")
DEPENDENCIES: Final = ("definitions", "persons", "writer", "keys", "redis", "limits", "quota", "capture")
LOAD_OUTCOMES: Final = ("hit", "miss", "error")
FILL_OUTCOMES: Final = ("written", "unneeded", "limited", "failed")
WRITE_OUTCOMES: Final = ("written", "retried", "failed", "dropped")
EVENT_OUTCOMES: Final = ("forwarded", "refused", "failed", "full", "open", "stopped", "looped", "discarded")
SPAN_OUTCOMES: Final = ("exported", "refused", "failed", "full", "stopped")
LEARNED: Final = ("stored", "refused", "unknown", "full", "oversized", "undecodable", "failed", "stopped")
CALL_OUTCOMES: Final = ("ok", "timeout", "error", "gone", "open", "busy", "skipped")
BREAKER_STATES: Final = ("closed", "open", "half_open")
LIMITS: Final = ("address", "token", "definitions", "remote_config")
LIMITED: Final = ("warned", "denied", "would_deny", "suspended")
SYNC_OUTCOMES: Final = ("ok", "refused", "failed")
PARTITIONS: Final = ("flags", "definitions", "bootstrap", "streams", "capture", "management")
SHED_REASONS: Final = ("full", "late", "dropped")
CONNECTION_ENDS: Final = ("evicted", "overdue")
StreamEnd = Literal["gone", "age", "leaving", "disabled", "unknown", "slow", "cut_off"]
FEEDS: Final = ("postgres", "redis", "sqlite")
MAX_EDIT_AGE_S: Final = 86_400.0

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_REQUEST_SECONDS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 5.0,
)  # fmt: skip


class Phase(StrEnum):
    """Where the time of a request goes."""

    BODY = "body"
    SNAPSHOT = "snapshot"
    EVALUATE = "evaluate"
    FACTS = "facts"
    ENCODE = "encode"


class _Route:
    """What is counted of every request of one endpoint, found with one look-up."""

    __slots__ = ("durations", "outcomes", "statuses")

    def __init__(self, name: str, requests: HotCounter, outcomes: HotCounter, durations: HotHistogram) -> None:
        self.statuses = tuple(requests.labels(name, status) for status in STATUS_CLASSES)
        self.outcomes = {outcome: outcomes.labels(name, outcome) for outcome in OUTCOMES}
        self.durations = durations.labels(name)


class Metrics(Families):
    """Those of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self._hot_counter("requests_total", "Requests answered.", ("endpoint", "status_class"))
        self._outcomes = self._hot_counter("outcomes_total", "What requests got.", ("endpoint", "outcome"))
        self._request_s = self._hot_histogram(
            "request_duration_seconds", "From arrival to the answer.", ("endpoint",), _REQUEST_SECONDS
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests being answered now.")
        self.requests_in_flight = 0
        self.at_scrape(lambda: self._in_flight.set(self.requests_in_flight))
        self._phase_s = self._hot_histogram("phase_duration_seconds", "Parts of answering a flag request.", ("phase",))
        self._answers = self._hot_counter("answers_total", "Answers with flags.", ("kind",))
        self._missing = self._counter("facts_missing_total", "Parts of facts that could not be had.", ("part", "cause"))
        self.snapshots_held = self._gauge("snapshots_held", "Projects in memory.")
        self.snapshot_bytes = self._gauge("snapshot_bytes", "What they occupy, as estimated.")
        self.snapshot_age_s = self._gauge(
            "snapshot_age_seconds", "Time since the snapshot that was compared with a store longest ago was compared."
        )
        self.compile_problems = self._gauge("compile_problems", "Problems in the definitions of the projects held.")
        self.snapshot_builds = self._counter("snapshot_builds_total", "Snapshots compiled.")
        self.snapshot_evictions = self._counter("snapshot_evictions_total", "Snapshots pushed out by others.")
        self.local_definitions_bytes = self._gauge("local_definitions_bytes", "What is prepared for SDKs occupies.")
        self._local_builds = self._counter(
            "local_definitions_built_total", "Definitions prepared for SDKs that evaluate by themselves.", ("outcome",)
        )
        self.unknown_tokens = self._counter("unknown_tokens_total", "Requests with a token of no project.")
        self._reads = self._hot_counter(
            "snapshot_reads_total", "Answers by where their snapshot came from.", ("source",)
        )
        self._loads = self._counter("snapshot_loads_total", "Look-ups of a document.", ("tier", "outcome"))
        self._fills = self._counter("cache_fills_total", "Documents offered to the shared cache.", ("outcome",))
        self.fill_bytes = self._counter("cache_fill_bytes_total", "Bytes written to the shared cache.")
        self._changes = self._counter("changes_told_total", "Changes announced to this process.", ("source",))
        self._served_s = self._histogram("edit_to_served_seconds", "From an edit until this process answers with it.")
        self._feed = self._gauge("feed_connected", "Whether announcements are listened for.", ("source",))
        self._pool = self._gauge("pool_connections", "Connections to a database.", ("pool", "state"))
        self._calls = self._counter(
            "calls_total", "Calls of a dependency by how they ended.", ("dependency", "outcome")
        )
        self._call_s = self._histogram("call_duration_seconds", "Calls that were made.", ("dependency",))
        self._wait_s = self._histogram("call_queue_wait_seconds", "Waiting for a connection.", ("dependency",))
        self._queued = self._gauge("calls_queued", "Calls waiting for a connection now.", ("dependency",))
        self._breaker = self._gauge("breaker_state", "1 for the state a breaker is in.", ("dependency", "state"))
        self._turns = self._counter("breaker_transitions_total", "Changes of a breaker's state.", ("dependency", "to"))
        self._writes = self._counter(
            "override_writes_total", "Writes of overrides by what became of them.", ("outcome",)
        )
        self.override_writes_queued = self._gauge("override_writes_queued", "Writes of overrides that wait.")
        self._heartbeat = self._gauge(
            "heartbeat_age_seconds", "Time since a background task last went round.", ("task",)
        )
        self.tasks = self._gauge("tasks", "Tasks in the event loop: what is under way, of all kinds.")
        self.disk_writable = self._reading("disk_writable", "Whether last known good definitions are being kept.")
        self._events = self._counter("event_requests_total", "Requests with events by their fate.", ("outcome",))
        self.event_bytes = self._counter("event_bytes_total", "What requests with events brought, as received.")
        self.event_bytes_buffered = self._gauge("event_bytes_buffered", "What waits to go upstream, or is on its way.")
        self._learned = self._counter("learned_total", "Updates of persons and groups from events.", ("outcome",))
        self.learning_waiting = self._gauge("learning_waiting", "Persons and groups that wait to be stored.")
        self._spans = self._counter("trace_spans_total", "Spans of traces by what became of them.", ("outcome",))
        self.spans_queued = self._gauge("trace_spans_queued", "Spans that wait to be sent, or are on their way.")
        self._limited = self._counter(
            "rate_limited_total", "Requests near a rate or beyond it, by what was done.", ("limit", "outcome")
        )
        self.limit_top_key_share = self._reading(
            "limit_top_key_share", "Of recent checks, the part of the key checked most.", ("limit",)
        )
        self.limiter_keys = self._gauge("limiter_keys", "Addresses and tokens that the limiter remembers.")
        self._suspended = self._gauge(
            "address_limit_suspended", "Whether addresses are not held to their rates, and why.", ("reason",)
        )
        self.unproven_requests = self._gauge(
            "unproven_requests", "Recent requests of public addresses with forwarding headers that were not believed."
        )
        self.fleet_limit_fallbacks = self._counter(
            "fleet_limit_fallbacks_total", "Decisions on a rate that Redis was to make and did not."
        )
        self.over_quota = self._counter("over_quota_total", "Requests of projects that had no quota left.")
        self.quota_projects = self._gauge("quota_projects", "Projects whose use is counted here.")
        self._quota_syncs = self._counter("quota_syncs_total", "Rounds of sharing what was used.", ("outcome",))
        self.quota_lost = self._counter("quota_lost_total", "What was used and may be missing in the shared count.")
        self.sheds = 0
        self._shed = self._counter("shed_total", "Requests refused because of too many.", ("partition", "reason"))
        self._concurrency = self._gauge(
            "concurrency", "Requests in hand, in line, and how many may be in hand.", ("partition", "what")
        )
        self.busy_ratio = self._gauge("busy_ratio", "Part of a core that the worker used lately.")
        self._connections = self._gauge("connections", "Connections of clients by what they are doing.", ("state",))
        self._connections_ended = self._counter(
            "connections_ended_total", "Connections that the service ended for a reason.", ("reason",)
        )
        self.streams = self._gauge("streams", "Streams of events that are open.")
        self._streams_ended = self._counter("streams_ended_total", "Streams of events by why they ended.", ("reason",))
        self.loop_lag_s = self._gauge("loop_lag_seconds", "How late the event loop came to its last sweep.")
        self.cpu_s = self._reading("cpu_seconds_total", "Processor time that the worker used.")
        self.cpu_s.set(0.0)
        self.open_descriptors = self._reading("open_descriptors", "What is open in the worker.")
        self.max_descriptors = self._reading("max_descriptors", "How many may be open.")
        self.certificate_expires_at = self._reading(
            "certificate_expires_timestamp_seconds", "When the certificate that is served expires."
        )
        self.resident_bytes = self._gauge("resident_bytes", "Memory that the worker occupies.")
        self.settings_generation = self._gauge("settings_generation", "Which settings are in force in the worker.")
        self._build = self._gauge("build_info", "What is running.", ("version",))
        self._build.labels(version("flagstone")).set(1)

        self._route_of = {name: _Route(name, self._requests, self._outcomes, self._request_s) for name in ENDPOINTS}
        self._phase_of = bound(self._phase_s, Phase)
        self._answer_of = bound(self._answers, ("exact", "partial"))
        self._missing_of = {(part, cause): self._missing.labels(part, cause) for part in PARTS for cause in CAUSES}
        self._read_of = bound(self._reads, SOURCES)
        self._load_of = {(tier, end): self._loads.labels(tier, end) for tier in SOURCES for end in LOAD_OUTCOMES}
        self._local_build_of = bound(self._local_builds, ("ok", "failed"))
        self._limited_of = {(limit, end): self._limited.labels(limit, end) for limit in LIMITS for end in LIMITED}
        self._shed_of = {(part, why): self._shed.labels(part, why) for part in PARTITIONS for why in SHED_REASONS}
        self._quota_sync_of = bound(self._quota_syncs, SYNC_OUTCOMES)
        self._connection_end_of = bound(self._connections_ended, CONNECTION_ENDS)
        self._stream_end_of = bound(self._streams_ended, get_args(StreamEnd))
        self._fill_of = bound(self._fills, FILL_OUTCOMES)
        self._change_of = bound(self._changes, FEEDS)
        self._event_of = bound(self._events, EVENT_OUTCOMES)
        self._learned_of = bound(self._learned, LEARNED)
        self._spans_of = bound(self._spans, SPAN_OUTCOMES)
        self._turn_of = {(name, to): self._turns.labels(name, to) for name in DEPENDENCIES for to in BREAKER_STATES}
        self._write_of = bound(self._writes, WRITE_OUTCOMES)
        self._call_of = {(name, end): self._calls.labels(name, end) for name in DEPENDENCIES for end in CALL_OUTCOMES}
        self._call_s_of = bound(self._call_s, DEPENDENCIES)
        self._wait_s_of = bound(self._wait_s, DEPENDENCIES)

    def _histogram(self, name: str, says: str, labels: Iterable[str] = ()) -> Histogram:
        return Histogram(PREFIX + name, says, labels, registry=self._registry, buckets=_SECONDS)

    def _hot_counter(self, name: str, says: str, labels: Sequence[str]) -> HotCounter:
        return HotCounter(PREFIX + name, says, labels, self._registry)

    def _hot_histogram(
        self, name: str, says: str, labels: Sequence[str], bounds: Sequence[float] = _SECONDS
    ) -> HotHistogram:
        return HotHistogram(PREFIX + name, says, labels, bounds, self._registry)

    def request_ended(self, endpoint: str, status: int | None, outcome: str, duration_s: float) -> None:
        """`status` None: the client went away before there was one."""
        route = self._route_of[endpoint]
        route.statuses[0 if status is None else status // 100].inc()
        route.outcomes[outcome].inc()
        route.durations.observe(duration_s)

    def turned_away(self, endpoint: str) -> None:
        """A request was shed before it had a record."""
        self._route_of[endpoint].outcomes["shed"].inc()

    def phase(self, phase: Phase, duration_s: float) -> None:
        self._phase_of[phase].observe(duration_s)

    def answered(self, source: str, *, is_partial: bool) -> None:
        self._answer_of["partial" if is_partial else "exact"].inc()
        self._read_of[source].inc()

    def fact_missing(self, part: str, cause: str) -> None:
        self._missing_of[part, cause if cause in CAUSES else "other"].inc()

    def loaded(self, tier: str, outcome: str) -> None:
        self._load_of[tier, outcome].inc()

    def filled(self, outcome: str, size: int = 0) -> None:
        self._fill_of[outcome].inc()
        self.fill_bytes.inc(size)

    def change_told(self, source: str) -> None:
        self._change_of[source].inc()

    def served(self, edit_age_s: float) -> None:
        """An edit of this age is in force. Versions that are no moments, as a file's, make an age that is none."""
        if 0 <= edit_age_s < MAX_EDIT_AGE_S:
            self._served_s.observe(edit_age_s)

    def feed_connected(self, source: str, *, is_connected: bool) -> None:
        self._feed.labels(source).set(is_connected)

    def called(self, dependency: str, outcome: str, waited_s: float, took_s: float) -> None:
        self._call_of[dependency, outcome].inc()
        if outcome in ("ok", "timeout", "error"):
            self._call_s_of[dependency].observe(took_s)
            self._wait_s_of[dependency].observe(waited_s)

    def breaker_changed(self, dependency: str, to: str) -> None:
        self._turn_of[dependency, to].inc()

    def breaker_state(self, dependency: str, state: str) -> None:
        for name in BREAKER_STATES:
            self._breaker.labels(dependency, name).set(name == state)

    def calls_queued(self, dependency: str, queued: int) -> None:
        self._queued.labels(dependency).set(queued)

    def pool(self, pool: str, *, in_use: int, idle: int, most: int) -> None:
        for state, connections in (("in_use", in_use), ("idle", idle), ("max", most)):
            self._pool.labels(pool, state).set(connections)

    def rate_limited(self, limit: str, outcome: str) -> None:
        self._limited_of[limit, outcome].inc()

    def limit_suspended(self, reason: str, *, is_suspended: bool) -> None:
        self._suspended.labels(reason).set(is_suspended)

    def shed(self, partition: str, reason: str) -> None:
        self._shed_of[partition, reason].inc()
        self.sheds += 1

    def gate(self, partition: str, *, limit: int, in_flight: int, queued: int) -> None:
        for what, number in (("limit", limit), ("in_flight", in_flight), ("queued", queued)):
            self._concurrency.labels(partition, what).set(number)

    def quota_synced(self, outcome: str) -> None:
        self._quota_sync_of[outcome].inc()

    def local_definitions_built(self, outcome: str) -> None:
        self._local_build_of[outcome].inc()

    def connections(self, state: str, number: int) -> None:
        self._connections.labels(state).set(number)

    def connection_ended(self, reason: str) -> None:
        self._connection_end_of[reason].inc()

    def stream_ended(self, reason: StreamEnd) -> None:
        self._stream_end_of[reason].inc()

    def override_write(self, outcome: str, writes: int = 1) -> None:
        self._write_of[outcome].inc(writes)

    def event_request(self, outcome: str) -> None:
        self._event_of[outcome].inc()

    def learned(self, outcome: str, updates: int = 1) -> None:
        self._learned_of[outcome].inc(updates)

    def spans(self, outcome: str, spans: int) -> None:
        self._spans_of[outcome].inc(spans)

    def heartbeat(self, task: str, age_s: float) -> None:
        self._heartbeat.labels(task).set(age_s)

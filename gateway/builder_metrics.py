"""The metric families of the builder, and one small method per event that hides their labels.

Invariant: the values of labels come from closed sets; no project has a time series of its own.
"""

from typing import Final

from prometheus_client import Histogram

from gateway.building_ports import Backlog
from gateway.families import PREFIX, Families, bound

STAGES: Final = ("write", "verify", "share")
BUILD_OUTCOMES: Final = ("published", "unchanged", "refused", "failed", "lost")
DRIFTS: Final = ("stored", "published", "shared")
VERIFY_OUTCOMES: Final = ("sound", "drift", "failed")
SHARE_OUTCOMES: Final = ("kept", "newer", "failed")

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BYTES: Final = (1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6, 64e6)


class BuilderMetrics(Families):
    def __init__(self) -> None:
        super().__init__()
        self._projects = self._gauge("builder_projects", "Projects by how they stand.", ("state",))
        self.oldest_s = self._gauge("builder_oldest_seconds", "Time since the oldest edit that is not published.")
        self.typical_bytes = self._gauge("builder_typical_bytes", "Median size of the published documents.")
        self.peak_bytes = self._gauge("builder_peak_bytes", "Most memory that the process ever occupied.")
        self._heartbeat = self._gauge("builder_heartbeat_age_seconds", "Time since a task last went round.", ("task",))
        self._feed = self._gauge("builder_feed_connected", "Whether edits are listened for.")
        self._told = self._counter("edits_told_total", "Edits announced to this process.")
        self.building = self._gauge("builder_building", "Projects being built or verified now.")
        self._builds = self._counter("builds_total", "Builds by how they ended.", ("outcome",))
        self._stage_s = self._histogram("build_duration_seconds", "Stages of a build.", _SECONDS, ("stage",))
        self._bytes = self._histogram("build_bytes", "Sizes of published documents.", _BYTES)
        self._edit_s = self._histogram(
            "edit_to_published_seconds", "From the oldest edit to its publication.", _SECONDS
        )
        self._verified = self._counter("verifications_total", "Comparisons by what came of them.", ("outcome",))
        self._drift = self._counter("drift_total", "Differences found, by what was wrong.", ("place",))
        self._shared = self._counter("shares_total", "Documents put into Redis, by what came of it.", ("outcome",))
        self._build_of = bound(self._builds, BUILD_OUTCOMES)
        self._stage_of = bound(self._stage_s, STAGES)
        self._verified_of = bound(self._verified, VERIFY_OUTCOMES)
        self._drift_of = bound(self._drift, DRIFTS)
        self._shared_of = bound(self._shared, SHARE_OUTCOMES)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(PREFIX + name, says, labels, registry=self._registry, buckets=buckets)

    def heartbeat(self, task: str, age_s: float) -> None:
        self._heartbeat.labels(task).set(age_s)

    def feed_connected(self, source: str, *, is_connected: bool) -> None:  # noqa: ARG002 - there is one
        self._feed.set(is_connected)

    def change_told(self, source: str) -> None:  # noqa: ARG002
        self._told.inc()

    def built(self, outcome: str) -> None:
        self._build_of[outcome].inc()

    def stage(self, stage: str, duration_s: float) -> None:
        self._stage_of[stage].observe(duration_s)

    def published(self, size: int, edit_age_s: float | None) -> None:
        self._bytes.observe(size)
        if edit_age_s is not None:
            self._edit_s.observe(edit_age_s)

    def verified(self, outcome: str) -> None:
        self._verified_of[outcome].inc()

    def drifted(self, place: str) -> None:
        self._drift_of[place].inc()

    def shared(self, outcome: str) -> None:
        self._shared_of[outcome].inc()

    def backlog(self, backlog: Backlog) -> None:
        states = {
            "dirty": backlog.dirty,
            "refused": backlog.refused,
            "failing": backlog.failing,
            "published": backlog.projects,
            "anomalous": len(backlog.anomalous),
        }
        for state, number in states.items():
            self._projects.labels(state).set(number)
        self.oldest_s.set(backlog.oldest_s)
        self.typical_bytes.set(backlog.typical_bytes)

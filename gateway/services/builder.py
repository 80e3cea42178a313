"""Which project is built when: a few dirty ones at a time, at a limited rate, and between them others are verified.

How one is built is publishing.py's. Invariant: whatever one project makes go wrong delays that project alone; and no
work is remembered here that is not also marked in the store, so that a process may be killed at any point.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from config.builder import Builder as Settings
from gateway.background import Background
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import BuildStore, Job, LeaseLost, Published, Shelf
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.process import peak_resident_bytes
from gateway.resilience.token_bucket import TokenBucket
from gateway.services.publishing import Publisher, Refused, Unsound
from gateway.telemetry import Outage, log_event

FIRST_RETRY_S: Final = 0.5
PAUSE_S: Final = 1.0
"""Between looks at a queue that could not be read."""
MEASURE_S: Final = 5.0
MIN_PAUSE_S: Final = 0.005
"""Between looks that found nothing, however many edits are told."""
BURST_S: Final = 0.25
"""So much of a second's builds may begin at once."""
CLOSE_TIMEOUT_S: Final = 2.0
BEHIND_S: Final = 60.0
"""Far longer than an edit waits when all is well, and than the queue is left alone."""
MAX_PROBLEM_CHARACTERS: Final = 500


class Builder:
    """Use as an async context manager: it owns its tasks. Leases that are open when it is left expire by themselves."""

    def __init__(
        self, store: BuildStore, shelf: Shelf | None, settings: Settings, clock: Clock, metrics: BuilderMetrics
    ) -> None:
        self._store = store
        self._publisher = Publisher(store, shelf, settings, clock, metrics)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._builds = TokenBucket(*_paced(settings.max_builds_per_s), clock)
        self._checks = TokenBucket(*_paced(settings.max_verifications_per_s), clock)
        self._running: set[asyncio.Task[None]] = set()
        self._is_due = asyncio.Event()
        self._is_closing = False
        self._building: asyncio.Task[None]
        self._background = Background()
        self._outage = Outage("build_queue")
        self._looked_at = clock.monotonic()
        self._oldest_s = 0.0
        metrics.at_scrape(lambda: metrics.heartbeat("queue", clock.monotonic() - self._looked_at))
        metrics.at_scrape(lambda: metrics.building.set(len(self._running)))
        metrics.at_scrape(lambda: metrics.peak_bytes.set(peak_resident_bytes()))

    def __repr__(self) -> str:
        return f"<Builder, {len(self._running)}/{self._settings.concurrency} building>"

    async def __aenter__(self) -> "Builder":
        self._building = asyncio.create_task(self._keep_building())
        self._background.spawn(self._keep_measuring())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._background.cancel()
        self._is_closing = True
        self._is_due.set()
        # Not cut short at once: what is just being claimed would be nobody's until its lease expires.
        try:
            await self._until_idle()
        finally:
            for task in (self._building, *self._running):
                task.cancel()
        await self._until_idle()

    def adopt(self, settings: Settings) -> None:
        """Keep to these from now on; what is in hand stays in hand."""
        self._settings = settings
        self._publisher.adopt(settings)
        self._builds.adopt(*_paced(settings.max_builds_per_s))
        self._checks.adopt(*_paced(settings.max_verifications_per_s))
        self._is_due.set()

    @property
    def problem(self) -> str | None:
        """Why edits are not published soon; None when they are."""
        silent_s = self._clock.monotonic() - self._looked_at
        if silent_s > BEHIND_S:
            return f"the queue of edits was not looked at for {silent_s:.0f} s"
        if self._oldest_s > BEHIND_S:
            return f"an edit has waited for {self._oldest_s:.0f} s"
        return None

    async def _until_idle(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.wait({self._building})
                while self._running:
                    await asyncio.wait(self._running)

    def told(self, project_id: int | None) -> None:  # noqa: ARG002 - which one, the queue knows
        """Something was edited."""
        self._is_due.set()

    async def drain(self) -> None:
        """Build whatever is dirty and not resting, and return. Raises StoreError."""
        while jobs := await self._store.claim(self._settings.concurrency, self._settings.lease_s):
            await asyncio.gather(*map(self._build, jobs))

    async def _keep_building(self) -> None:
        while not self._is_closing:
            try:
                has_begun = await self._begin()
            except StoreError as error:
                self._outage.failed(error)
                await asyncio.sleep(PAUSE_S)
                continue
            except Exception as error:  # A bug must not end building for good.
                log_event("builder_crashed", logging.ERROR, exception=error)
                await asyncio.sleep(PAUSE_S)
                continue
            self._outage.succeeded()
            self._looked_at = self._clock.monotonic()
            if not has_begun:
                await self._wait()

    async def _begin(self) -> bool:
        """Begin what there is to do and room for; whether there was anything."""
        room = self._settings.concurrency - len(self._running)
        jobs: list[Job] = []
        if (most := min(room, int(self._builds.level()))) > 0:
            jobs = await self._store.claim(most, self._settings.lease_s)
            self._builds.owe(len(jobs))
            for job in jobs:
                self._spawn(self._build(job))
        # One place is left free, if there are several: edits are not to wait until others are verified.
        room -= self._settings.concurrency > 1
        checks: list[Job] = []
        # What the shared cache has missed counts as not verified; that waits until the cache is back.
        if not jobs and self._publisher.can_share and (most := min(room, int(self._checks.level()))) > 0:
            checks = await self._store.claim_unverified(most, self._settings.lease_s, self._settings.verify_s)
            self._checks.owe(len(checks))
            for job in checks:
                self._spawn(self._verify(job))
        return bool(jobs or checks)

    async def _wait(self) -> None:
        """Until something is told, a place becomes free, or it is time to look again."""
        await asyncio.sleep(MIN_PAUSE_S)
        lacking = max(0.0, 1 - self._builds.level())
        timeout_s = lacking / self._settings.max_builds_per_s if lacking else self._settings.poll_ms / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_due.wait()
        self._is_due.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._is_due.set()

    async def _build(self, job: Job) -> None:
        """Build and publish a project; raises nothing."""
        try:
            async with asyncio.timeout(self._settings.lease_s):
                outcome = await self._publish(job)
        except Exception as error:
            outcome = await self._failed(job, error)
        self._metrics.built(outcome)

    async def _publish(self, job: Job) -> str:
        found = await self._publisher.publish(job)
        if found is None:
            return "unchanged"
        published, is_new = found
        await self._verify_published(published)
        is_shared = await self._publisher.share(published)
        await self._finish(job, published, is_announced=True, is_verified=is_shared)
        if not is_new:
            return "unchanged"
        age_s = None if job.dirty_since is None else (self._clock.now() - job.dirty_since).total_seconds()
        self._metrics.published(published.bytes, age_s)
        log_event("published", project_id=job.project_id, version=published.version, bytes=published.bytes,
                  etag=published.etag, is_shared=is_shared, edit_age_ms=age_s and round(age_s * 1000))  # fmt: skip
        return "published"

    async def _finish(self, job: Job, published: Published, *, is_announced: bool, is_verified: bool) -> None:
        pace_ms = self._longer(job) if job.is_hot else self._settings.min_rest_ms
        await self._store.finish(
            job, published.version, pace_ms=pace_ms, is_announced=is_announced, is_verified=is_verified
        )

    def _longer(self, job: Job) -> int:
        return min(max(self._settings.min_rest_ms, job.pace_ms * 2), self._settings.max_rest_ms)

    async def _verify_published(self, published: Published) -> None:
        """Raises Unsound; then the project is to be built again, under a new version."""
        try:
            await self._publisher.verify(published)
        except Unsound:
            await self._have_it_built(published.project_id, "published")
            raise

    async def _failed(self, job: Job, error: Exception) -> str:
        """What is counted; the project rests, longer each time."""
        if isinstance(error, LeaseLost):
            log_event("lease_lost", logging.WARNING, project_id=job.project_id)
            return "lost"
        settings = self._settings
        is_refused = isinstance(error, Refused)
        rest_s = min(settings.max_retry_s, FIRST_RETRY_S * 2 ** min(job.failures, 30))
        if is_refused:
            rest_s = settings.max_retry_s
        problem = _told(error, settings)
        log_event("project_refused" if is_refused else "build_failed", logging.ERROR, project_id=job.project_id,
                  failures=job.failures + 1, retry_s=round(rest_s, 1), reason=problem)  # fmt: skip
        problem, pace_ms = problem[:MAX_PROBLEM_CHARACTERS], self._longer(job)
        with suppress(StoreError, LeaseLost):  # Then the lease expires, which comes to the same.
            await self._store.fail(job, problem, rest_s=rest_s, pace_ms=pace_ms, is_refused=is_refused)
        return "refused" if is_refused else "failed"

    async def _verify(self, job: Job) -> None:
        """Compare a project in all places; raises nothing."""
        try:
            async with asyncio.timeout(self._settings.lease_s):
                outcome = await self._compare(job)
        except Exception as error:
            await self._failed(job, error)
            outcome = "drift" if isinstance(error, Unsound) else "failed"
        self._metrics.verified(outcome)

    async def _compare(self, job: Job) -> str:
        published = await self._store.published(job.project_id)
        if published is None:
            await self._have_it_built(job.project_id, "published")
            raise Unsound("nothing of it is published")
        await self._verify_published(published)
        is_sound = await self._publisher.is_as_stored(published)
        if not is_sound:
            await self._have_it_built(job.project_id, "stored")
        is_shared = await self._publisher.is_shared(published)
        if is_shared is False:
            is_sound = False
            self._found_drift(job.project_id, "shared")
            is_shared = await self._publisher.share(published)
        with suppress(StoreError):  # That may take long, and is only for show.
            await self._store.count_members(job.project_id)
        await self._finish(job, published, is_announced=False, is_verified=bool(is_shared))
        return "sound" if is_sound else "drift"

    async def _have_it_built(self, project_id: int, place: str) -> None:
        """Repair what differs in this place, under a new version."""
        self._found_drift(project_id, place)
        await self._store.mark_dirty(project_id)

    def _found_drift(self, project_id: int, place: str) -> None:
        self._metrics.drifted(place)
        log_event("drift", logging.WARNING, project_id=project_id, place=place)

    async def _keep_measuring(self) -> None:
        known: set[int] = set()
        while True:
            try:
                backlog = await self._store.backlog()
            except StoreError:
                pass  # Told of by the loop that builds.
            except Exception as error:
                log_event("builder_crashed", logging.ERROR, exception=error)
            else:
                self._metrics.backlog(backlog)
                self._oldest_s = backlog.oldest_s
                for project_id, size in backlog.anomalous:
                    if project_id not in known:
                        log_event("project_anomalous", logging.WARNING, project_id=project_id, bytes=size,
                                  typical_bytes=backlog.typical_bytes)  # fmt: skip
                known = {project_id for project_id, _ in backlog.anomalous}
            await asyncio.sleep(MEASURE_S)


def _paced(rate_per_s: float) -> tuple[float, float]:
    """The rate with its burst."""
    return rate_per_s, max(1.0, rate_per_s * BURST_S)


def _told(error: Exception, settings: Settings) -> str:
    match error:
        case Refused() | StoreError() | Unsound():
            return str(error)
        case TimeoutError():
            return f"it took longer than {settings.lease_s:g} s (builder.lease_s)"
        case _:
            return f"{type(error).__name__}: {error}"

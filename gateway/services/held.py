"""The snapshots in memory: what is known of each, and how many bytes and projects there may be.

Nothing here loads or waits. Invariant: neither bound is ever exceeded; what was not asked for longest goes first.
"""

import random
from collections.abc import Callable
from typing import Final

import mmh3
from cachetools import LRUCache

from config.settings import Snapshots
from evaluator.snapshot import Snapshot
from gateway.metrics import Metrics
from gateway.ports import Definitions
from gateway.standing import Freshness, stale_after_s

FLAG_BYTES: Final = 7_400
"""What a compiled flag occupies beside its document; measured in bench/evaluation.py."""
RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 5.0


def spread_of_process() -> Callable[[str], float]:
    """A part of one for each token: fixed in this process, and another one in every other."""
    instance = random.getrandbits(32)
    return lambda token: mmh3.hash(token, instance, signed=False) / 2**32


class Held:
    """A snapshot, where its document came from, and when it is compared with a store next."""

    __slots__ = (
        "bytes",
        "check_at",
        "confirmed_at",
        "definitions",
        "is_loading",
        "retry_s",
        "seen_version",
        "snapshot",
        "source",
        "spread",
    )

    def __init__(
        self, snapshot: Snapshot, definitions: Definitions, source: str, confirmed_at: float, spread: float
    ) -> None:
        self.spread = spread
        """A fixed part of one by which this process is early with this project, so that not all come at once."""
        self.retry_s = RETRY_S
        self.is_loading = False
        self.replace(snapshot, definitions, source, confirmed_at)

    def replace(self, snapshot: Snapshot, definitions: Definitions, source: str, confirmed_at: float) -> None:
        """Hold another version from now on."""
        self.snapshot = snapshot
        self.definitions = definitions
        self.source = source
        self.bytes = len(definitions.document) + FLAG_BYTES * len(snapshot.flags)
        self.seen_version = snapshot.version
        """The version last seen in a store, usable or not: what could not be used is not loaded again and again."""
        self.confirmed_at = confirmed_at
        self.check_at = confirmed_at

    def confirm(self, now: float, refresh_s: float) -> None:
        """The store says that this is current."""
        self.confirmed_at = now
        self.wait(now, refresh_s)

    def wait(self, now: float, refresh_s: float) -> None:
        """There is nothing newer for now."""
        self.retry_s = RETRY_S
        self.check_at = now + refresh_s * (1 - self.spread / 4)

    def put_off(self, now: float) -> None:
        """Nobody could be asked: try again later, and later each time."""
        self.check_at = now + self.retry_s * (1 - self.spread / 2)
        self.retry_s = min(self.retry_s * 2, MAX_RETRY_S)

    def __repr__(self) -> str:
        return f"<Held v{self.snapshot.version} from {self.source}, {self.bytes} bytes>"


class HeldSnapshots(LRUCache[str, Held]):
    """Least recently used, by bytes and by number. One larger than all there is room for is held by itself.

    Only `get` counts as use; look through `everything` to look at what is held without that.
    """

    def __init__(self, max_bytes: int, max_projects: int, on_eviction: Callable[[], None]) -> None:
        super().__init__(max_bytes, getsizeof=lambda held: min(held.bytes, max_bytes))
        self._max_projects = max_projects
        self._on_eviction = on_eviction
        # Every look into the cache itself, iteration included, would make what it looks at the most recently used.
        self.everything: dict[str, Held] = {}

    def __setitem__(self, token: str, held: Held) -> None:
        while token not in self and len(self) >= self._max_projects:
            self.popitem()
        super().__setitem__(token, held)
        self.everything[token] = held

    def __delitem__(self, token: str) -> None:
        super().__delitem__(token)
        del self.everything[token]

    def freshness(self, now: float, settings: Snapshots, *, unavailable: int) -> Freshness:
        """How many are how current."""
        stale_s = stale_after_s(settings.refresh_s)
        ages = [now - held.confirmed_at for held in self.everything.values()]
        expired = sum(age > settings.hard_ttl_s for age in ages)
        stale = sum(stale_s < age <= settings.hard_ttl_s for age in ages)
        return Freshness(
            fresh=len(ages) - stale - expired,
            stale=stale,
            expired=expired,
            unavailable=unavailable,
            oldest_s=max(ages, default=0.0),
        )

    def resized(self, max_bytes: int, max_projects: int) -> "HeldSnapshots":
        """The same within other bounds, in the same order of use; this one is empty then."""
        resized = HeldSnapshots(max_bytes, max_projects, self._on_eviction)
        while self:
            token, held = super().popitem()
            resized[token] = held
        return resized

    def check_within(self, now: float, refresh_s: float) -> None:
        """Have none of them compared later than this."""
        for held in self.everything.values():
            held.check_at = min(held.check_at, now + refresh_s * (1 - held.spread / 4))

    def measure(self, now: float, metrics: Metrics) -> None:
        """Say how many there are, how large, how old and how sound."""
        held = self.everything.values()
        metrics.snapshots_held.set(len(held))
        metrics.snapshot_bytes.set(sum(it.bytes for it in held))
        metrics.snapshot_age_s.set(max((now - it.confirmed_at for it in held), default=0.0))
        metrics.compile_problems.set(sum(len(it.snapshot.problems) for it in held))

    def popitem(self) -> tuple[str, Held]:
        self._on_eviction()
        return super().popitem()

"""In-memory stand-ins for the shared cache and counter, the disk and a change feed, which fail or hang when told to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.errors import StoreError
from gateway.ports import Clock, Definitions, LastGood, Usage


class FakeSharedCache:
    """`error` is raised by each call, `gate` holds each call while it is closed."""

    def __init__(self) -> None:
        self.entries: dict[str, Definitions] = {}
        self.claims: set[str] = set()
        self.error: StoreError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[str] = []

    async def __aenter__(self) -> "FakeSharedCache":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def load_definitions(self, token: str) -> Definitions | None:
        await self._called("load_definitions")
        return self.entries.get(token)

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        await self._called("definitions_versions")
        return {token: self.entries[token].version for token in tokens if token in self.entries}

    async def claim(self, token: str, ttl_s: float) -> bool:
        await self._called("claim")
        is_first = token not in self.claims
        self.claims.add(token)
        return is_first

    async def keep_definitions(self, token: str, definitions: Definitions) -> int:
        await self._called("keep_definitions")
        before = self.entries.get(token)
        if before is not None and before.version > definitions.version:
            return 0
        self.entries[token] = definitions
        self.claims.discard(token)
        return 0 if before == definitions else len(definitions.document)

    async def forget_definitions(self, token: str) -> None:
        await self._called("forget_definitions")
        self.entries.pop(token, None)

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class FakeUsageCounter:
    """`error` is raised by each call, `reply_error` once units were added; `refused` are tokens it does not count.

    `gate` holds those that add while it is closed.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.totals: Counter[tuple[str, str]] = Counter()
        self.error: Exception | None = None
        self.reply_error: StoreError | None = None
        self.refused: set[str] = set()
        self.calls: list[str] = []

    async def __aenter__(self) -> "FakeUsageCounter":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def reach(self) -> None:
        self.calls.append("reach")
        if self.error is not None:
            raise self.error

    async def add(self, usages: Sequence[Usage]) -> list[int | None]:
        self.calls.append(f"add {len(usages)}")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        for usage in usages:
            if usage.token not in self.refused:
                self.totals[usage.token, usage.period] += usage.units
        if self.reply_error is not None:
            raise self.reply_error
        return [None if it.token in self.refused else self.totals[it.token, it.period] for it in usages]


class FakeLastGood:
    def __init__(self, clock: Clock) -> None:
        self.kept: dict[str, LastGood] = {}
        self._clock = clock

    async def __aenter__(self) -> "FakeLastGood":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def load_definitions(self, token: str) -> LastGood | None:
        return self.kept.get(token)

    def keep_definitions(self, token: str, definitions: Definitions) -> None:
        self.kept[token] = LastGood(definitions, self._clock.now())

    def forget_definitions(self, token: str) -> None:
        self.kept.pop(token, None)

    async def has_any(self) -> bool:
        return bool(self.kept)


class FakeFeed:
    """Tells what is put into `told`; an exception in it ends the feed, and `refuses` lets none begin."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.connections = 0
        self.refuses = False

    async def changes(self) -> AsyncIterator[int | None]:
        self.connections += 1
        if self.refuses:
            raise StoreError("refused")
        yield None
        while True:
            change = await self.told.get()
            if isinstance(change, Exception):
                raise change
            yield change

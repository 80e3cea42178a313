"""`flagstone publish`: have projects built now, in this process, and say what became of them."""

import asyncio
import sys
import time
from argparse import Namespace
from typing import Final

from config.settings import Settings
from config.sources import Loaded
from gateway.commands import CommandFailed
from gateway.wiring import Store, open_store, publish

PAGE: Final = 500
PAUSE_S: Final = 0.2
TELL_S: Final = 2.0


def run(loaded: Loaded, args: Namespace) -> int:
    return asyncio.run(_publish(loaded.settings, args))


async def _publish(settings: Settings, args: Namespace) -> int:
    async with open_store(settings) as store:
        builds = store.builds
        if builds is None:
            raise CommandFailed(
                f"A {settings.store.url.scheme}: store is served as it is: there is nothing to publish."
            )
        if args.all:
            print(f"Marked {await _mark_all(store)} projects.", file=sys.stderr)
        ends_at = time.monotonic() + args.timeout
        told_at = time.monotonic()
        while True:
            await publish(store, settings)
            backlog = await builds.backlog()
            waiting = backlog.dirty - backlog.refused - backlog.failing
            # What others have taken, and what rests, is theirs, and awaited.
            if waiting <= 0 or time.monotonic() >= ends_at:
                break
            if time.monotonic() - told_at >= TELL_S:
                told_at = time.monotonic()
                print(f"{waiting} projects to go", file=sys.stderr)
            await asyncio.sleep(PAUSE_S)
    print(f"published: {backlog.projects}, waiting: {max(0, waiting)}, "
          f"refused: {backlog.refused}, failing: {backlog.failing}")  # fmt: skip
    return 0 if backlog.dirty == 0 else 1


async def _mark_all(store: Store) -> int:
    """Mark every project, as an edit would; how many there are."""
    assert store.builds is not None and store.managed is not None  # noqa: PT018, S101 - a store that builds has both
    marked = 0
    while page := (await store.managed.list_projects(limit=PAGE, offset=marked)).items:
        for project in page:
            await store.builds.mark_dirty(project.id)
        marked += len(page)
    return marked

"""`flagstone import` and `flagstone export`: whole projects between a file and the store.

Reading and writing the document itself is in gateway/document.py. Invariant: a document with a problem changes nothing.
"""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Final

from config.settings import Settings
from config.sources import Loaded
from evaluator.snapshot import build_snapshot
from gateway.commands import CommandFailed
from gateway.document import WholeProject, read_document, write_document
from gateway.ports import Clock, SystemClock
from gateway.wiring import open_store, publish

PROGRESS_INTERVAL_S: Final = 2.0


def run_import(loaded: Loaded, args: Namespace) -> int:
    try:
        document = args.file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"Cannot read {args.file}: {error.strerror}") from None
    projects = read_document(document)
    for warning in _warnings(projects):
        print(f"warning: {warning}", file=sys.stderr)
    if not args.dry_run:
        asyncio.run(_store(loaded.settings, projects))
    print(f"{'Nothing wrong; would import' if args.dry_run else 'Imported'} {_summary(projects)}")
    return 0


def run_export(loaded: Loaded, args: Namespace) -> int:
    document = write_document(asyncio.run(_stored(loaded.settings)))
    if args.output is None:
        sys.stdout.buffer.write(document)
        sys.stdout.flush()
        return 0
    try:
        args.output.write_bytes(document)
    except OSError as error:
        raise CommandFailed(f"Cannot write {args.output}: {error.strerror}") from None
    return 0


async def _store(settings: Settings, projects: Sequence[WholeProject]) -> None:
    async with open_store(settings) as store:
        await store.import_projects(projects, Progress(SystemClock()))
        await publish(store, settings)


async def _stored(settings: Settings) -> list[WholeProject]:
    async with open_store(settings) as store:
        return await store.export_projects()


class Progress:
    """Tells on stderr how far an import is, when it takes long enough for somebody to wonder."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_at = clock.monotonic()

    def __call__(self, persons_stored: int, persons: int) -> None:
        if self._clock.monotonic() - self._told_at >= PROGRESS_INTERVAL_S:
            self._told_at = self._clock.monotonic()
            print(f"{persons_stored} of {persons} persons", file=sys.stderr)


def _warnings(projects: Sequence[WholeProject]) -> Iterator[str]:
    """What can be stored and served, and will still surprise: flags that are off because they cannot be understood."""
    for index, project in enumerate(projects):
        for problem in build_snapshot(project.definitions(), 0, lambda _: ()).problems:
            yield str(problem).replace("$", f"$.projects[{index}]", 1)


def _summary(projects: Sequence[WholeProject]) -> str:
    parts = ("flags", "cohorts", "persons", "groups")
    counts = {part: sum(len(getattr(project, part)) for project in projects) for part in parts}
    return ", ".join(f"{part}: {count}" for part, count in {"projects": len(projects), **counts}.items())

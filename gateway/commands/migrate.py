"""`flagstone migrate`: bring the schema of the store's database up to date."""

import asyncio
from argparse import Namespace

from config.sources import Loaded
from gateway.stores.postgres import PostgresStore


def run(loaded: Loaded, _: Namespace) -> int:
    settings = loaded.settings
    if not settings.store.url.is_postgres:
        print(f"Nothing to do: a {settings.store.url.scheme}: store needs no migrating by hand")
        return 0
    store = PostgresStore(settings.store.url, settings.definitions_pool, settings.persons_pool, settings.writer_pool)
    applied = asyncio.run(store.migrate())
    print("\n".join(f"Applied {name}" for name in applied) or "Nothing to do: the schema is up to date")
    return 0

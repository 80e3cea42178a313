"""Others at the same database: they keep connections and edit flags, until they are told not to."""

import time
from collections.abc import Callable
from pathlib import Path

from drills import contents
from drills.flagstone import command
from drills.meddling import Meddling
from drills.model import Contents
from drills.servers import PATIENCE_S, Postgres

SESSIONS = "SELECT 1/(count(*)::int - {}) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = '{}'"


def until(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_hold__connections__are_kept_until_released(postgres: Postgres, database: str) -> None:
    """Each is in a transaction, so that a pooler has it for nobody else; as many are had as there are."""
    with Meddling() as others:
        assert others.hold(postgres.url(database), 3) == 3
        postgres.execute(SESSIONS.format(2, database))  # A division by zero unless there are three of them.
        others.release()
        until(lambda: _none_held(postgres, database))
        assert others.hold(f"{postgres.url(database)}-that-is-not-there", 2) == 0


def _none_held(postgres: Postgres, database: str) -> bool:
    try:
        postgres.execute(SESSIONS.format(0, database))
    except Exception as error:
        return "division by zero" in str(error)
    return False


def test_edit__projects__get_new_versions_until_it_is_still(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """An edit is one as people make it: it is published like any other."""
    (tmp_path / "contents.json").write_bytes(contents.document(Contents(projects=2, flags=3, persons=1)))
    settings = {"store": {"url": postgres.url(database)}}
    for arguments in (("migrate",), ("import", "contents.json"), ("publish",)):
        command(settings, tmp_path, *arguments)
    with Meddling() as others:
        others.edit(postgres.url(database), 50)
        until(lambda: others.edits >= 4)
        others.still()
        edits = others.edits
        told = command(settings, tmp_path, "export")
        assert told.count('"edit ') == 2
        assert others.edits == edits

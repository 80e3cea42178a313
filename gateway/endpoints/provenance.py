"""What an answer says of itself in headers and in the log: which snapshot it is from, and what it lacks.

Nothing of any one protocol lives here. Invariant: the log and the client are told the same.
"""

from evaluator.snapshot import Snapshot
from gateway.telemetry import RequestRecord

Header = tuple[bytes, bytes]


def note_snapshot(
    record: RequestRecord, snapshot: Snapshot, source: str, age_s: float, version: int | None = None
) -> Header:
    """The header that names the snapshot, which the record has from here on as well; `version` if what is answered was
    made of another one."""
    age_ms = int(age_s * 1000)
    version = snapshot.version if version is None else version
    record.project_id, record.snapshot_version = snapshot.project_id, version
    record.snapshot_source, record.snapshot_age_ms = source, age_ms
    return b"x-flagstone-snapshot", b"%d; age_ms=%d; source=%s" % (version, age_ms, source.encode())


def degraded(missing: str | None) -> list[Header]:
    """The header for an answer in which something is missing."""
    return [] if missing is None else [(b"x-flagstone-degraded", missing.encode())]

"""Settings of what stands behind the service: stores, pools of connections, the shared cache, disk, and breakers.

The rest of the tree is in settings.py. Invariant: each pool is a failure domain with bounds of its own.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from config.address import NOWHERE, Address


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where definitions and what is known about persons are kept."""

    url: Annotated[
        Address,
        Meta(
            description="`file:PATH`, `sqlite:PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`. A path follows the "
            "colon directly and counts from the working directory unless it starts with a slash. The default is one "
            "file that needs no other service. A database takes libpq's `sslmode`, `sslrootcert`, `sslcert` and "
            "`sslkey` as parameters.",
        ),
    ] = Address("sqlite:flagstone.sqlite3")


_POOL_URL: Final = Meta(
    description="A database of its own for this pool, such as a replica. Empty: the one in `store.url`.",
)
_MAX_CONNECTIONS: Final = Meta(
    ge=1,
    le=1000,
    description="Connections of one process at most. As many calls run at once; further ones wait, and are skipped "
    "when they could not be served in time. Few keep the database quick when every process is busy.",
)
_CONNECT_TIMEOUT: Final = Meta(
    ge=1,
    le=60_000,
    description="Time for a new connection, TLS and login included. Leaves a busy database time for its handshakes; "
    "a caller never waits beyond its own budget.",
)
_ACQUIRE_TIMEOUT: Final = Meta(
    ge=1,
    le=60_000,
    description="Time to get a connection from the pool. Longer waits mean that the pool is exhausted, and more "
    "waiting would only make it worse.",
)
_STATEMENT_TIMEOUT: Final = Meta(
    ge=1,
    le=600_000,
    description="Time for a statement, kept by the database as well, so that a statement whose caller has gone ends "
    "there too.",
)
_TRANSACTION_POOLING: Final = Meta(
    description="Whether a PgBouncer in transaction mode stands before this database. Then no prepared statements are "
    "kept, nothing is set per connection, and changes are not listened for.",
)


class DefinitionsPool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections that read definitions, when the store is PostgreSQL."""

    url: Annotated[Address, _POOL_URL] = NOWHERE
    max_connections: Annotated[int, _MAX_CONNECTIONS] = 4
    connect_timeout_ms: Annotated[int, _CONNECT_TIMEOUT] = 1000
    acquire_timeout_ms: Annotated[int, _ACQUIRE_TIMEOUT] = 2000
    statement_timeout_ms: Annotated[int, _STATEMENT_TIMEOUT] = 5000
    transaction_pooling: Annotated[bool, _TRANSACTION_POOLING] = False


class PersonsPool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections that read persons, groups and overrides for a request that waits, when the store is PostgreSQL."""

    url: Annotated[Address, _POOL_URL] = NOWHERE
    max_connections: Annotated[int, _MAX_CONNECTIONS] = 10
    connect_timeout_ms: Annotated[int, _CONNECT_TIMEOUT] = 300
    acquire_timeout_ms: Annotated[int, _ACQUIRE_TIMEOUT] = 400
    statement_timeout_ms: Annotated[int, _STATEMENT_TIMEOUT] = 500
    transaction_pooling: Annotated[bool, _TRANSACTION_POOLING] = False


class WriterPool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections that write overrides, which nobody waits for, when the store is PostgreSQL."""

    url: Annotated[Address, _POOL_URL] = NOWHERE
    max_connections: Annotated[int, _MAX_CONNECTIONS] = 2
    connect_timeout_ms: Annotated[int, _CONNECT_TIMEOUT] = 1000
    acquire_timeout_ms: Annotated[int, _ACQUIRE_TIMEOUT] = 1000
    statement_timeout_ms: Annotated[int, _STATEMENT_TIMEOUT] = 2000
    transaction_pooling: Annotated[bool, _TRANSACTION_POOLING] = False


Pool = DefinitionsPool | PersonsPool | WriterPool


class Overrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How identifiers that flags with experience continuity hash are kept."""

    max_queued_writes: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Writes that may wait for the store. Each is made once per person and flag, so a full queue "
            "means that the store does not keep up; further ones are dropped and counted.",
        ),
    ] = 1000
    write_timeout_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Time for one try of a write. Nobody waits for it; each write is tried twice.",
        ),
    ] = 3000


class Redis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache of definitions that many processes share. Never required; best a Redis of its own."""

    url: Annotated[
        Address,
        Meta(
            description="`redis://`, `rediss://` (TLS), `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB` or "
            "`redis+cluster://HOST:PORT`. Empty: no shared cache.",
        ),
    ] = NOWHERE
    timeout_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Time for one call. A healthy Redis needs a millisecond or two; one that needs longer is "
            "passed over, as the store has everything too.",
        ),
    ] = 50
    connect_timeout_ms: Annotated[
        int,
        Meta(ge=1, le=60_000, description="Time for a new connection, TLS included."),
    ] = 200
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Connections of one process at most. Only loads and refreshes of definitions use them, so few "
            "are enough.",
        ),
    ] = 8
    ttl_s: Annotated[
        int,
        Meta(
            ge=1,
            le=31_536_000,
            description="How long an entry that nobody renews stays. A day bridges any outage of the store that "
            "somebody works on, and lets go of projects that nobody uses.",
        ),
    ] = 86_400
    compress_above_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 30,
            description="Documents larger than this are stored compressed. Below it, compressing saves less than it "
            "costs.",
        ),
    ] = 4096
    max_fills_per_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=100_000,
            description="Entries that one process may write per second. However many caches are cold at once, what "
            "moves from the store to Redis stays bounded; what is not written is served all the same.",
        ),
    ] = 20.0
    max_fill_bytes_per_s: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 40,
            description="Bytes that one process may write per second, as stored. An entry larger than that passes by "
            "itself and uses up the seconds after it.",
        ),
    ] = 4 << 20

    @property
    def call_timeout_s(self) -> float:
        """The longest that a call may take, with connecting."""
        return (self.timeout_ms + self.connect_timeout_ms) / 1000


class Disk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last definitions known to be good, for a process that starts while everything else is down."""

    path: Annotated[
        str,
        Meta(
            description="Folder to keep them in, used when the store is PostgreSQL; the other stores are on disk "
            "themselves. Empty: nothing is kept. A folder that cannot be written is told of, and only read.",
        ),
    ] = "flagstone-snapshots"
    max_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 40,
            description="What all of them may occupy, compressed. Beyond it the ones not renewed for longest go.",
        ),
    ] = 256 << 20


class Breakers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a dependency that keeps failing is left alone. Each dependency and pool has a breaker of its own."""

    window_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="How far back calls count. Short enough that an outage shows at once, long enough to hold a "
            "meaningful number of calls.",
        ),
    ] = 10.0
    min_calls: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Calls in the window below which nothing is concluded, so that one bad call opens nothing.",
        ),
    ] = 10
    failure_ratio: Annotated[
        float,
        Meta(
            ge=0.01,
            le=1,
            description="Share of calls that fail, timeouts included, from which the breaker opens. A caller that went "
            "away is no failure. `breakers.min_calls` failures in a row open it too, however many calls went well "
            "before.",
        ),
    ] = 0.5
    slow_ratio: Annotated[
        float,
        Meta(
            ge=0.01,
            le=1,
            description="Share of calls that take more than half of their dependency's time limit, from which the "
            "breaker opens. A dependency that answers late is about to stop answering.",
        ),
    ] = 0.9
    open_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=600,
            description="How long a breaker stays open at first; each failed probe doubles it. A random part of up to "
            "half is taken off, so that processes do not probe together.",
        ),
    ] = 1.0
    max_open_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=3600,
            description="The longest a breaker stays open. Once a dependency is back it is used again within this "
            "time. Must not be below `breakers.open_s`.",
        ),
    ] = 5.0

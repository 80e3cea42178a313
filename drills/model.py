"""A drill as its file describes it: what stands, what happens when, what must hold, and what happened back then.

Nothing is started here. Invariant: a drill that could be read can be run; what is wrong with a file is said at once,
with the place where it stands.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

Phase = Literal["before", "during", "after"]
PHASES: Final[tuple[Phase, ...]] = ("before", "during", "after")

Measure = Literal[
    "failed_share", "partial_share", "limited_share", "shed_share", "goodput_per_s", "p50_ms", "p90_ms", "p99_ms",
    "refused_p99_ms", "wrong", "unready_answers", "recovery_s", "ready_s",
]  # fmt: skip
"""Shares are of all attempts of a phase. Refusing is failing: its caller has no flags. A partial answer is an answer.

wrong: answers with a flag that differs from the healthy one and does not say that it is missing. unready_answers:
requests that an instance which called itself ready could not answer. recovery_s: from the end of `during` until a
request failed for the last time. ready_s: the longest that an instance took to be ready after a start within the drill.
"""

Value = str | int | float | bool


class Original(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happened when it was no drill, as those who had it have told it."""

    who: str
    what: str
    source: str
    lasted_min: float | None = None
    failed_share: float | None = None
    symptom: str = ""
    """What callers saw: "504" or "429"."""
    noticed_after_min: float | None = None


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands. Each instance reaches PostgreSQL and Redis through proxies of its own."""

    instances: int = 2
    settings: dict[str, Value] = {}
    """Of every flagstone, on top of its defaults: {"redis.timeout_ms": 100}."""
    has_redis: bool = True
    has_pgbouncer: bool = False
    has_builder: bool = False
    """`flagstone worker` in a process of its own, instead of a builder in each instance."""
    has_balancer: bool = True
    check: str = "/_readiness"
    """What the balancer asks to know who may be sent requests."""
    postgres: tuple[str, ...] = ()
    """Options of the server: ("max_connections=30",)."""
    redis: tuple[str, ...] = ()
    pgbouncer: tuple[str, ...] = ()


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is in the database. The flags are of every kind that an answer may need something for."""

    projects: int = 3
    flags: int = 20
    """For each project."""
    name_bytes: int = 0
    """What each flag's name is made longer by: large definitions that are no more work."""
    persons: int = 200


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that are due at these rates, whatever becomes of them, and how long each phase takes."""

    rate: float = 60.0
    during_rate: float | None = None
    clients: int = 50
    """Addresses that they come from."""
    timeout_s: float = 3.0
    retries: int = 0
    retry_delay_s: float = 0.1
    before_s: float = 6.0
    during_s: float = 22.0
    after_s: float = 8.0

    @property
    def lasts(self) -> dict[Phase, float]:
        """Each phase, in order, with its seconds."""
        return {"before": self.before_s, "during": self.during_s, "after": self.after_s}

    @property
    def seconds(self) -> float:
        return sum(self.lasts.values())

    def phase_of(self, at_s: float) -> Phase:
        """The phase of a moment, in seconds from the beginning of `during`."""
        return "before" if at_s < 0 else "during" if at_s < self.during_s else "after"


Action = Literal[
    "delay", "blackhole", "refuse", "reset", "bandwidth", "heal", "stop", "start", "kill", "restart", "reload",
    "sql", "redis", "hold", "release", "burn", "calm", "edit", "still",
]  # fmt: skip


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that is done at a moment, in seconds from the beginning of `during`.

    delay, blackhole, refuse, reset, bandwidth, heal   to "postgres", "redis", or one instance's: "postgres.1"
    stop, start, kill, restart                         "postgres", "redis", "builder", "instances", "instance.1"
    reload                                             instances, with `settings` on top of those they have
    sql, redis                                         `statements` to PostgreSQL, or commands to Redis
    hold, release                                      `count` connections of "postgres" or "pgbouncer"
    burn, calm                                         `count` processes that want a whole core each
    edit, still                                        `per_s` edits of flags a second, from now on
    """

    at_s: float
    do: Action
    to: str = ""
    seconds: float = 0.0
    jitter: float = 0.0
    bytes_per_s: float = 0.0
    count: int = 0
    per_s: float = 0.0
    statements: tuple[str, ...] = ()
    settings: dict[str, Value] = {}
    says: str = ""
    """What the report says of it, instead of the above."""

    def __str__(self) -> str:
        if self.says:
            return self.says
        numbers = (f"{name}={value:g}" for name in ("seconds", "bytes_per_s", "count", "per_s")
                   if (value := getattr(self, name)))  # fmt: skip
        settings = (f"{name}={value}" for name, value in self.settings.items())
        return " ".join((self.do, *filter(None, (self.to, *numbers, *settings))))


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold: a measure of a phase, or a query to Prometheus at the end of that phase, within a bound."""

    name: str
    what: str
    phase: Phase = "during"
    measure: Measure | None = None
    query: str = ""
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float | None) -> bool:
        """Whether a value is within the bounds. What could not be measured is not."""
        if value is None or value != value:  # noqa: PLR0124 - NaN is not itself.
            return False
        return not (self.at_most is not None and value > self.at_most) and not (
            self.at_least is not None and value < self.at_least
        )


class Without(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same with one protection turned off, which must show."""

    protection: str
    settings: dict[str, Value] = {}
    check: str | None = None
    """Another check of the balancer."""
    fails: tuple[str, ...]
    """Names of lines that no longer hold."""
    alerts: tuple[str, ...] = ()


class Drill(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole drill. `minute_s` is how many seconds of it stand for a minute of the alert rules."""

    title: str
    original: Original | None = None
    minute_s: float = 2.0
    topology: Topology = Topology()
    contents: Contents = Contents()
    load: Load = Load()
    timeline: tuple[Step, ...] = ()
    lines: tuple[Line, ...]
    alerts: tuple[str, ...] = ()
    """Those that must fire. Without any, none may."""
    may_fire: tuple[str, ...] = ()
    """Others that it is right to be told of."""
    without: Without | None = None
    name: str = ""

    def problems(self) -> Iterator[str]:
        """What is wrong with it beyond its shape."""
        names = [line.name for line in self.lines]
        for index, line in enumerate(self.lines):
            if (line.measure is None) == (not line.query):
                yield f"lines[{index}]: give a measure or a query"
            if line.at_most is None and line.at_least is None:
                yield f"lines[{index}]: nothing is asked: give at_most or at_least"
            if names.count(line.name) > 1:
                yield f"lines[{index}].name: {line.name} is not the only one"
        for name in self.without.fails if self.without else ():
            if name not in names:
                yield f"without.fails: there is no line {name}"
        if self.without and not (self.without.settings or self.without.check):
            yield "without: nothing is turned off"
        for index, step in enumerate(self.timeline):
            if not 0 <= step.at_s <= self.load.during_s + self.load.after_s:
                yield f"timeline[{index}].at_s: {step.at_s:g} is not within the drill"
            if step.do == "burn" and step.count < 1:
                yield f"timeline[{index}].count: how many?"
        if not 0.2 <= self.minute_s <= 60:
            yield "minute_s: between 0.2 and 60"


def hurried(drill: Drill, pace: float) -> Drill:
    """The same in a part of its time: 0.5 is twice as fast, alerts included. What takes its own time still does."""
    load = msgspec.structs.replace(
        drill.load, before_s=drill.load.before_s * pace, during_s=drill.load.during_s * pace,
        after_s=drill.load.after_s * pace,
    )  # fmt: skip
    timeline = tuple(msgspec.structs.replace(step, at_s=step.at_s * pace) for step in drill.timeline)
    return msgspec.structs.replace(drill, load=load, timeline=timeline, minute_s=drill.minute_s * pace)


class InvalidDrill(Exception):
    """A file that is no drill; the text says what is wrong with it, and where."""


def read(path: Path) -> Drill:
    """The drill in a TOML file; raises InvalidDrill."""
    try:
        drill = msgspec.toml.decode(path.read_bytes(), type=Drill)
    except OSError as error:
        raise InvalidDrill(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InvalidDrill(f"{path}: {error}") from error
    if problems := list(drill.problems()):
        raise InvalidDrill("\n".join(f"{path}: {problem}" for problem in problems))
    return msgspec.structs.replace(drill, name=path.stem)


SHIPPED: Final = Path(__file__).with_name("files")


def shipped() -> dict[str, Path]:
    """The drills that come with flagstone, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def merged(*settings: dict[str, Value]) -> dict[str, Any]:
    """Settings as a tree, later ones before earlier ones: {"redis.timeout_ms": 5} is {"redis": {"timeout_ms": 5}}."""
    tree: dict[str, Any] = {}
    for each in settings:
        for path, value in each.items():
            section, _, name = path.partition(".")
            tree.setdefault(section, {})[name] = value
    return tree

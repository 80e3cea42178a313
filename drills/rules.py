"""Alert rules in a drill's time: the same rules, for a minute that takes a second or two.

Durations are scaled, and so are ages that are compared with a number of seconds. What comes at the same pace in a drill
as outside of it is not: shares, rates, cores, latencies, dates. Counts within a window stay too: they have less time to
add up in a drill, so what fires in it would fire outside. Invariant: names, labels and order of rules are untouched.
"""

import re
from typing import Any, Final

import msgspec

MIN_SCRAPES: Final = 4
"""How many must be in the window of a rate."""
INTERVALS_S: Final = (0.25, 1.0)
"""More often is a load of its own; more seldom, and the curves of a short drill are a few points."""

AGES: Final = {
    "flagstone_snapshot_age_seconds": 3.0,  # Compared with the store every second.
    "flagstone_builder_oldest_seconds": 6.0,  # A project that is edited all the time rests for up to 5 s.
    "flagstone_builder_heartbeat_age_seconds": 3.0,  # The queue is looked at five times a second, between builds.
}
"""Ages that grow with a drill's time, and the least in seconds that is no calm service's, however short a minute is."""

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_DURATION: Final = r"(?:\d+(?:ms|[smhdwy]))+"
_PARTS: Final = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
    r"|\[(?P<window>[^\]:]*)(?P<colon>:?)(?P<step>[^\]]*)\]"
    rf"|(?P<offset>\boffset\s+-?)(?P<by>{_DURATION})"
)
_AGE: Final = re.compile(rf"((?:{'|'.join(AGES)})\b)((?:\{{[^}}]*\}})?[\s)]*>=?\s*)(\d+(?:\.\d+)?)")


def seconds(duration: str) -> float:
    """The length of a duration as Prometheus writes it: 5400 for "1h30m". Raises ValueError for anything else."""
    if not re.fullmatch(_DURATION, duration.strip()):
        raise ValueError(f"{duration!r} is no duration")
    return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def written(seconds: float) -> str:
    """A duration as Prometheus reads it."""
    return f"{seconds:.0f}s" if seconds == round(seconds) else f"{seconds * 1000:.0f}ms"


def interval_s(rules: str, minute_s: float) -> float:
    """How often to scrape and to evaluate, so that there are enough scrapes in the shortest window of the rules."""
    queries = (rule["expr"] for group in _groups(rules) for rule in group["rules"])
    windows = [seconds(it["window"]) for query in queries for it in _PARTS.finditer(query) if it["window"]]
    least, most = INTERVALS_S
    return min(max(min(windows, default=60.0) * minute_s / 60 / MIN_SCRAPES, least), most)


def scaled(rules: str, minute_s: float) -> str:
    """The rules of a file with `minute_s` seconds for a minute, as JSON, which is YAML. Raises ValueError."""
    groups, interval = _groups(rules), interval_s(rules, minute_s)
    for group in groups:
        for each in (group, *group["rules"]):
            for key in {"interval", "for", "keep_firing_for"} & each.keys():
                each[key] = _shorter(each[key], minute_s, at_least=interval)
        for rule in group["rules"]:
            rule["expr"] = query_scaled(rule["expr"], minute_s, interval)
    return msgspec.json.encode({"groups": groups}).decode()


def query_scaled(query: str, minute_s: float, interval_s: float) -> str:
    """A query with `minute_s` seconds for a minute, where there is a scrape in each interval."""

    def part(it: re.Match[str]) -> str:
        if it["text"] is not None:
            return it[0]
        if it["offset"]:
            return it["offset"] + _shorter(it["by"], minute_s, at_least=interval_s)
        window = _shorter(it["window"], minute_s, at_least=MIN_SCRAPES * interval_s)
        step = it["step"] and _shorter(it["step"], minute_s, at_least=interval_s)
        return f"[{window}{it['colon']}{step}]"

    def age(it: re.Match[str]) -> str:
        metric, between, most = it.groups()
        return f"{metric}{between}{max(float(most) * minute_s / 60, AGES[metric]):g}"

    return _AGE.sub(age, _PARTS.sub(part, query))


def _shorter(duration: str, minute_s: float, at_least: float) -> str:
    return written(max(seconds(duration) * minute_s / 60, at_least))


def _groups(rules: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = msgspec.yaml.decode(rules)["groups"]
    return groups

"""Drill files: what can be read can be run, and what is wrong is said with its place."""

from pathlib import Path

import pytest

from drills.model import InvalidDrill, Line, Step, merged, read, shipped

GOOD = """
title = "A drill"
alerts = ["FlagstoneBreakerOpen"]

[[timeline]]
at_s = 1
do = "blackhole"
to = "postgres"

[[lines]]
name = "answered"
what = "All is answered."
measure = "failed_share"
at_most = 0

[without]
protection = "breakers"
settings = { "breakers.min_calls" = 1000 }
fails = ["answered"]
"""
INCIDENTS = {"2025-09-29", "2025-10-21", "2025-10-24", "2025-10-28", "2025-10-29", "2026-02-02"}
OTHERS = {
    "stale-replica", "ready-before-evaluable", "redis-restart", "pool-exhaustion", "sdk-retry-storm", "cold-start",
}  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_read__a_file__is_named_after_it(tmp_path: Path) -> None:
    """A drill of one's own needs little, and has defaults for the rest."""
    drill = read(write(tmp_path, GOOD))
    assert (drill.name, drill.title) == ("mine", "A drill")
    assert drill.topology.instances == 2
    assert drill.without is not None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('title = "A drill"', "", "title"),
        ('do = "blackhole"', 'do = "explode"', r"timeline\[0\].do"),
        ("at_s = 1", "at_s = 1000", r"timeline\[0\].at_s: 1000 is not within the drill"),
        ("at_most = 0", "", r"lines\[0\]: nothing is asked"),
        ('measure = "failed_share"', "", r"lines\[0\]: give a measure or a query"),
        ('measure = "failed_share"', 'measure = "failed_share"\nquery = "up"', "give a measure or a query"),
        ('fails = ["answered"]', 'fails = ["other"]', "without.fails: there is no line other"),
        ('settings = { "breakers.min_calls" = 1000 }', "", "without: nothing is turned off"),
        ('do = "blackhole"\nto = "postgres"', 'do = "burn"', r"timeline\[0\].count: how many"),
        ('title = "A drill"', 'title = "A drill"\nminute_s = 0', "minute_s"),
        ('title = "A drill"', 'title = "A drill"\ncolour = "red"', "colour"),
        ('title = "A drill"', "title = ", "mine.toml"),
    ],
)
def test_read__wrong_file__says_what_and_where(tmp_path: Path, old: str, new: str, told: str) -> None:
    """What is wrong with a file ends a drill before anything is started."""
    assert old in GOOD
    with pytest.raises(InvalidDrill, match=told):
        read(write(tmp_path, GOOD.replace(old, new)))


def test_read__lines_of_one_name__are_refused(tmp_path: Path) -> None:
    """A line that is to fail without its protection must be the only one of its name."""
    line = GOOD[GOOD.index("[[lines]]") : GOOD.index("[without]")]
    with pytest.raises(InvalidDrill, match=r"lines\[0\].name: answered is not the only one"):
        read(write(tmp_path, GOOD + line))


def test_read__no_such_file__says_so(tmp_path: Path) -> None:
    """A drill that is not there is an answer, not a traceback."""
    with pytest.raises(InvalidDrill, match="No such file"):
        read(tmp_path / "none.toml")


def test_shipped__every_drill__is_there_and_can_fail() -> None:
    """Each incident has its drill, an alert that must fire, and a protection without which it does not pass."""
    drills = {name: read(path) for name, path in shipped().items()}
    assert set(drills) == {*INCIDENTS, *OTHERS, "control"}
    for name in INCIDENTS | OTHERS:
        drill = drills[name]
        assert drill.without is not None, name
        assert drill.alerts or drill.without.alerts, name
        assert drill.original is not None, name
        assert drill.original.source.startswith("https://")
    assert not drills["control"].alerts
    assert not drills["control"].may_fire


@pytest.mark.parametrize(
    ("value", "holds"), [(0.0, False), (1.0, True), (2.0, True), (2.1, False), (None, False), (float("nan"), False)]
)
def test_line__between_two_bounds__holds_on_both(value: float | None, holds: bool) -> None:
    """What was not measured holds no line."""
    assert Line(name="it", what="It.", measure="p50_ms", at_least=1, at_most=2).holds(value) is holds


def test_step__without_words_of_its_own__tells_what_it_does() -> None:
    """A report can be read without the file."""
    assert str(Step(at_s=0, do="delay", to="redis", seconds=0.2)) == "delay redis seconds=0.2"
    assert str(Step(at_s=0, do="reload", settings={"limits.mode": "off"})) == "reload limits.mode=off"
    assert str(Step(at_s=0, do="delay", to="redis", says="Redis is far away")) == "Redis is far away"


def test_merged__later_settings__win() -> None:
    """Settings of a drill become a tree for a file."""
    assert merged({"redis.ttl_s": 5, "log.level": "info"}, {"redis.ttl_s": 6}) == {
        "redis": {"ttl_s": 6},
        "log": {"level": "info"},
    }

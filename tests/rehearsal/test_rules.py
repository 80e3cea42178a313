"""Alert rules in a drill's time: durations and ages are shorter, everything else is what it was.

Invariant: Prometheus itself is asked what it says of the deployed rules for the shortest minute and the longest.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from drills.prometheus import rules_file
from drills.rules import AGES, INTERVALS_S, MIN_SCRAPES, interval_s, query_scaled, scaled, seconds, written
from drills.servers import NotInstalled, found
from tests.servers import unavailable

DEPLOYED = rules_file().read_text()
_WINDOW = re.compile(r"\[(\w+)\]")


def rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def bare(query: str) -> str:
    """A query without its numbers and durations."""
    return re.sub(r"(?<![\w:])\d[\w.]*", "#", " ".join(query.split()))


def without_durations(query: str) -> str:
    return re.sub(r"\[\w+\]|offset \w+", "", query)


@pytest.mark.parametrize(
    ("duration", "length"),
    [("5m", 300), ("1h30m", 5400), ("90s", 90), ("250ms", 0.25), ("1d", 86_400), (" 2w ", 1_209_600)],
)
def test_seconds__of_a_duration__are_its_length(duration: str, length: float) -> None:
    """Durations are read as Prometheus writes them."""
    assert seconds(duration) == length
    assert seconds(written(length)) == length


@pytest.mark.parametrize("text", ["", "5", "5 m", "m5", "14 * 86400", "1.5h", "5min"])
def test_seconds__of_what_is_no_duration__are_refused(text: str) -> None:
    """What Prometheus would not take either is not guessed at."""
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rate(a[5m])", "rate(a[10s])"),
        ("rate(a[1h30m] offset 1h)", "rate(a[180s] offset 120s)"),
        ("a offset -10m", "a offset -20s"),
        ("max_over_time(rate(a[5m])[30m:1m])", "max_over_time(rate(a[10s])[60s:2s])"),
        ("max_over_time(a[30m:])", "max_over_time(a[60s:])"),
        ('a{path=~"/[5m]/ offset 1h"} > 5', 'a{path=~"/[5m]/ offset 1h"} > 5'),
        (r'a{b="\"[5m]"}[5m]', r'a{b="\"[5m]"}[10s]'),
        ("a - time() < 14 * 86400", "a - time() < 14 * 86400"),
        ("a:rate5m * 300 > 20", "a:rate5m * 300 > 20"),
        ("increase(a[15m]) > 10", "increase(a[30s]) > 10"),
        ("max by (job) (flagstone_snapshot_age_seconds) > 300", "max by (job) (flagstone_snapshot_age_seconds) > 10"),
        ("flagstone_request_duration_seconds > 300", "flagstone_request_duration_seconds > 300"),
    ],
)
def test_query__in_a_thirtieth_of_the_time__has_shorter_durations_only(query: str, expected: str) -> None:
    """Windows, steps, offsets and ages are scaled; texts, dates, counts, rates and latencies are not."""
    assert query_scaled(query, 2.0, 0.5) == expected


def test_query__of_a_minute_that_is_too_short__keeps_room_for_scrapes_and_for_calm_services() -> None:
    """A window has enough scrapes in it for a rate, and an age is above that of a service that does well."""
    assert query_scaled("rate(a[1m] offset 1m)", 0.2, 0.25) == "rate(a[1s] offset 250ms)"
    for metric, least in AGES.items():
        assert query_scaled(f"min({metric}{{a='b'}}) > 30", 0.2, 0.25) == f"min({metric}{{a='b'}}) > {least:g}"


@pytest.mark.parametrize("minute_s", [0.2, 0.5, 2.0, 60.0])
def test_deployed_rules__scaled__are_taken_by_prometheus(minute_s: float, tmp_path: Path) -> None:
    """What a drill is watched with is a file of rules that Prometheus reads."""
    try:
        program = found("promtool")
    except NotInstalled as reason:
        unavailable(str(reason))
    file = tmp_path / "alerts.yml"
    file.write_text(scaled(DEPLOYED, minute_s))
    done = subprocess.run([program, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules(DEPLOYED))} rules found" in done.stdout


@pytest.mark.parametrize("minute_s", [0.2, 2.0])
def test_deployed_rules__scaled__keep_names_labels_and_structure(minute_s: float) -> None:
    """Nobody is woken by other names, or of another severity, in a drill than outside of it."""
    before, after = rules(DEPLOYED), rules(scaled(DEPLOYED, minute_s))
    assert len(before) == len(after)
    for deployed, drilled in zip(before, after, strict=True):
        changed = {"expr", "for"}
        assert {key: value for key, value in deployed.items() if key not in changed} == {
            key: value for key, value in drilled.items() if key not in changed
        }
        assert bare(deployed["expr"]) == bare(drilled["expr"])
        assert ("for" in deployed) == ("for" in drilled)


@pytest.mark.parametrize("minute_s", [0.2, 0.5, 2.0, 10.0])
def test_deployed_rules__scaled__have_every_duration_in_proportion(minute_s: float) -> None:
    """No window and no `for` is left as it was, and none has too few scrapes in it."""
    interval = interval_s(DEPLOYED, minute_s)
    assert INTERVALS_S[0] <= interval <= INTERVALS_S[1]
    for deployed, drilled in zip(rules(DEPLOYED), rules(scaled(DEPLOYED, minute_s)), strict=True):
        pairs = zip(_WINDOW.findall(deployed["expr"]), _WINDOW.findall(drilled["expr"]), strict=True)
        for whole, short in pairs:
            proportional = seconds(whole) * minute_s / 60
            assert seconds(short) == pytest.approx(max(proportional, MIN_SCRAPES * interval), abs=0.001)
        if "for" in deployed:
            assert seconds(drilled["for"]) == pytest.approx(max(seconds(deployed["for"]) * minute_s / 60, interval))


def test_deployed_rules__that_compare_an_age__are_all_scaled_and_no_others() -> None:
    """An age that somebody adds to the rules is not forgotten, and no other number is changed."""
    compared = {
        name for rule in rules(DEPLOYED) for name in re.findall(r"flagstone_\w*(?:age|oldest)_seconds", rule["expr"])
    }
    assert compared == set(AGES)
    for deployed, drilled in zip(rules(DEPLOYED), rules(scaled(DEPLOYED, 12.0)), strict=True):
        is_changed = without_durations(deployed["expr"]) != without_durations(drilled["expr"])
        assert is_changed == any(name in deployed["expr"] for name in AGES)


def test_rules__with_an_interval_or_a_bad_duration__are_scaled_or_refused() -> None:
    """A group's own interval is scaled too; what cannot be read is not left as it is."""
    text = (
        "groups:\n- name: a\n  interval: 1m\n  rules:\n  - {alert: B, expr: 'rate(a[5m]) > 1', keep_firing_for: 10m}\n"
    )
    (group,) = yaml.safe_load(scaled(text, 6.0))["groups"]
    assert (group["interval"], group["rules"][0]["keep_firing_for"]) == ("6s", "60s")
    with pytest.raises(ValueError, match="'5 m' is no duration"):
        scaled(text.replace("[5m]", "[5 m]"), 6.0)

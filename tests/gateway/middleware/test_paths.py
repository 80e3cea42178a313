"""What kind of route a path is one of, and what follows for how it is counted."""

import pytest

from config.edge import ROUTES
from gateway.metrics import ENDPOINTS, PARTITIONS
from gateway.middleware.paths import CAPTURES, Kind, is_managed, kind_of, partition_of


@pytest.mark.parametrize(
    ("path", "kind", "partition"),
    [
        ("/flags", Kind.FLAGS, "flags"),
        ("/flags/", Kind.FLAGS, "flags"),
        ("/decide/", Kind.DECIDE, "flags"),
        ("/flags/definitions", Kind.DEFINITIONS, "definitions"),
        ("/api/feature_flag/local_evaluation/", Kind.DEFINITIONS, "definitions"),
        ("/api/projects/@current/feature_flags/a/b/remote_config", Kind.REMOTE_CONFIG, "definitions"),
        ("/api/projects/1/feature_flags/banner/remote_config/", Kind.REMOTE_CONFIG, "definitions"),
        ("/api/projects/1/feature_flags/banner", Kind.MANAGEMENT, "management"),
        ("/api/projects", Kind.MANAGEMENT, "management"),
        ("/api/surveys/", Kind.CONFIG, "flags"),
        ("/bootstrap", Kind.BOOTSTRAP, "bootstrap"),
        ("/ofrep/v1/evaluate/flags/a/b", Kind.OFREP, "flags"),
        ("/ofrep/v1/stream", Kind.STREAMS, "streams"),
        ("/array/phc_one/config.js", Kind.CONFIG, "flags"),
        ("/_readiness", Kind.READINESS, "flags"),
        ("/_status", Kind.STATUS, "flags"),
        ("/", Kind.ROOT, "flags"),
        ("/flags/nowhere", Kind.OTHER, "flags"),
        ("//flags", Kind.OTHER, "flags"),
        *((path, Kind.CAPTURE, "capture") for path in CAPTURES),
    ],
)
def test_kind_of__path__is_counted_with_its_like(path: str, kind: Kind, partition: str) -> None:
    """Every route is measured under its kind, and has a place among those that must not displace others."""
    assert kind_of(path) is kind
    assert partition_of(path) == partition
    assert is_managed(path) is (kind is Kind.MANAGEMENT)


def test_kinds__all_of_them__are_names_that_settings_and_metrics_know() -> None:
    """No kind is without its time series, and no route that may have rates of its own is without requests."""
    assert {kind.value for kind in Kind} == set(ENDPOINTS)
    assert set(ROUTES) <= {kind.value for kind in Kind}
    assert {partition_of(f"/{kind}") for kind in Kind} <= set(PARTITIONS)

"""docs/sizing.md beside what it is about: settings and manifests. The figures that were measured are bench.sizing's.

Invariant: what the page tells to ask for is what the manifests ask for.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")


def _resources(file: str, component: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "base" / file).read_text(encoding="utf-8"))
    found = next(it for it in documents if it["kind"] in ("Deployment", "StatefulSet"))
    containers = found["spec"]["template"]["spec"]["containers"]
    resources: dict[str, Any] = next(it for it in containers if it["name"] == component)["resources"]
    return resources


@pytest.mark.parametrize(
    ("name", "file", "container"),
    [
        ("gateway", "gateway.yaml", "flagstone"),
        ("builder", "builder.yaml", "flagstone"),
        ("Redis", "redis.yaml", "redis"),
    ],
)
def test_sizing__what_to_ask_for__is_what_the_manifests_ask_for(name: str, file: str, container: str) -> None:
    """Whoever sizes by the page and whoever applies the manifests get the same pods, and no pod a limit on its CPU."""
    resources = _resources(file, container)
    assert f"| {name} | {resources['requests']['cpu']}, no limit | {resources['limits']['memory']} |" in PAGE
    assert "cpu" not in resources["limits"]


def test_sizing__connections__are_those_of_the_pools() -> None:
    """An operator who adds up connections to PostgreSQL adds up what the defaults may open."""
    settings = Settings()
    pools = (settings.definitions_pool, settings.persons_pool, settings.writer_pool)
    each = sum(pool.max_connections for pool in pools) + 1
    assert f"{each} for each worker and each builder." in PAGE
    assert f"| 3 | 2 | {5 * each} |" in PAGE


def test_sizing__plan__is_where_the_autoscaler_acts() -> None:
    """The page plans with the part of a core at which another pod comes."""
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/gateway.yaml").read_text(encoding="utf-8"))
    scaler = next(it for it in documents if it["kind"] == "HorizontalPodAutoscaler")
    percent = scaler["spec"]["metrics"][0]["containerResource"]["target"]["averageUtilization"]
    assert f"**Plan with {percent} %.**" in PAGE

"""deploy/compose: valid for Docker Compose, complete, bounded, and with settings that flagstone takes.

No container is started. Invariant: everything that a file of it names is looked for.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings
from config.sources import load
from gateway.__main__ import _parser
from tests.conftest import ServerProcess
from tests.deploy.rules import promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "flagstone"]
GATEWAYS = [name for name in OURS if SERVICES[name]["command"][0] == "serve"]


def _mounted() -> Iterator[Path]:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                yield FOLDER / source
    yield from (FOLDER / secret["file"] for secret in COMPOSE["secrets"].values())
    yield from (FOLDER / service["build"] / "Dockerfile" for service in SERVICES.values() if "build" in service)


def _settings() -> Settings:
    image = dict(re.findall(r"(FLAGSTONE__\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    secret = {"FLAGSTONE__STORE__URL_FILE": str(FOLDER / "secrets" / "store-url")}
    return load(FOLDER / "flagstone.toml", image | secret, ()).settings


def test_compose__as_it_is__is_what_compose_takes() -> None:
    """The file has the specification's fields and no others, and what it refers to inside itself is there."""
    check = Path(sys.executable).with_name("check-jsonschema")
    command = [check, "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert set(service.get("networks", {})) <= set(COMPOSE["networks"])
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


def test_files__that_are_mounted__are_there() -> None:
    """Whatever a container is given exists; a missing file would be mounted as an empty folder."""
    missing = [path for path in _mounted() if not path.exists()]
    assert missing == []


@pytest.mark.parametrize("name", SERVICES)
def test_service__whatever_it_is__is_bounded_and_watched(name: str) -> None:
    """No container takes the machine, gains rights, fills the disk with its log, or is taken for healthy unasked."""
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert service["cap_drop"] == ["ALL"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert name == "migrate" or service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_settings__of_the_containers__are_accepted_and_name_them() -> None:
    """`flagstone check` passes, and stores and the balancer are where the settings say."""
    settings = _settings()
    assert re.search(r"@(\w+)/", settings.store.url.reveal())[1] == "postgres"
    assert settings.redis.url.reveal() == "redis://redis:6379/0"
    assert str(settings.proxies.trusted) == SERVICES["haproxy"]["networks"]["balanced"]["ipv4_address"]
    assert not settings.builder.is_embedded
    assert {SERVICES[name]["command"][0] for name in OURS} == {"serve", "worker", "migrate"}
    for name in OURS:
        _parser().parse_args(SERVICES[name]["command"])


def test_gateways__behind_the_balancer__have_the_addresses_in_its_file() -> None:
    """deploy/haproxy.cfg is used as it is, and each flagstone can finish what it has in hand."""
    addresses = [f"{SERVICES[name]['networks']['balanced']['ipv4_address']}:8000" for name in GATEWAYS]
    assert re.findall(r"^ *server \w+ (\S+)", (ROOT / "deploy/haproxy.cfg").read_text(), re.MULTILINE) == addresses
    server = Settings().server
    for name in GATEWAYS:
        assert SERVICES[name]["stop_grace_period"] == f"{server.lame_duck_s + server.drain_timeout_s + 5:.0f}s"
        assert not SERVICES[name]["init"], "the supervisor has number 1"
    held = _settings().snapshots
    assert held.max_bytes + held.max_local_bytes + (96 << 20) < int(SERVICES[GATEWAYS[0]]["mem_limit"][:-1]) << 20


def test_prometheus__asks__every_flagstone_and_builder() -> None:
    """Each container's metrics are read, under names of jobs that the alerts hold for, and Grafana reads Prometheus."""
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}
    assert jobs == {"flagstone": [f"{name}:8001" for name in GATEWAYS], "flagstone-worker": ["builder:8001"]}
    given = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{file}" for file in prometheus["rule_files"]} <= set(given)
    source = yaml.safe_load((FOLDER / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    shown = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"][0]["options"]["path"]
    assert shown in [it["target"] for it in SERVICES["grafana"]["volumes"] if isinstance(it, dict)]


def test_prometheus__with_the_alerts_beside_it__is_what_promtool_takes(tmp_path: Path) -> None:
    """The files that Prometheus is given make a configuration, mounted as they are."""
    for file in (FOLDER / "prometheus.yml", ROOT / "deploy" / "prometheus" / "alerts.yml"):
        shutil.copy(file, tmp_path)
    done = promtool("check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_health_checks__of_gateway_and_balancer__find_a_flagstone_that_is_ready(
    start_server: Callable[..., ServerProcess],
) -> None:
    """The commands say yes to a service that is ready, and no where there is none."""
    server = start_server("--demo").wait_until_ready()
    gateway = SERVICES[GATEWAYS[0]]["healthcheck"]["test"]
    balancer = SERVICES["haproxy"]["healthcheck"]["test"]
    assert (gateway[:2], balancer[0]) == (["CMD", "python"], "CMD-SHELL")
    for port, is_well in ((server.port, True), (1, False)):
        commands = (
            [sys.executable, *(word.replace(":8000", f":{port}") for word in gateway[2:])],
            ["sh", "-c", balancer[1].replace("8080", str(port))],
        )
        ran = [subprocess.run(command, capture_output=True, timeout=30, check=False) for command in commands]
        assert [done.returncode == 0 for done in ran] == [is_well, is_well]

"""The manifests in deploy/kubernetes: as kustomize makes them, valid for Kubernetes, and held to flagstone's settings.

No cluster is needed. Invariant: a number that follows from a setting is compared with that setting here.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from config.settings import Settings
from config.sources import load
from tests.conftest import ServerProcess

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RENDERED = ("base", "migrate", "overlays/example", "overlays/example/migrate")
VERSIONS = ("1.32", "1.37")
PATIENCE_S = 30.0

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    """What `kubectl apply -k` would send, by folder."""
    kubectl = Path(sys.executable).with_name("kubectl")

    def render(folder: str) -> list[Manifest]:
        done = subprocess.run(
            [kubectl, "kustomize", FOLDER / folder], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return {folder: render(folder) for folder in RENDERED}


def _named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(it for it in manifests if it["kind"] == kind and it["metadata"]["name"] == name)


def _pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    return (it["spec"]["template"]["spec"] for it in manifests if it["kind"] in {"Deployment", "Job"})


def _container(manifests: list[Manifest], deployment: str, name: str = "flagstone") -> Manifest:
    containers = _named(manifests, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    found: Manifest = next(it for it in containers if it["name"] == name)
    return found


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * {"Mi": 1 << 20, "Gi": 1 << 30}[unit]


def _settings(file: Path, folder: Path) -> Settings:
    """The settings of a pod: those of the image, the file and the secret, without a complaint."""
    secret = folder / "store-url"
    secret.write_text("postgresql://flagstone:secret@192.0.2.20/flagstone\n")
    image = dict(re.findall(r"(FLAGSTONE__\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    return load(file, image | {"FLAGSTONE__STORE__URL_FILE": str(secret)}, ()).settings


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", RENDERED)
def test_manifest__as_rendered__is_what_kubernetes_takes(
    rendered: dict[str, list[Manifest]], folder: str, version: str
) -> None:
    """Every manifest has its schema's fields and no others, in the oldest and the newest version known here."""
    for manifest in rendered[folder]:
        if manifest["kind"] != "PodMonitor":  # Not Kubernetes' own.
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", RENDERED)
def test_pod__whatever_it_runs__may_do_no_more_than_it_must(rendered: dict[str, list[Manifest]], folder: str) -> None:
    """No root, no capabilities, no token, nothing writable but volumes, and a bound on memory and disk."""
    for pod in _pods(rendered[folder]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            resources = container["resources"]
            assert resources["requests"]["cpu"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_image__in_the_manifests__is_run_as_the_dockerfile_says(rendered: dict[str, list[Manifest]]) -> None:
    """User, ports, volume and entry point are those of the image, and each command is one that there is."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    uid, gid = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[-1]
    ports = [int(port) for port in re.findall(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)[0].split()]
    manifests = [*rendered["overlays/example"], *rendered["overlays/example/migrate"]]
    ours = [pod for pod in _pods(manifests) if pod["containers"][0]["name"] == "flagstone"]
    assert {pod["containers"][0]["args"][0] for pod in ours} == {"serve", "worker", "migrate"}
    assert 'ENTRYPOINT ["flagstone"]' in dockerfile
    for pod in ours:
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(uid), int(gid))
        assert len({container["image"] for container in pod["containers"]}) == 1
        assert "command" not in pod["containers"][0]
    gateway = _container(manifests, "gateway")
    assert [port["containerPort"] for port in gateway["ports"]] == ports == [Settings().server.port, 8001]
    assert Settings().metrics.port == ports[1]
    assert {"name": "data", "mountPath": re.findall(r"^VOLUME (.*)$", dockerfile, re.MULTILINE)[0]} in gateway[
        "volumeMounts"
    ]


def test_image__of_service_and_migration__is_the_same(rendered: dict[str, list[Manifest]]) -> None:
    """A release names its image once, so that a schema is never of another release than what uses it."""
    both = [*rendered["overlays/example"], *rendered["overlays/example/migrate"]]
    images = {it["image"] for pod in _pods(both) for it in pod["containers"] if "flagstone" in it["image"]}
    assert len(images) == 1
    assert {it["metadata"]["namespace"] for it in both if it["kind"] != "Namespace"} == {"flagstone"}


@pytest.mark.parametrize("folder", ["base", "overlays/example"])
def test_settings__in_the_config_map__are_accepted_with_the_image_s_own(
    rendered: dict[str, list[Manifest]], folder: str, tmp_path: Path
) -> None:
    """What is mounted passes `flagstone check`, the address of the store coming from the secret's file."""
    data = _named(rendered[folder], "ConfigMap", "flagstone")["data"]
    assert set(data) == {"flagstone.toml", "reload.sh"}
    file = tmp_path / "flagstone.toml"
    file.write_text(data["flagstone.toml"])
    settings = _settings(file, tmp_path)
    assert settings.store.url.is_postgres
    assert not settings.builder.is_embedded
    redis = _named(rendered[folder], "Service", "redis")
    address = f"redis://{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}/0"
    assert settings.redis.url.reveal() == address


def test_gateway__when_it_stops__has_the_time_that_it_needs(rendered: dict[str, list[Manifest]]) -> None:
    """It is killed only after the lame duck, the drain and 5 s; readiness is noticed within the lame duck."""
    server = Settings().server
    pod = _named(rendered["base"], "Deployment", "gateway")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == server.lame_duck_s + server.drain_timeout_s + 5
    probe = _container(rendered["base"], "gateway")["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= server.lame_duck_s


def test_gateway__probes__mean_what_they_are_for(rendered: dict[str, list[Manifest]]) -> None:
    """Readiness takes pods out; only liveness kills them, also at the start, so that no backend's fault does."""
    gateway = _container(rendered["base"], "gateway")
    paths = {it: gateway[it]["httpGet"]["path"] for it in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": "/_liveness", "livenessProbe": "/_liveness", "readinessProbe": "/_readiness",
    }  # fmt: skip
    startup = gateway["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60


def test_gateway__memory__has_room_for_two_workers_and_their_definitions(
    rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    """A worker is replaced before the kernel kills it, and the disk holds what it is allowed to keep."""
    settings = _settings(FOLDER / "base" / "flagstone.toml", tmp_path)
    held = settings.snapshots.max_bytes + settings.snapshots.max_local_bytes + settings.capture.max_buffered_bytes
    gateway = _container(rendered["base"], "gateway")
    base_bytes = 64 << 20
    assert held + base_bytes <= settings.server.max_memory_bytes
    assert 2 * settings.server.max_memory_bytes + base_bytes <= _bytes(gateway["resources"]["limits"]["memory"])
    assert gateway["resources"]["requests"]["cpu"] == str(settings.server.workers)
    assert "cpu" not in gateway["resources"]["limits"]
    data = next(it for it in _volumes(rendered["base"], "gateway") if it["name"] == "data")
    assert settings.disk.max_bytes < _bytes(data["emptyDir"]["sizeLimit"])
    assert _bytes(data["emptyDir"]["sizeLimit"]) < _bytes(gateway["resources"]["limits"]["ephemeral-storage"])


def _volumes(manifests: list[Manifest], deployment: str) -> list[Manifest]:
    volumes: list[Manifest] = _named(manifests, "Deployment", deployment)["spec"]["template"]["spec"]["volumes"]
    return volumes


def test_rollout__of_gateways__never_takes_one_away_first(rendered: dict[str, list[Manifest]]) -> None:
    """A new pod is ready before an old one goes, and a node that is emptied takes one at a time."""
    for name in ("gateway", "builder"):
        strategy = _named(rendered["base"], "Deployment", name)["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert _named(rendered["base"], "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    scaler = _named(rendered["base"], "HorizontalPodAutoscaler", "gateway")["spec"]
    assert scaler["minReplicas"] >= 3
    pools = (Settings().definitions_pool, Settings().persons_pool, Settings().writer_pool)
    listening = 1
    most = sum(pool.max_connections for pool in pools) + listening
    comment = f"Each pod may have {most} connections"
    assert comment in (FOLDER / "base" / "gateway.yaml").read_text()


def test_network__by_default__is_closed_and_opened_for_known_ports(rendered: dict[str, list[Manifest]]) -> None:
    """Nobody talks to anybody but over ports that a container has, name resolution, and the stores."""
    policies = [it for it in rendered["base"] if it["kind"] == "NetworkPolicy"]
    nobody = _named(policies, "NetworkPolicy", "nobody")["spec"]
    assert set(nobody) == {"podSelector", "policyTypes"}
    assert nobody["policyTypes"] == ["Ingress", "Egress"]
    rules = [it for policy in policies for way in ("ingress", "egress") for it in policy["spec"].get(way, [])]
    assert all(rule.get("from") or rule.get("to") for rule in rules), "never from or to everybody"
    assert {port["port"] for rule in rules for port in rule["ports"]} == {"http", "metrics", "redis", 53, 5432, 6379}


def test_redis__full_or_not__stays_within_its_memory(rendered: dict[str, list[Manifest]]) -> None:
    """Redis refuses before the kernel kills it, writes nothing to disk, and throws nothing out."""
    redis = _container(rendered["base"], "redis", "redis")
    arguments = dict(zip(redis["args"][::2], redis["args"][1::2], strict=True))
    assert int(arguments["--maxmemory"].removesuffix("mb")) * 1.3 * (1 << 20) < _bytes(
        redis["resources"]["limits"]["memory"]
    )
    assert (arguments["--maxmemory-policy"], arguments["--save"], arguments["--appendonly"]) == ("noeviction", "", "no")


def test_reload__of_a_mounted_file_that_is_exchanged__puts_it_in_force(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """The script sees a ConfigMap change, survives a wrong one, and ends at once when told to."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    _publish(mounted, 1, "[api]\nis_enabled = true\n")
    server = start_server("--demo", "--config", str(mounted / "flagstone.toml")).wait_until_ready()
    script = _beside(server, tmp_path, mounted)
    try:
        _publish(mounted, 2, "[api]\nis_enabled = perhaps\n")
        _wait_until(lambda: "flagstone_last_reload_good 0" in httpx.get(server.metrics_url).text)
        assert httpx.get(f"{server.url}/api/projects/").status_code != 404
        _publish(mounted, 3, "[api]\nis_enabled = false\n")
        _wait_until(lambda: httpx.get(f"{server.url}/api/projects/").status_code == 404)
        assert script.poll() is None
    finally:
        script.terminate()
        assert script.wait(PATIENCE_S) == 0


def _beside(server: ServerProcess, tmp_path: Path, mounted: Path) -> subprocess.Popen[bytes]:
    """The script as the sidecar runs it: in the folder that the service runs in."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folder = os.readlink(f"/proc/{server.pid}/cwd")
    command = ["sh", FOLDER / "base" / "reload.sh", mounted / "flagstone.toml"]
    with (tmp_path / "reload.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PATH": path, "PAUSE_S": "0.2"}, stdout=log, stderr=log
        )


def _publish(mounted: Path, number: int, text: str) -> None:
    """Does what the kubelet does: a new folder, and a link to it exchanged in one step."""
    folder = mounted / f"..{number}"
    folder.mkdir()
    (folder / "flagstone.toml").write_text(text)
    (mounted / "..new").symlink_to(folder.name)
    (mounted / "..new").rename(mounted / "..data")
    if not (mounted / "flagstone.toml").is_symlink():
        (mounted / "flagstone.toml").symlink_to("..data/flagstone.toml")


def _wait_until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.1)

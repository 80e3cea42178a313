"""How the service stands, as its operators and its callers are told by real processes."""

from typing import Any

import httpx

from gateway.server.control import ask
from tests.processes.clients import PATIENCE_S
from tests.processes.conftest import Serve, Service, wait_until


def status(service: Service) -> dict[str, Any]:
    """What operators are told."""
    url = service.server.metrics_url.replace("/metrics", "/_status")
    told: dict[str, Any] = httpx.get(url, timeout=PATIENCE_S).raise_for_status().json()
    return told


def part(service: Service, name: str) -> dict[str, Any]:
    (found,) = [it for it in status(service)["parts"] if it["name"] == name]
    assert isinstance(found, dict)
    return found


def test_status__two_workers__are_told_of_as_one_service(serve: Serve, engine: str) -> None:
    """metrics.port: whichever worker is asked, all of them and their supervisor are in the answer."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    wait_until(lambda: status(service)["status"] == "ok", "the service stands well")
    told = status(service)
    assert {it["worker"]: it["pid"] for it in told["workers"]} == service.workers()
    assert [it["status"] for it in told["workers"]] == ["ok", "ok"]
    assert (told["generation"], told["last_reload"], told["callers_see"]) == (0, None, [])
    public = httpx.get(f"{service.server.url}/_status", headers={"Accept": "text/html"}, timeout=PATIENCE_S)
    assert public.headers["content-type"].startswith("text/html")
    assert str(told["workers"][0]["pid"]) not in public.text


def test_status__reload_refused_and_taken__follows(serve: Serve, engine: str) -> None:
    """What is wrong with the settings stands there until they are good again; callers do not notice."""
    service = serve(f"server.engine={engine}", "server.workers=1")
    service.settings(requests={"max_body_bytes": -1})
    ask(str(service.folder / "control"), "reload", PATIENCE_S)
    refused = part(service, "reload")
    assert refused["status"] == "degraded"
    assert "requests.max_body_bytes" in refused["why"]
    assert httpx.get(f"{service.server.url}/_status", timeout=PATIENCE_S).json()["status"] == "ok"
    service.settings(log={"sample_ratio": 0.5})
    ask(str(service.folder / "control"), "reload", PATIENCE_S)
    told = status(service)
    assert (told["status"], told["last_reload"]["result"], told["generation"]) == ("ok", "changed", 1)
    assert [it["generation"] for it in told["workers"]] == [1]

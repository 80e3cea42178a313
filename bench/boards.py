"""Pictures of the Grafana boards and of the status page, of real servers under load: healthy, and without PostgreSQL.

No Grafana is asked: panels.py draws what a real Prometheus answers to the queries of panels, and a browser takes the
pictures. Invariant: whatever is started here is stopped here, and pictures are written only once all of them are taken.

    python -m bench.boards
"""

import argparse
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from bench.panels import WIDTH, Series, page
from deploy.grafana.boards import SOURCES, board
from drills import contents
from drills.load.plan import LoadPlan
from drills.meddling import Meddling
from drills.model import Drill, Topology
from drills.stage import Stage, standing
from tests.clients.browser_session import program

IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
DRILL: Final = Drill(
    title="Boards",
    minute_s=4,
    topology=Topology(has_builder=True, settings={"quota.project": "10000000/day"}),
    lines=(),
)
RATE: Final = 80.0
HEALTHY_S, WITHOUT_S, AFTER_S = 60.0, 40.0, 30.0
CALM_S: Final = 600.0
"""How long a machine may take that is busy with other things, until no alert fires."""
BUSY: Final = (
    'count(ALERTS{alertstate="firing"}) '
    'or max(rate(flagstone_pressure_seconds_total{resource="cpu", kind="some"}[10s])) > 0.25'
)
SPAN_S: Final = 180.0
"""How much of the past is in a picture."""
OF_DETAIL: Final = {
    "board-requests.png": ("Requests", "Time to answer"),
    "board-stores.png": ("Definitions and their caches", "Stores, breakers, pools"),
    "board-protection.png": ("CPU, memory, descriptors", "Admission"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.boards", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=IMAGES, help="where to put them (default: docs/images)")
    folder: Path = parser.parse_args().folder
    with ExitStack() as opened:
        stage = opened.enter_context(standing(DRILL, {}, DRILL.topology.check, print))
        browser = opened.enter_context(_browser())
        pictures = Photographer(browser, stage).take(opened)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
        print(f"{folder / name}: {len(picture) / 1024:.0f} KiB")


class Photographer:
    """Takes all pictures of a stage, while things happen to it."""

    def __init__(self, browser: Browser, stage: Stage) -> None:
        self._browser = browser
        if stage.prometheus is None:
            raise SystemExit(stage.missing[0])
        self._prometheus = stage.prometheus
        self._stage = stage
        self._boards = {path.stem: board(path.read_text()) for path in SOURCES}
        self._began = time.time()

    def take(self, opened: ExitStack) -> dict[str, bytes]:
        """PNGs by the names of their files."""
        proxies = self._stage.proxies["postgres"]
        others = opened.enter_context(Meddling())
        others.edit(self._stage.postgres.url(), 0.5)
        opened.enter_context(_load(self._stage))
        _wait(HEALTHY_S, "nothing happens")
        self._wait_until_calm()
        taken = {"board.png": self._state("All is well."), "status.png": self._status()}
        for proxy in proxies:
            proxy.set("refuse")
        _wait(WITHOUT_S, "without PostgreSQL")
        says = f"PostgreSQL has been gone for {WITHOUT_S:.0f} s."
        taken |= {"board-degraded.png": self._state(says), "status-degraded.png": self._status()}
        for proxy in proxies:
            proxy.heal()
        _wait(AFTER_S, "PostgreSQL is back")
        return taken | {name: self._detail(rows) for name, rows in OF_DETAIL.items()}

    def _wait_until_calm(self) -> None:
        """What is shown as well is well."""
        ends_at = time.monotonic() + CALM_S
        while self._prometheus.value(BUSY, time.time()):
            if time.monotonic() > ends_at:
                raise SystemExit("This machine is too busy for pictures of a service that is well.")
            time.sleep(1)

    def _state(self, says: str) -> bytes:
        return self._shown(self._boards["flagstone"], says)

    def _detail(self, rows: tuple[str, ...]) -> bytes:
        says = f"PostgreSQL was gone for {WITHOUT_S:.0f} s, until {AFTER_S:.0f} s ago."
        return self._shown(_only(self._boards["flagstone-detail"], rows), says)

    def _shown(self, of: dict[str, Any], says: str) -> bytes:
        now = time.time()
        span = (max(self._began, now - SPAN_S), now)
        found = {it["id"]: self._found(it, span) for it in of["panels"] if it["type"] != "row"}
        return self._picture(html=page(of, found, span, says))

    def _found(self, panel: dict[str, Any], span: tuple[float, float]) -> list[Series]:
        api = f"http://127.0.0.1:{self._prometheus.port}/api/v1"
        found = []
        for target in panel["targets"]:
            query = target["expr"].replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "10s")
            if target["instant"]:
                answer = httpx.get(f"{api}/query", params={"query": query, "time": span[1]}, timeout=30).json()
            else:
                asked = {"query": query, "start": span[0], "end": span[1], "step": 1}
                answer = httpx.get(f"{api}/query_range", params=asked, timeout=30).json()
            for it in answer["data"]["result"]:
                points = ((at, float(value)) for at, value in it.get("values") or [it["value"]])
                known = tuple(point for point in points if point[1] == point[1])
                if known:
                    found.append(Series(_named(target["legendFormat"], it["metric"]), it["metric"], known))
        return found

    def _status(self) -> bytes:
        address = self._stage.instances[0].metrics
        return self._picture(url=f"http://{address}/_status?format=html", width=1200)

    def _picture(self, html: str = "", url: str = "", width: int = WIDTH) -> bytes:
        opened = self._browser.new_page(viewport={"width": width, "height": 400})
        try:
            opened.goto(url) if url else opened.set_content(html)
            return _small(opened.screenshot(full_page=True))
        finally:
            opened.close()


def _only(of: dict[str, Any], rows: tuple[str, ...]) -> dict[str, Any]:
    """The board with these rows, which follow each other, and nothing else."""
    kept: list[dict[str, Any]] = []
    is_kept = False
    for panel in of["panels"]:
        is_kept = panel["title"] in rows if panel["type"] == "row" else is_kept
        if is_kept:
            kept.append(panel)
    top = min(it["gridPos"]["y"] for it in kept)
    return of | {"panels": [it | {"gridPos": it["gridPos"] | {"y": it["gridPos"]["y"] - top}} for it in kept]}


def _named(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def _small(picture: bytes) -> bytes:
    """The picture in as many colours as a board needs, a third as large."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2)
    image.save(small := io.BytesIO(), "PNG", optimize=True)
    return small.getvalue()


def _wait(seconds: float, what: str) -> None:
    print(f"{what}: {seconds:.0f} s")
    time.sleep(seconds)


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=["--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def _load(stage: Stage) -> Iterator[None]:
    """Requests for flags by many addresses, and a few of every other kind, until this is left."""
    plan = LoadPlan(
        url=f"{stage.url}/flags?v=2", phases=((HEALTHY_S + CALM_S + WITHOUT_S + AFTER_S, RATE),),
        bodies=tuple(contents.bodies(DRILL.contents)), sources=tuple(f"127.1.{number}.1" for number in range(1, 51)),
    )  # fmt: skip
    file = stage.folder / "plan.json"
    file.write_bytes(msgspec.json.encode(plan))
    stopped = threading.Event()
    others = threading.Thread(target=_ask_otherwise, args=(stage.url, stopped))
    command = [sys.executable, "-m", "drills.load", "--plan", str(file), "--json"]
    generator = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    others.start()
    try:
        yield
    finally:
        stopped.set()
        generator.kill()
        generator.wait()
        others.join()


def _ask_otherwise(url: str, stopped: threading.Event) -> None:
    token = contents.token(1)
    header = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, timeout=5) as client:
        while not stopped.wait(0.1):
            with suppress(httpx.TransportError):
                client.post("/ofrep/v1/evaluate/flags", json={"context": {"targetingKey": "u1"}}, headers=header)
                client.get(f"/array/{token}/config")
                client.post("/e/", json={"api_key": token, "event": "seen", "distinct_id": "u1"})


if __name__ == "__main__":
    main()

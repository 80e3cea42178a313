"""A real Prometheus that watches a drill, with the alert rules that are deployed, in the drill's time.

What the rules become in that time is rules.py's. Invariant: it is asked on loopback only, and each question ends.
"""

import http.client
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from drills.results import Alerted
from drills.rules import interval_s, scaled, written
from drills.servers import PATIENCE_S, CannotStart, Server, found

_MAX_POINTS: Final = 10_000
"""Of a curve. Prometheus refuses more than 11,000."""
_TIMEOUT_S: Final = 10.0


class WrongQuery(Exception):
    """A query that Prometheus does not take; the text is what it says."""


def rules_file() -> Path:
    """The alert rules: of the checkout, or those that an installed package has with it."""
    installed = Path(__file__).with_name("deploy") / "alerts.yml"
    return installed if installed.is_file() else Path(__file__).parents[1] / "deploy/prometheus/alerts.yml"


class Prometheus(Server):
    """Prometheus that scrapes these addresses, by job: {"flagstone": ["127.0.0.1:8001"]}. Raises NotInstalled."""

    def __init__(self, targets: Mapping[str, Sequence[str]], minute_s: float) -> None:
        program = found("prometheus")
        super().__init__("prometheus")
        rules = rules_file().read_text(encoding="utf-8")
        self.interval_s = interval_s(rules, minute_s)
        self.write("alerts.yml", scaled(rules, minute_s))
        self._targets = {job: list(addresses) for job, addresses in targets.items()}
        file = self._configure()
        self._command: list[str | Path] = [
            program, f"--config.file={file}", f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            "--storage.tsdb.retention.time=6h", "--scrape.discovery-reload-interval=100ms", "--log.level=warn",
        ]  # fmt: skip

    def start(self) -> None:
        """Returns once each address has been scraped, well or not, and the rules are in force.

        It scrapes from about five seconds after it began, whatever is asked of it. With rules before that, an alert for
        want of all metrics would be the first thing to fire.
        """
        self._configure()
        self.launch(self._command, self._is_ready)
        addresses = sum(map(len, self._targets.values()))
        self._wait_until(lambda: self.value("count(up)", time.time()) == addresses, "has not scraped everybody")
        self._configure(rule_files=["alerts.yml"])
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)
        self._wait_until(lambda: self._asked("rules")["groups"], "has not read the rules")

    def value(self, query: str, at: float) -> float | None:
        """The sum of what a query finds at a moment, None if that is nothing. Raises WrongQuery."""
        data = self._asked("query", query=query, time=at)
        if data["resultType"] == "scalar":
            return float(data["result"][1])
        values = [float(series["value"][1]) for series in data["result"]]
        return sum(values) if values else None

    def curve(self, query: str, begins: float, ends: float) -> list[tuple[float, float]]:
        """The same at each evaluation between two moments; where nothing is found there is no point."""
        sums: dict[float, float] = {}
        for series in self._series(query, begins, ends):
            for at, value in series["values"]:
                sums[at] = sums.get(at, 0.0) + float(value)
        return sorted((at, value) for at, value in sums.items() if math.isfinite(value))

    def alerted(self, begins: float, ends: float) -> list[Alerted]:
        """The alerts that fired between two moments, each time that they did; of all instances together."""
        step, times = self._step(begins, ends), []
        for series in self._series('count by (alertname, severity) (ALERTS{alertstate="firing"})', begins, ends):
            name, severity = series["metric"]["alertname"], series["metric"]["severity"]
            for from_s, until_s in _stretches([at for at, _ in series["values"]], 1.5 * step):
                is_over = until_s + 1.5 * step < ends
                times.append(Alerted(name, severity, from_s, until_s if is_over else None))
        return sorted(times, key=lambda it: it.from_s)

    def _configure(self, **rules: list[str]) -> Path:
        interval = written(self.interval_s)
        jobs = [{"job_name": job, "static_configs": [{"targets": them}]} for job, them in self._targets.items()]
        times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        configuration = {"global": times, "scrape_configs": jobs, **rules}
        return self.write("prometheus.yml", msgspec.json.encode(configuration))  # JSON is YAML.

    def _wait_until(self, is_so: Callable[[], object], otherwise: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > ends_at:
                raise CannotStart(f"{self.name} {otherwise}:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def _step(self, begins: float, ends: float) -> float:
        return max(self.interval_s, (ends - begins) / _MAX_POINTS)

    def _series(self, query: str, begins: float, ends: float) -> list[dict[str, Any]]:
        asked = self._asked("query_range", query=query, start=begins, end=ends, step=self._step(begins, ends))
        series: list[dict[str, Any]] = asked["result"]
        return series

    def _asked(self, what: str, **parameters: str | float) -> dict[str, Any]:
        status, body = self._got(f"/api/v1/{what}?{urlencode(parameters)}")
        told = msgspec.json.decode(body)
        if status != 200:
            raise WrongQuery(f"{parameters.get('query', what)}: {told['error']}")
        data: dict[str, Any] = told["data"]
        return data

    def _is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self._got("/-/ready")[0] == 200
        return False

    def _got(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _stretches(times: Sequence[float], gap_s: float) -> list[tuple[float, float]]:
    """Where moments follow each other without a gap: the first and the last of each stretch."""
    stretches: list[tuple[float, float]] = []
    for at in times:
        if stretches and at - stretches[-1][1] <= gap_s:
            stretches[-1] = (stretches[-1][0], at)
        else:
            stretches.append((at, at))
    return stretches

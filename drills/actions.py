"""What is done to a stage while load goes on: faults, restarts, reloads, edits, and processes that take the CPU away.

When it is done is run.py's. Invariant: what an action keeps going ends with `close`, also when the drill breaks off.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from drills.faults import FaultProxy, Mode
from drills.flagstone import Instance
from drills.meddling import Meddling
from drills.model import Step, merged
from drills.servers import Server
from drills.stage import PATIENCE_S, Stage

SPIN: Final = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
"""Takes a core for as long as whoever started it is there."""
FAULTS: Final = ("delay", "blackhole", "refuse", "reset", "bandwidth", "heal")


class Actions:
    """Does steps to a stage. Methods block until it is done; several may be under way at once."""

    def __init__(self, stage: Stage, others: Meddling) -> None:
        self._stage = stage
        self._others = others
        self._burning: list[subprocess.Popen[bytes]] = []
        self.ready_s: list[float] = []
        """How long each flagstone took that was started here."""

    def do(self, step: Step) -> None:
        """Do this now; raises ValueError for what there is not."""
        if step.do in FAULTS:
            for proxy in self._proxies(step.to):
                if step.do == "heal":
                    proxy.heal()
                else:
                    proxy.set(
                        cast("Mode", step.do), seconds=step.seconds, jitter=step.jitter, bytes_per_s=step.bytes_per_s
                    )
            return
        others: dict[str, Callable[[Step], None]] = {
            "stop": self._stop, "start": self._start, "kill": self._kill, "restart": self._restart,
            "reload": self._reload, "sql": self._sql, "redis": self._redis, "hold": self._hold,
            "release": self._release, "burn": self._burn, "calm": self._calm, "edit": self._edit, "still": self._still,
        }  # fmt: skip
        others[step.do](step)

    def close(self) -> None:
        """End whatever goes on by itself."""
        self._calm()

    def _proxies(self, to: str) -> list[FaultProxy]:
        """All before "postgres", or that of one instance, "postgres.2", or of the builder, "postgres.builder"."""
        kind, _, which = to.partition(".")
        proxies = self._stage.proxies.get(kind)
        if not proxies:
            raise ValueError(f"There are no proxies before {kind}.")
        if not which:
            return proxies
        return [proxies[-1 if which == "builder" else int(which) - 1]]

    def _flagstones(self, to: str) -> list[Instance]:
        """Those named "instances", "instance.2" or "builder"; none for anything else."""
        kind, _, which = to.partition(".")
        if kind == "builder" and self._stage.builder:
            return [self._stage.builder]
        if kind == "instance":
            return [self._stage.instances[int(which) - 1]]
        return self._stage.instances if kind == "instances" else []

    def _server(self, to: str) -> Server:
        servers: dict[str, Server | None] = {
            "postgres": self._stage.postgres, "redis": self._stage.redis, "pgbouncer": self._stage.pgbouncer,
        }  # fmt: skip
        if (server := servers.get(to)) is None:
            raise ValueError(f"There is no {to}.")
        return server

    def _stop(self, step: Step) -> None:
        if flagstones := self._flagstones(step.to):
            _at_once([flagstone.stop for flagstone in flagstones])
        else:
            self._server(step.to).stop()

    def _start(self, step: Step) -> None:
        if flagstones := self._flagstones(step.to):
            for flagstone in flagstones:
                flagstone.start()
            for flagstone in flagstones:
                self._await(flagstone)
        else:
            cast("Any", self._server(step.to)).start()

    def _kill(self, step: Step) -> None:
        for flagstone in self._flagstones(step.to):
            flagstone.kill()

    def _restart(self, step: Step) -> None:
        """Servers at once; flagstones one after the other, each once the one before is ready, as a roll-out does."""
        for flagstone in self._flagstones(step.to):
            flagstone.stop()
            flagstone.start()
            self._await(flagstone)
        if not self._flagstones(step.to):
            self._server(step.to).stop()
            cast("Any", self._server(step.to)).start()

    def _await(self, flagstone: Instance) -> None:
        self.ready_s.append(flagstone.wait_until_ready(PATIENCE_S))

    def _reload(self, step: Step) -> None:
        for flagstone in self._flagstones(step.to or "instances"):
            flagstone.reload(merged(step.settings))

    def _sql(self, step: Step) -> None:
        self._stage.postgres.execute(*step.statements)

    def _redis(self, step: Step) -> None:
        if self._stage.redis is None:
            raise ValueError("There is no redis.")
        with self._stage.redis.client() as client:
            for command in step.statements:
                client.execute_command(*command.split())

    def _hold(self, step: Step) -> None:
        server = cast("Any", self._server(step.to or "postgres"))
        held = self._others.hold(server.url(), step.count)
        if not held:
            raise ValueError(f"{step.to} gave no connection.")

    def _release(self, _: Step) -> None:
        self._others.release()

    def _burn(self, step: Step) -> None:
        for _ in range(step.count):
            self._burning.append(subprocess.Popen([sys.executable, "-c", SPIN]))

    def _calm(self, _: Step | None = None) -> None:
        for process in self._burning:
            process.kill()
            process.wait(5)
        self._burning.clear()

    def _edit(self, step: Step) -> None:
        self._others.edit(self._stage.postgres.url(), step.per_s)

    def _still(self, _: Step) -> None:
        self._others.still()


def _at_once(works: Sequence[Callable[[], Any]]) -> None:
    """Do all of them at the same time, until all are done."""
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(work) for work in works]:
            done.result()

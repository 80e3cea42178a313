"""A released Node client in a process of its own, which is told what to call line by line.

Invariant: whoever waits for it does so for a bounded time, and the process never outlives its test.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).parent / "node"
PATIENCE_S = 30.0


class NodeFailed(Exception):
    """What the client raised, as text."""


class NodeClient:
    """`client.getFeatureFlag("beta", "ada")` is that call in Node; None stands for undefined too."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._told(call=name, arguments=arguments)

    def _told(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        answer = json.loads(line or '{"error": "no answer"}')
        if "error" in answer:
            raise NodeFailed(answer["error"])
        return answer.get("value")


@contextmanager
def node_client(kind: str, *arguments: Any) -> Iterator[NodeClient]:
    """A client of this kind: see node/session.mjs."""
    process = subprocess.Popen(
        [node_with("posthog-node", "@openfeature/ofrep-provider"), "session.mjs"],
        cwd=NODE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        client = NodeClient(process)
        client._told(client=kind, arguments=arguments)
        yield client
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def node_with(*packages: str) -> str:
    """Where node is. Skips the test, or fails it in CI, unless these packages are there; `make` installs them."""
    node = shutil.which("node")
    missing = [package for package in packages if not (NODE / "node_modules" / package).is_dir()]
    if node is None or missing:
        message = f"{', '.join(missing) or 'node'} for tests/clients/node is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return node

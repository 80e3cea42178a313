"""Replacing workers under load, whoever asks for it: clients notice nothing, and there is never one too few or many."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.processes.clients import PATIENCE_S
from tests.processes.conftest import Serve, Service, is_alive, wait_until


@contextmanager
def one_at_a_time(service: Service, workers: int) -> Iterator[None]:
    """Looks at the workers meanwhile: as many as asked for answer, and one more at most is on its way."""
    is_over = threading.Event()
    seen: set[tuple[int, int]] = set()

    def look() -> None:
        while not is_over.wait(0.01):
            states = [it["state"] for it in service.status()]
            seen.add((sum(it in ("accepting", "ready") for it in states), sum(it != "leaving" for it in states)))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join(PATIENCE_S)
    assert min(answering for answering, _ in seen) >= workers, seen
    assert max(there for _, there in seen) == workers + 1, seen


@pytest.mark.parametrize(("workers", "how"), [(1, "signal"), (2, "command")])
def test_restart__under_load__is_noticed_by_no_client(serve: Serve, engine: str, workers: int, how: str) -> None:
    """server.workers, server.engine, server.control_path: each is replaced, one at a time, and every request answered.

    A kept connection of a leaving worker is closed with an answer that says so, never before one.
    """
    service = serve(f"server.engine={engine}", f"server.workers={workers}")
    old = set(service.workers().values())
    with service.load() as load, one_at_a_time(service, workers):
        if how == "signal":
            service.server.tell(signal.SIGUSR2)
            wait_until(lambda: not any(map(is_alive, old)), "all old workers gone")
        else:
            assert service.command("restart", "--wait") == (0, "Every worker was replaced.\n")
            assert not any(map(is_alive, old))
        load.goes_on()
    assert load.is_perfect, load
    new = set(service.workers().values())
    assert len(new) == workers
    assert not new & old
    assert service.metric("worker_replacements_total", 'reason="roll",result="done"') == workers
    assert service.stopped() == 0


@pytest.mark.parametrize(
    ("workers", "setting", "reason"), [(2, "max_requests=300", "max_requests"), (1, "max_memory_bytes=1", "memory")]
)
def test_worker__that_has_had_its_time__is_replaced_unnoticed(
    serve: Serve, engine: str, workers: int, setting: str, reason: str
) -> None:
    """server.max_requests, server.max_memory_bytes: a worker beyond either makes room for a new one, all the time."""
    service = serve(f"server.engine={engine}", f"server.workers={workers}", f"server.{setting}")
    old = set(service.workers().values())
    with service.load() as load, one_at_a_time(service, workers):
        wait_until(lambda: not any(map(is_alive, old)), "all old workers gone")
        load.goes_on()
    assert load.is_perfect, load
    assert service.metric("worker_replacements_total", f'reason="{reason}",result="done"') >= workers
    assert service.stopped() == 0


def test_sigterm__amid_a_restart__leaves_nothing(serve: Serve, engine: str) -> None:
    """server.workers: a worker that is on its way when the service is stopped does not outlive it."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    service.server.tell(signal.SIGUSR2)
    found: set[int] = set()

    def starting() -> bool:
        found.update(it["pid"] for it in service.status())
        return len(found) == 3

    wait_until(starting, "a third worker")
    assert service.stopped() == 0
    wait_until(lambda: not any(map(is_alive, found)), "all workers gone")

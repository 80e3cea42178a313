"""Reloading settings under load: all of a file in all workers, or nothing of it in any, and nobody is cut off.

Which settings can be reloaded is tested where they are. The probe is the bound on bodies, which every worker shows.
"""

import os
import signal
from contextlib import suppress

import httpx

from gateway.server.control import ask
from gateway.server.supervisor import Outcome
from tests.processes.clients import PATIENCE_S
from tests.processes.conftest import Serve, Service, wait_until

LOW, MIDDLE, HIGH = 2000, 3000, 4000
ROUNDS = 20
BROKEN: dict[str, dict[str, object]] = {
    "requests": {"max_body_bytes": -1, "colour": "red"},
    "log": {"level": "loud"},
}


def takes_middle(service: Service) -> set[bool]:
    """Whether workers take a body of middling size, as seen on several new connections."""
    seen = set()
    with httpx.Client(headers={"Connection": "close"}, verify=False, timeout=PATIENCE_S) as client:
        for _ in range(6):
            with suppress(httpx.TransportError):  # Its worker was killed.
                seen.add(client.post(f"{service.server.url}/flags", content=b" " * MIDDLE).status_code != 413)
    return seen


def reload(service: Service) -> Outcome:
    """What becomes of a reload."""
    outcome = ask(str(service.folder / "control"), "reload", PATIENCE_S).reload
    assert outcome is not None
    return outcome


def set_bound(service: Service, max_body_bytes: int) -> None:
    service.settings(requests={"max_body_bytes": max_body_bytes})


def test_reload__good_file__is_in_force_everywhere_and_cuts_nobody_off(serve: Serve, engine: str) -> None:
    """server.control_path, server.workers: the command tells what changed, and what waits for a restart."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    old = service.workers()
    service.settings(
        requests={"max_body_bytes": LOW},
        log={"level": "error"},
        limits={"max_keys": 12_345},
        disk={"max_bytes": 7},
    )
    with service.load() as load:
        code, told = service.command("reload", "--wait")
        assert takes_middle(service) == {False}
        set_bound(service, HIGH)
        service.server.tell(signal.SIGHUP)
        wait_until(lambda: takes_middle(service) == {True}, "settings in force after the signal")
        load.goes_on()
    assert code == 0
    assert set(told.splitlines()) == {
        "changed: requests.max_body_bytes", "changed: log.level", "changed: limits.max_keys",
        "needs a restart of the service: disk.max_bytes", "The new settings are in force.",
    }  # fmt: skip
    assert load.is_perfect, load
    assert service.workers() == old
    assert service.metric("reloads_total", 'result="changed"') == 2


def test_reload__bad_file__changes_nothing_and_tells_every_problem(serve: Serve, engine: str) -> None:
    """server.control_path: the command and the log have all the problems, and the service goes on as it was."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    set_bound(service, LOW)
    assert reload(service).result == "changed"
    service.settings(**BROKEN)
    with service.load() as load:
        code, told = service.command("reload", "--wait")
        assert takes_middle(service) == {False}
        load.goes_on()
    assert load.is_perfect, load
    assert code == 1
    logged = [event["problem"] for event in service.events("settings_problem")]
    assert len(logged) == 3
    for path, problem in zip(("log.level", "requests.colour", "requests.max_body_bytes"), sorted(logged), strict=True):
        assert f"problem: {path}: " in told
        assert problem.startswith(f"{path}: ")
    assert told.endswith("Nothing was changed.\n")
    assert service.metric("reloads_total", 'result="refused"') == 1
    assert service.metric("last_reload_good") == 0


def test_reload__again_and_again_amid_losses__is_all_or_nothing(serve: Serve, engine: str) -> None:
    """server.workers: after each reload all agree, also those that are new, and a broken file reaches none of them."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    takes = True
    with service.load(kept=3, anew=2) as load:
        for number in range(ROUNDS):
            if number in (3, 9):
                os.kill(min(service.workers().values()), signal.SIGKILL)
            if number == 14:
                service.server.tell(signal.SIGUSR2)
            if number % 5 == 4:
                service.settings(**BROKEN)
                assert reload(service).result == "refused"
            else:
                set_bound(service, LOW if takes else HIGH)
                if reload(service).is_good:  # Else a worker died amid it, and all was left as it had been.
                    takes = not takes
            assert takes_middle(service) <= {takes}
        wait_until(lambda: len(service.workers()) == 2, "two workers")
        assert takes_middle(service) == {takes}
        load.goes_on()
    assert set(load.statuses) == {200}, load
    assert not load.refused, load
    assert service.stopped() == 0

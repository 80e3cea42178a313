"""`flagstone reload`, `restart` and `status`: tell a running service, and say what became of it."""

from argparse import Namespace

import msgspec

from config.sources import Loaded
from gateway.commands import CommandFailed
from gateway.server.control import Answer, ask, tell

_RESULTS = {
    "changed": "The new settings are in force.",
    "unchanged": "Nothing that can be reloaded has changed.",
}


def reload(loaded: Loaded, args: Namespace) -> int:
    answer = _ask(loaded, "reload", args)
    if answer is None or answer.reload is None:
        return 0
    outcome = answer.reload
    for problem in outcome.problems:
        print(f"problem: {problem}")
    for path in outcome.changed:
        print(f"changed: {path}")
    for path in outcome.needs_restart:
        print(f"needs a restart of the service: {path}")
    print(_RESULTS.get(outcome.result, "Nothing was changed."))
    return 0 if outcome.is_good else 1


def restart(loaded: Loaded, args: Namespace) -> int:
    answer = _ask(loaded, "restart", args)
    if answer is None:
        return 0
    if not answer.is_rolled:
        raise CommandFailed("A new worker did not become ready; the old ones go on. The service's log says more.")
    print("Every worker was replaced.")
    return 0


def status(loaded: Loaded, args: Namespace) -> int:
    answer = _ask(loaded, "status", args)
    if answer is None or answer.status is None:
        return 1
    status = answer.status
    if args.json:
        print(msgspec.json.encode(status).decode())
        return 0
    print(f"settings generation {status.generation}")
    for worker in status.workers:
        print(f"worker {worker.worker}: pid {worker.pid}, {worker.state}, {worker.age_s} s old")
    return 0


def _ask(loaded: Loaded, command: str, args: Namespace) -> Answer | None:
    """What the service answers; None when nobody wants to wait for that."""
    path = loaded.settings.server.control_path
    if not path:
        raise CommandFailed("server.control_path is empty: the service listens to signals only.")
    try:
        if not getattr(args, "wait", True):
            tell(path, command)
            print("The service was told; its log will say what became of it.")
            return None
        return ask(path, command, args.timeout)
    except TimeoutError:
        raise CommandFailed(f"No answer within {args.timeout:g} s; the service goes on with it.") from None
    except OSError as error:
        raise CommandFailed(f"No service listens at {path}: {error.strerror or error}") from None

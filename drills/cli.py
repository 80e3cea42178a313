"""What `flagstone drill list` and `flagstone drill run` do: say which drills there are, run them, write their reports.

Invariant: nothing is started before all that was asked for is known to be a drill; what was started is stopped however
a drill ends, also by Ctrl-C or SIGTERM.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from drills import report
from drills.model import Drill, InvalidDrill, read, shipped
from drills.needs import needs
from drills.report import tables
from drills.report.tables import Table
from drills.report.terminal import columns
from drills.results import Result
from drills.servers import CannotStart, NotInstalled

PASSED: Final = 0
NOT_PASSED: Final = 1
USAGE: Final = 2
ALL: Final = "all"


class Runs(Protocol):
    """What runs a drill; raises NotInstalled, CannotStart."""

    def __call__(self, drill: Drill, say: Callable[[str], None], *, with_without: bool) -> Result: ...


def show_list() -> int:
    """Print the drills that come with flagstone, and what this machine has not got for them."""
    drills = [read(path) for path in shipped().values()]
    rows = [(drill.name, drill.title, _duration(drill), ", ".join(map(str, needs(drill)))) for drill in drills]
    print(columns(Table(("Drill", "What happens in it", "Takes", "Needs"), rows)))
    missing = {it.name: it for drill in drills for it in needs(drill) if it.missing}
    for it in missing.values():
        without = "drills run without it, and show no alerts" if it.is_optional else "drills that need it are not run"
        print(f"\n{it.name} is not here: {it.missing}; {without}.")
    return PASSED


def _duration(drill: Drill, *, with_without: bool = True) -> str:
    """How long it is under load; starting and stopping come on top."""
    return f"{2 if drill.without and with_without else 1} x {drill.load.seconds:g} s"


def run(
    asked: Sequence[str], folder: Path, *, is_protected_only: bool = False, repeats: int = 0, runs: Runs | None = None
) -> int:
    """Run drills by their names or files, and write reports into the folder; returns the exit code."""
    try:
        drills = _drills(asked)
        folder.mkdir(parents=True, exist_ok=True)
    except (InvalidDrill, OSError) as error:
        print(f"flagstone drill: {error}", file=sys.stderr)
        return USAGE
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results, not_run = _run_all(drills, folder, repeats, runs or _runner(), with_without=not is_protected_only)
    finally:
        signal.signal(signal.SIGTERM, handler)
    if len(drills) > 1:
        page = report.overview(results, folder, not_run)
        print(f"\n{columns(tables.verdicts(results))}")
        print(*(f"not run: {name}" for name in not_run), f"\noverview: {page}", sep="\n")
    return PASSED if not not_run and all(it.has_passed for it in results) else NOT_PASSED


def _run_all(
    drills: Sequence[Drill], folder: Path, repeats: int, runs: Runs, *, with_without: bool
) -> tuple[list[Result], dict[str, str]]:
    """What the drills have shown, and why others could not be run."""
    results: list[Result] = []
    not_run: dict[str, str] = {}
    for at, drill in enumerate(drills, 1):
        takes = _duration(drill, with_without=with_without)
        print(f"\n{drill.name}: {drill.title} ({at} of {len(drills)}, {takes})", flush=True)
        try:
            result = _result(drill, repeats, runs, with_without=with_without)
        except (NotInstalled, CannotStart) as error:
            not_run[drill.name] = str(error)
            print(f"\nNOT RUN  {drill.name}: {error}", flush=True)
            continue
        results.append(result)
        page = report.write(result, folder)
        print(f"\n{report.text(result)}\n\nreport: {page}", flush=True)
    return results, not_run


def _runner() -> Runs:
    from drills.run import run as runs

    return runs


def _result(drill: Drill, repeats: int, runs: Runs, *, with_without: bool) -> Result:
    """What a drill has shown; when it has not passed, what the last of its repetitions has."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"  {time.monotonic() - began:5.0f} s  {what}", flush=True)

    result = runs(drill, say, with_without=with_without)
    for number in range(1, repeats + 1):
        if result.has_passed:
            break
        say(f"not passed ({'; '.join(result.failures)}); repetition {number} of {repeats}")
        result = runs(drill, say, with_without=with_without)
    return result


def _drills(asked: Sequence[str]) -> list[Drill]:
    """The drills that are asked for, each once; raises InvalidDrill, which names those that there are."""
    known = shipped()
    paths: dict[str, Path] = {}
    for name in asked:
        for path in known.values() if name == ALL else [known.get(name, Path(name))]:
            if path.suffix != ".toml" and not path.is_file():
                there = "\n".join(f"  {it}" for it in (ALL, *known))
                raise InvalidDrill(f"{name} is neither a drill nor a file of one. There are:\n{there}")
            if paths.setdefault(path.stem, path) != path:
                raise InvalidDrill(f"{paths[path.stem]} and {path} would have the same report: {path.stem}")
    return [msgspec.structs.replace(read(path), name=path.stem) for path in paths.values()]

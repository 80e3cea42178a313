"""Reports of drills: for a terminal, as pictures, as a page that needs nothing else, and as JSON to be read again.

Nothing is measured or judged here. Invariant: all of them are made from a Result alone, so that they can be made later.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from drills.report.terminal import text
from drills.results import Result

__all__ = ["overview", "read", "text", "write"]


def write(result: Result, folder: Path) -> Path:
    """The page of the report, written with its pictures and the result as JSON."""
    from drills.report import plot
    from drills.report.sheet import sheet

    folder.mkdir(parents=True, exist_ok=True)
    name, runs = result.drill.name, [it for it in (result.run, result.without) if it is not None]
    scale = plot.scales(result.drill, *runs)
    pictures = {}
    for run in runs:
        picture = plot.picture(result.drill, run, scale)
        (folder / (f"{name}-without.png" if run.without else f"{name}.png")).write_bytes(picture)
        pictures[f"without the {run.without}" if run.without else "with all protections"] = picture
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    path = folder / f"{name}.html"
    path.write_text(sheet(result, pictures), encoding="utf-8")
    return path


def overview(results: Sequence[Result], folder: Path, not_run: Mapping[str, str] | None = None) -> Path:
    """The page that lists these drills, and those that could not be run with the reason."""
    from drills.report.sheet import index

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(index(results, not_run or {}), encoding="utf-8")
    return path


def read(folder: Path) -> list[Result]:
    """The results that were written into a folder, by name."""
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in sorted(folder.glob("*.json"))]

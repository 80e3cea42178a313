"""The shape of the project: what stands at its top, who imports whom, and how long a file may grow.

Nothing here runs the product.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("config", "evaluator", "gateway")
TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile",
    "README.md", "bench", "config", "deploy", "docs", "drills", "evaluator", "examples", "gateway",
    "pyproject.toml", "tests",
}  # fmt: skip
MAX_LINES = 350
LONGER_FOR_A_REASON = {
    "tests/gateway/services/test_snapshots.py": "one state machine, every way through it",
    "tests/gateway/services/test_snapshot_tiers.py": "one world of tiers, cold and stale in every way",
}

EVALUATOR_MAY_IMPORT = {
    "bisect", "collections", "datetime", "email", "enum", "functools", "hashlib", "itertools", "math", "operator", "re",
    "types", "typing", "zoneinfo", "evaluator", "mmh3", "msgspec", "re2",
}  # fmt: skip

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def test_imports__of_the_packages__point_down() -> None:
    """Every import direction that pyproject.toml declares is held."""
    linted = run(Path(sys.executable).with_name("lint-imports"), "--no-cache")
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("path", sources("evaluator"), ids=named)
def test_evaluator__its_imports__are_pure(path: Path) -> None:
    """The evaluator imports nothing that could do input or output, read a clock, or be random."""
    roots = {module.split(".")[0] for module in imported_modules(path)}
    assert roots <= EVALUATOR_MAY_IMPORT


def test_top_level__of_the_repository__is_as_designed() -> None:
    """Nothing stands at the top of the repository that was not put there on purpose."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize("path", sources(*PACKAGES, "drills", "tests", "bench"), ids=named)
def test_file__its_length__is_readable(path: Path) -> None:
    """No file grows beyond what one sitting can read, unless it says here why."""
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES or named(path) in LONGER_FOR_A_REASON


@pytest.mark.parametrize("path", sources(*PACKAGES, "drills", "tests", "bench"), ids=named)
def test_file__its_opening__says_what_lives_there(path: Path) -> None:
    """Every file that has anything in it opens with a docstring."""
    module = ast.parse(path.read_text())
    assert not module.body or ast.get_docstring(module)


def test_constraints__every_dependency__is_pinned_once() -> None:
    """Whatever pyproject.toml depends on is pinned, by name and version only, so that no index is named."""
    lines = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==([0-9]+!)?[A-Za-z0-9.]+", line) for line in lines)
    pinned = [_normal(line.split("==")[0]) for line in lines]
    project = PYPROJECT["project"]
    wanted = {_normal(line) for lines in project["optional-dependencies"].values() for line in lines}
    wanted |= {_normal(line) for line in project["dependencies"]}
    assert len(set(pinned)) == len(pinned)
    assert wanted - {project["name"]} <= set(pinned)


def test_python__the_running_version__is_a_declared_one() -> None:
    """The suite runs on a version of Python that the project says it supports."""
    declared = [line.rsplit(" ", 1)[1] for line in PYPROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in declared


def _normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()

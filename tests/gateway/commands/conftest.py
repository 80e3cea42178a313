"""The command line for managing, over a store of its own in an empty folder.

What a test prepares goes through the command line as well.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.commands.managing import KEY_VARIABLE, URL_VARIABLE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder, where the default store is; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        exit_code = main(arguments)
        return exit_code, *capsys.readouterr()

    return run_command


@pytest.fixture
def shop(run: Run) -> Run:
    """The same with a project to work in."""
    exit_code, _, errors = run("projects", "create", "Shop", "--group-type", "company")
    assert exit_code == 0, errors
    return run

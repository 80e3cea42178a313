"""What the README shows is what a reader gets: its commands and its script, run against the demo."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.conftest import PATIENCE_S, ServerProcess

README = (Path(__file__).parents[2] / "README.md").read_text()
URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def without_moment(answer: str) -> str:
    return re.sub(r'"requestId":"[^"]*","evaluatedAt":\d+', "", answer)


@pytest.mark.client
def test_readme__sdk_script__prints_what_it_says(start_server: Callable[..., ServerProcess]) -> None:
    """The script a newcomer copies works with the released SDK, and prints what the README prints."""
    server = start_server("--demo").wait_until_ready()
    script = blocks("python")[0].replace(URL, server.url)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert ran.stdout == blocks("text")[0]


@pytest.mark.parametrize("shown", [block for block in blocks("console") if "curl" in block])
def test_readme__curl_command__answers_what_it_says(start_server: Callable[..., ServerProcess], shown: str) -> None:
    """The commands that `make run` prints answer as shown, but for the request's id and time."""
    server = start_server("--demo").wait_until_ready()
    command, answer = shown.removeprefix("$ ").rsplit("'\n", 1)
    ran = subprocess.run(
        ["sh", "-c", command.replace(URL, server.url) + "'"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert without_moment(ran.stdout) == without_moment(answer.rstrip())


def test_readme__explain_command__tells_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The explanation shown is the one told."""
    shown = next(block for block in blocks("console") if "explain" in block)
    command, told = shown.split("\n", 1)
    assert main(command.split()[2:]) == 0
    assert capsys.readouterr().out == told

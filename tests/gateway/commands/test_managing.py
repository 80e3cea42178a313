"""What the commands for managing share: which way is taken, how refusals are told, and what output looks like.

The API is a scripted one here. Each command's own doings are tested in its own file.
"""

import argparse
import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from config.sources import load
from gateway.__main__ import _parser, main
from gateway.commands import CommandFailed
from gateway.commands.managing import (
    KEY_VARIABLE,
    URL_VARIABLE,
    Management,
    Refused,
    confirm,
    open_management,
    page,
    segment,
    table,
    tell,
)
from gateway.commands.transports import Answer, Content, HttpTransport, LocalTransport
from tests.gateway.commands.conftest import Run

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
REMOTE = ("--api", "http://127.0.0.1:9")


class Api:
    """A transport that answers this to everything, and keeps what was called."""

    def __init__(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        self.answer = Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        self.called: list[tuple[str, str, Content]] = []

    def call(self, method: str, path: str, content: Content = b"", media_type: str = "") -> Answer:
        self.called.append((method, path, content))
        return self.answer


def refusal(api: Api) -> tuple[object, ...]:
    with pytest.raises(Refused) as refused:
        Management(api, None).get("/api/projects")
    return refused.value.args


def error(*messages: str) -> bytes:
    problems = [{"code": "invalid", "path": f"$.a[{n}]", "message": text} for n, text in enumerate(messages)]
    return msgspec.json.encode({"code": "invalid_input", "detail": "Something is wrong.", "problems": problems})


def test_management__query_and_reference__are_quoted() -> None:
    """A key or a search from the command line cannot become another path."""
    api = Api()
    management = Management(api, 7)
    management.get(f"{management.project}/x/{segment('a?b/c')}", search="a&b=c", active=False, deleted=True, limit=None)
    assert api.called == [("GET", "/api/projects/7/x/a%3Fb%2Fc?search=a%26b%3Dc&deleted=true", b"")]


def test_management__refusal_with_problems__has_a_line_for_each() -> None:
    """Somebody who has to mend a file sees every place at once; a single problem is said once."""
    assert refusal(Api(400, error("too small", "too large"))) == (
        "Something is wrong.",
        "$.a[0]: too small",
        "$.a[1]: too large",
    )
    assert refusal(Api(400, error("too small"))) == ("Something is wrong.",)


def test_management__refusal_in_text__is_told_with_when_to_try_again() -> None:
    """Refusals that are plain text are told as they are, and the time that the service asks for with them."""
    api = Api(503, b"The server is busy.", content_type="text/plain; charset=utf-8", retry_after="2")
    assert refusal(api) == ("The server is busy. Try again in 2 s.",)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"problems": "x"}'])
def test_management__refusal_of_somebody_else__is_told_by_its_status(body: bytes) -> None:
    """What a proxy in between says is not poured over the terminal."""
    assert refusal(Api(502, body, content_type="text/html")) == ("The API answered 502.",)


def test_tell__control_characters__never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag's name cannot move the cursor, hide text, or start a line of its own."""
    tell(Namespace(json=False), Answer(200, {}, b"{}"), table(("NAME",), [("a\x1b[2Jb\nc\u202ed",)]))
    assert capsys.readouterr().out == "NAME\na?[2Jb?c?d\n"


def test_tell__json__is_what_the_api_answered(capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets the answer byte by byte, and nothing where the answer is empty."""
    tell(Namespace(json=True), Answer(200, {}, b'{ "a":1}'), ["for people"])
    tell(Namespace(json=True), Answer(204, {}, b""), ["for people"])
    assert capsys.readouterr().out == '{ "a":1}\n'


def test_table__terminal__is_not_wider_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut where the terminal ends, and left whole for a pipe."""
    rows = [("1", "x" * 40), ("22", None)]
    assert list(table(("ID", "NAME"), rows)) == ["ID  NAME", f"1   {'x' * 40}", "22"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    assert list(table(("ID", "NAME"), rows))[1] == f"1   {'x' * 15}…"


def test_page__part_of_a_list__says_that_there_is_more(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody takes a page for the whole."""
    answer = Answer(200, {}, b'{"count": 9, "results": [{"id": 1}]}')
    assert list(page(("ID",), answer, lambda it: (it["id"],), "flags")) == ["ID", "1"]
    assert capsys.readouterr().err == "1 of 9 flags; see --limit and --offset\n"


@pytest.mark.parametrize(
    ("said", "is_meant"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_confirm__terminal__needs_a_yes(monkeypatch: pytest.MonkeyPatch, said: str, is_meant: bool) -> None:
    """Only a yes is one; an empty line and the end of the input are not."""
    stdin = io.StringIO(said)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    if is_meant:
        confirm(Namespace(yes=False), "Really?")
        return
    with pytest.raises(CommandFailed, match="Nothing was changed"):
        confirm(Namespace(yes=False), "Really?")


def test_confirm__nobody_to_ask__needs_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script says --yes; one that does not is not taken to mean it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    confirm(Namespace(yes=True), "Really?")
    with pytest.raises(CommandFailed, match="say --yes"):
        confirm(Namespace(yes=False), "Really?")


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names a service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")
    monkeypatch.setenv(KEY_VARIABLE, "phx_key")


@pytest.mark.parametrize(
    ("arguments", "transport"),
    [([], HttpTransport), (["--set", "log.format=text"], LocalTransport), (["--api", "https://x"], HttpTransport)],
)
def test_open__arguments_and_environment__decide_on_the_way(
    ways: None, arguments: list[str], transport: type[object]
) -> None:
    """Settings on the command line mean the store, whatever service the environment names."""
    args = _parser().parse_args(["flags", "list", *arguments])
    with open_management(load(None, os.environ, args.set), args) as api:
        assert type(api._transport) is transport


def test_main__api_and_settings__is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Who names both ways is asked which one is meant, instead of editing in the wrong place."""
    with pytest.raises(SystemExit) as ended:
        main(["flags", "list", *REMOTE, "--set", "log.format=text"])
    assert ended.value.code == 2
    assert "give one of them" in capsys.readouterr().err


def test_main__no_key__says_how_to_give_one(run: Run) -> None:
    """A missing key is told before anything is sent, and a wrong file name by its name."""
    exit_code, _, errors = run("flags", "list", *REMOTE)
    assert exit_code == 1
    assert errors == f"flagstone: The API wants a key: give --key-file FILE, or set {KEY_VARIABLE}.\n"
    assert run("flags", "list", *REMOTE, "--key-file", "nope")[2].startswith("flagstone: Cannot read nope: ")


def test_main__key_file__is_read_without_its_newline(run: Run) -> None:
    """A file that an editor or a shell has written is a key file."""
    Path("key").write_text("phx_key\n")
    exit_code, _, errors = run("flags", "list", *REMOTE, "--key-file", "key")
    assert exit_code == 1
    assert "cannot be reached" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("flags", "show", ""),
        ("flags", "show", "beta/history"),
        ("flags", "list", "--project", "x"),
        ("flags", "rollout", "beta", "101"),
        ("flags", "rollout", "beta", "nan"),
        ("flags", "rollout", "beta", "5", "--condition", "0"),
        ("flags", "set", "beta", "--variant", "a"),
        ("flags", "set", "beta", "--payload", "a"),
        ("flags", "list", "--timeout", "0"),
        ("flags",),
    ],
)
def test_main__arguments_that_make_no_sense__are_wrong_usage(arguments: tuple[str, ...]) -> None:
    """What cannot be meant is refused before anything is opened."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def commands(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    groups = [it for it in parser._actions if isinstance(it, argparse._SubParsersAction)]
    if not groups and "--api" in parser._option_string_actions:
        yield name
    for group in groups:
        for word, command in group.choices.items():
            yield from commands(command, f"{name} {word}")


@pytest.mark.parametrize("command", list(commands(_parser(), "flagstone")))
def test_cli_document__command__stands_there(command: str) -> None:
    """Whoever looks for a command finds it in docs/cli.md."""
    assert f"`{command}`" in DOCS or f"`{command} " in DOCS

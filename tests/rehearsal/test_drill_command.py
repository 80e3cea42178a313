"""`flagstone drill`: what it runs, what it says, how it ends, and that nothing of it is left when it is interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from drills import cli, needs
from drills.model import Drill, read, shipped
from drills.results import Result
from drills.servers import CannotStart, NotInstalled
from gateway.__main__ import main
from tests.rehearsal.results import result, run
from tests.servers import unavailable

PATIENCE_S = 120.0
FILE = """
title = "Nothing happens"
lines = [{ name = "answered", what = "All is well.", measure = "failed_share", at_most = 0 }]
"""


class Runner:
    """Runs nothing. What a drill comes to is said for each of its runs; at the end, that it has passed."""

    def __init__(self, *outcomes: bool | Exception) -> None:
        self._outcomes = list(outcomes)
        self.ran: list[tuple[str, bool]] = []

    def __call__(self, drill: Drill, say: Callable[[str], None], *, with_without: bool) -> Result:
        self.ran.append((drill.name, with_without))
        say("the fault begins")
        outcome = self._outcomes.pop(0) if self._outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        made = result(run=run(problems=[] if outcome else ["a line broke"]))
        return msgspec.structs.replace(made, drill=msgspec.structs.replace(made.drill, name=drill.name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quiet.toml"
    path.write_text(FILE)
    return path


def test_list__drills__stand_there_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    """Each drill is listed with its title, how long it takes, and the servers it needs."""
    assert main(["drill", "list"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in shipped())
    assert "PostgreSQL, Redis" in said


def test_list__servers_that_are_not_here__are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What this machine has not is said before anything is run, and what that means for drills."""

    def find(name: str, *_: Path) -> Path:
        if name in ("haproxy", "prometheus"):
            raise NotInstalled(f"{name} is nowhere")
        return Path(name)

    monkeypatch.setattr(needs, "found", find)
    assert cli.show_list() == 0
    said = capsys.readouterr().out
    assert "HAProxy (not" in said
    assert "HAProxy is not here: haproxy is nowhere; drills that need it are not run." in said
    assert "Prometheus is not here: prometheus is nowhere; drills run without it, and show no alerts." in said
    assert "Redis is not here" not in said


@pytest.mark.parametrize(("has_passed", "code"), [(True, 0), (False, 1)])
def test_run__drill__ends_with_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_passed: bool, code: int
) -> None:
    """The exit code is the verdict; what happens is told as it does, then the report and where it is."""
    assert cli.run(["control"], tmp_path / "reports", runs=Runner(has_passed)) == code
    said = capsys.readouterr().out
    assert "control: The control" in said
    assert "0 s  the fault begins\n" in said
    assert ("\nPASSED  control" if has_passed else "\nNOT PASSED  control") in said
    assert f"report: {tmp_path / 'reports' / 'control.html'}" in said
    assert (tmp_path / "reports" / "control.html").is_file()
    assert not (tmp_path / "reports" / "index.html").exists()


def test_run__all__runs_each_and_ends_with_the_overview(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`all` is every drill that comes with flagstone, each once, and a page that lists them."""
    few = {name: shipped()[name] for name in ("2025-10-24", "control")}
    monkeypatch.setattr(cli, "shipped", lambda: few)
    runner = Runner()
    assert cli.run(["control", "all"], tmp_path, runs=runner) == 0
    assert [name for name, _ in runner.ran] == ["control", "2025-10-24"]
    said = capsys.readouterr().out
    assert f"overview: {tmp_path / 'index.html'}" in said
    table = said[said.rindex("\nDrill") :]
    assert max(map(len, table.splitlines())) <= 120
    assert "2025-10-24  passed" in table
    assert all(f'href="{name}.html"' in (tmp_path / "index.html").read_text() for name in few)


def test_run__name_that_is_no_drill__names_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that nobody knows is answered with those that there are, before anything is run."""
    runner = Runner()
    assert cli.run(["control", "2025-10-42"], tmp_path, runs=runner) == 2
    said = capsys.readouterr().err
    assert "2025-10-42 is neither a drill nor a file of one" in said
    assert all(f"  {name}\n" in said for name in ("all", *shipped()))
    assert runner.ran == []


def test_run__file__is_a_drill_like_any_other(tmp_path: Path, file: Path) -> None:
    """Drills of one's own are run from their files."""
    runner = Runner()
    assert cli.run([str(file)], tmp_path, runs=runner) == 0
    assert runner.ran == [("quiet", True)]


@pytest.mark.parametrize(
    ("text", "said"),
    [("title = 1", "title"), ("title = 'x'\nlines = [{name='a', what='b'}]", "lines[0]: give a measure or a query")],
)
def test_run__file_that_makes_no_sense__is_refused(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    """What is wrong with a file is said with its place, and nothing is run."""
    file.write_text(text)
    runner = Runner()
    assert cli.run([str(file), "control"], tmp_path, runs=runner) == 2
    told = capsys.readouterr().err
    assert said in told
    assert str(file) in told
    assert runner.ran == []


def test_run__file_that_is_not_there__is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read is said to be so."""
    assert cli.run([str(tmp_path / "none.toml")], tmp_path, runs=Runner()) == 2
    assert "none.toml: No such file" in capsys.readouterr().err


def test_run__two_files_of_one_name__are_refused(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two drills of one name would write the same report."""
    other = tmp_path / "other" / "quiet.toml"
    other.parent.mkdir()
    other.write_text(FILE)
    assert cli.run([str(file), str(other)], tmp_path, runs=Runner()) == 2
    assert "would have the same report: quiet" in capsys.readouterr().err


def test_run__report_that_cannot_be_written__is_refused_at_once(tmp_path: Path, file: Path) -> None:
    """Nobody waits for a drill whose report has no place."""
    runner = Runner()
    assert cli.run(["control"], file / "reports", runs=runner) == 2
    assert runner.ran == []


@pytest.mark.parametrize("error", [NotInstalled("haproxy is nowhere"), CannotStart("redis ended")])
def test_run__drill_that_cannot_be_run__is_told_and_the_others_are_run(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """A server that is not there costs the drills that need it, and the exit code says that not all have passed."""
    assert cli.run(["control", str(file)], tmp_path, runs=Runner(error)) == 1
    said = capsys.readouterr().out
    assert f"NOT RUN  control: {error}" in said
    assert "PASSED  quiet" in said
    assert "not run: control" in said
    assert f"control was not run: {error}" in (tmp_path / "index.html").read_text()


def test_run__protected_only__leaves_out_the_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the time is saved where only the protections in force are to be seen."""
    runner = Runner()
    cli.run(["2025-10-24"], tmp_path, is_protected_only=True, runs=runner)
    assert runner.ran == [("2025-10-24", False)]
    assert ", 1 x " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcomes", "repeats", "code", "times"),
    [((False, True), 1, 0, 2), ((False, False, False), 2, 1, 3), ((True,), 5, 0, 1), ((False, True), 0, 1, 1)],
)
def test_run__repeat_failed__gives_a_drill_more_tries(
    tmp_path: Path, file: Path, outcomes: tuple[bool, ...], repeats: int, code: int, times: int
) -> None:
    """A drill that has not passed is run again as often as was said, and its last run counts."""
    runner = Runner(*outcomes)
    assert cli.run([str(file)], tmp_path, repeats=repeats, runs=runner) == code
    assert len(runner.ran) == times


def test_run__ended__leaves_signals_as_they_were(tmp_path: Path, file: Path) -> None:
    """Whoever calls it from a program of their own has their handler back."""
    before = signal.getsignal(signal.SIGTERM)
    cli.run([str(file)], tmp_path, runs=Runner())
    assert signal.getsignal(signal.SIGTERM) is before


def test_command__extra_that_is_not_installed__says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without what drills are drawn with, nothing is started, and the way to get it is said."""
    monkeypatch.setattr("gateway.commands.drill.find_spec", lambda _: None)
    assert main(["drill", "run", "control"]) == 1
    assert "pip install 'flagstone[drills]'" in capsys.readouterr().err


def test_command__arguments__are_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option reaches the drills, and no setting of a service has a say in them."""
    asked: list[object] = []

    def runs(*given: object, **named: object) -> int:
        asked.extend((*given, named))
        return 0

    monkeypatch.setattr(cli, "run", runs)
    monkeypatch.setenv("FLAGSTONE__SERVER__PORT", "no number")
    options = ["--report", str(tmp_path), "--protected-only", "--repeat-failed", "2"]
    assert main(["drill", "run", "control", "all", *options]) == 0
    assert asked == [["control", "all"], tmp_path, {"is_protected_only": True, "repeats": 2}]


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "all", "--repeat-failed", "-1"], ["walk"]])
def test_command__wrong_usage__exits_with_2(arguments: list[str]) -> None:
    """What cannot be meant is refused by the command line."""
    with pytest.raises(SystemExit) as ended:
        main(["drill", *arguments])
    assert ended.value.code == 2


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for all that a drill starts, its path short enough for sockets; what still runs in it is ended."""
    with tempfile.TemporaryDirectory(prefix="fsd-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # Servers may be somebody else's.
        yield folder
        for number in _inside(folder):
            os.kill(number, signal.SIGKILL)


def _inside(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # It has ended, or is none of ours.
            if os.readlink(path).startswith(f"{folder}/"):
                numbers.append(int(path.parent.name))
    return numbers


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize(("number", "moment"), [(signal.SIGINT, "load: "), (signal.SIGTERM, "filling the database")])
def test_run__interrupted__leaves_nothing_running(
    tmp_path: Path, temporary: Path, number: signal.Signals, moment: str
) -> None:
    """Ctrl-C, which every process of the terminal gets, and SIGTERM end all that was started; folders are gone."""
    for need in needs.needs(read(shipped()["control"])):
        if need.missing and not need.is_optional:
            unavailable(need.missing)
    # Whoever runs tests in the background ignores Ctrl-C, and so would the drill.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    drill = subprocess.Popen(
        [sys.executable, "-m", "gateway", "drill", "run", "control", "--report", str(tmp_path / "reports")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert drill.stdout is not None
    watchdog = threading.Timer(PATIENCE_S, lambda: os.killpg(drill.pid, signal.SIGKILL))
    watchdog.start()
    try:
        assert any(moment in line for line in drill.stdout)
        assert _inside(temporary)
        if number == signal.SIGINT:
            os.killpg(drill.pid, number)
        else:
            drill.send_signal(number)
        said = drill.stdout.read()
        assert drill.wait(PATIENCE_S) == 1, said
    finally:
        watchdog.cancel()
        drill.kill()
        drill.wait()
        drill.stdout.close()
    assert said.endswith("flagstone: Interrupted.\n")
    assert list(temporary.iterdir()) == []
    ends_at = time.monotonic() + PATIENCE_S
    while left := _inside(temporary):
        assert time.monotonic() < ends_at, left
        time.sleep(0.05)

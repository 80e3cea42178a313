"""The units in deploy/systemd: what systemd itself says of them, and their numbers beside flagstone's settings.

Invariant: only the path of the program is changed for the check, as it is not installed there.
"""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from config.settings import Settings
from gateway.__main__ import _parser
from tests.servers import unavailable

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = ("flagstone.service", "flagstone-builder.service")
PROGRAM = "/opt/flagstone/bin/flagstone"
MAX_EXPOSURE = 20
"""In tenths, of 100: what systemd calls OK is below 50."""


class _Unit(ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _unit(name: str) -> ConfigParser:
    unit = _Unit(strict=False, interpolation=None, delimiters=("=",))
    unit.read(FOLDER / name)
    return unit


def _analyze(*arguments: str | Path) -> None:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unknown" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_unit__as_it_is__is_understood_by_systemd(name: str, tmp_path: Path) -> None:
    """Every line means something to systemd, and the service is shut in further than systemd asks for."""
    unit = tmp_path / name
    unit.write_text((FOLDER / name).read_text().replace(PROGRAM, str(Path(sys.executable).with_name("flagstone"))))
    _analyze("verify", "--man=no", unit)
    _analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", unit)


@pytest.mark.parametrize("name", UNITS)
def test_unit__commands__are_flagstone_s(name: str) -> None:
    """What systemd starts, and has reload, are command lines that flagstone understands."""
    service = _unit(name)["Service"]
    commands = [service[key].split() for key in ("ExecStart", "ExecReload")]
    if name == "flagstone-builder.service":  # It has no command for that, but reads its settings anew at the signal.
        assert commands.pop() == ["/bin/kill", "-HUP", "$MAINPID"]
    assert [command[0] for command in commands] == [PROGRAM] * len(commands)
    for command in commands:
        _parser().parse_args(command[1:])
    assert service["Restart"] == "always"
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""


def test_unit__of_the_service__has_the_time_and_the_descriptors_that_it_needs() -> None:
    """It is killed only after the lame duck, the drain and 5 s, workers being told by the supervisor alone."""
    server = Settings().server
    service = _unit("flagstone.service")["Service"]
    assert float(service["TimeoutStopSec"].removesuffix("s")) == server.lame_duck_s + server.drain_timeout_s + 5
    assert service["KillMode"] == "mixed"
    assert int(service["LimitNOFILE"]) > server.max_connections + 1000
    assert service["WorkingDirectory"] == f"%S/{service['StateDirectory']}", "where the control socket is looked for"


def test_units__on_one_machine__do_not_meet() -> None:
    """Service and builder have metrics and folders apart."""
    one, two = (_unit(name)["Service"] for name in UNITS)
    assert f"metrics.port={Settings().metrics.port}" not in two["ExecStart"]
    assert "--set metrics.port=" in two["ExecStart"]
    assert one["StateDirectory"] != two["StateDirectory"]

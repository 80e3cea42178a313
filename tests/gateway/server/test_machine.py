"""What the system says of the container, read from made-up files: control groups of both versions, and none."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.server.container_metrics import ContainerMetrics
from gateway.server.machine import Container, container, open_descriptors, pressure

PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=250000\n"
Tree = Callable[[dict[str, str]], Path]
SECOND = {
    "cgroup.type": "domain\n",
    "cpu.stat": "usage_usec 90000000\nuser_usec 1\nnr_throttled 3\nthrottled_usec 2500000\n",
    "cpu.max": "150000 100000\n",
    "memory.current": "1000\n",
    "memory.max": "4000\n",
    "memory.stat": "anon 500\ninactive_file 300\n",
}
FIRST = {
    "cpuacct/{}/cgroup.procs": "1\n",
    "cpuacct/{}/cpuacct.usage": "90000000000\n",
    "cpu/{}/cgroup.procs": "1\n",
    "cpu/{}/cpu.cfs_quota_us": "150000\n",
    "cpu/{}/cpu.cfs_period_us": "100000\n",
    "cpu/{}/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000\n",
    "memory/{}/cgroup.procs": "1\n",
    "memory/{}/memory.usage_in_bytes": "1000\n",
    "memory/{}/memory.limit_in_bytes": "4000\n",
    "memory/{}/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
}
FIRST_GROUPS = "9:name=systemd:/\n4:memory:/docker/abc\n2:cpuacct:/docker/abc\n1:cpu:/docker/abc\n0::/docker/abc\n"
EVERYTHING = Container(cpu_s=90, cpu_limit_cores=1.5, cpu_throttled_s=2.5, memory_bytes=700, memory_limit_bytes=4000)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a root folder with these files."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def second(folder: str = "", **changed: str) -> dict[str, str]:
    """The files of a group of version 2 in this folder."""
    return {f"sys/fs/cgroup/{folder}{name}": changed.get(name.replace(".", "_"), text) for name, text in SECOND.items()}


def first(folder: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{name.format(folder)}": text for name, text in FIRST.items()}


@pytest.mark.parametrize(
    ("own", "folder"),
    [("/", ""), ("/system.slice/flagstone.service", "system.slice/flagstone.service/"), ("/../outside", "")],
)
def test_container__version_2__is_told_from_inside_and_from_outside(tree: Tree, own: str, folder: str) -> None:
    """The group is where the system says, or, seen from inside a container, at the top of what is mounted."""
    assert container(8, tree({"proc/self/cgroup": f"0::{own}\n", **second(folder)})) == EVERYTHING


@pytest.mark.parametrize("folder", ["docker/abc", "."])
def test_container__version_1__is_told_in_the_same_terms(tree: Tree, folder: str) -> None:
    """Nobody who reads the metrics has to know which version it is."""
    assert container(8, tree({"proc/self/cgroup": FIRST_GROUPS, **first(folder)})) == EVERYTHING


def test_container__controllers_with_one_tree__are_found_under_the_name_of_both(tree: Tree) -> None:
    """Processor and accounting of it are one tree on many systems."""
    files = {name.replace("cpuacct/", "cpu,cpuacct/").replace("cgroup/cpu/", "cgroup/cpu,cpuacct/"): text
             for name, text in first("docker/abc").items()}  # fmt: skip
    groups = "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n"
    assert container(8, tree({"proc/self/cgroup": groups, **files})) == EVERYTHING


def test_container__no_limits__may_use_all_cores_and_has_no_memory_limit(tree: Tree) -> None:
    """The part of the processor in use can be told without a limit too; memory then has nothing to be compared with."""
    files = second(cpu_max="max 100000\n", memory_max="max\n")
    found = container(8, tree({"proc/self/cgroup": "0::/\n", **files}))
    assert (found.cpu_limit_cores, found.memory_limit_bytes) == (8, None)


def test_container__no_limits_in_version_1__is_the_same(tree: Tree) -> None:
    """There, no limit is minus one, or a number larger than any memory."""
    files = first("docker/abc") | {
        "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n",
    }
    found = container(8, tree({"proc/self/cgroup": FIRST_GROUPS, **files}))
    assert (found.cpu_limit_cores, found.memory_limit_bytes) == (8, None)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.stat": SECOND["cpu.stat"]},
        {"proc/self/cgroup": FIRST_GROUPS.replace("/docker/abc", "/"), **first("."),
         **{f"sys/fs/cgroup/{name}/release_agent": "" for name in ("cpu", "cpuacct", "memory")}},
        {"proc/self/cgroup": "\x00nonsense\n:\n", "sys/fs/cgroup/cgroup.type": "domain\n"},
    ],
    ids=["nothing", "top of version 2", "top of version 1", "nonsense"],
)  # fmt: skip
def test_container__none__is_told_nothing_of(tree: Tree, files: dict[str, str]) -> None:
    """What all of the machine uses is never told as if one container used it."""
    assert container(8, tree(files)) == Container()


def test_container__unreadable_numbers__are_left_out(tree: Tree) -> None:
    """A file that says something else than expected costs its own metric and no other."""
    files = second(cpu_stat="usage_usec\nthrottled_usec many\n", memory_current="?\n", memory_stat="")
    found = container(8, tree({"proc/self/cgroup": "0::/\n", **files}))
    assert (found.cpu_s, found.cpu_throttled_s, found.memory_bytes) == (None, None, None)
    assert (found.cpu_limit_cores, found.memory_limit_bytes) == (1.5, 4000)


def test_pressure__of_the_container__goes_before_that_of_the_machine(tree: Tree) -> None:
    """A neighbour's pressure is told only where one's own cannot be."""
    machine = {f"proc/pressure/{name}": PRESSURE.replace("1500000", "9000000") for name in ("cpu", "memory")}
    own = {"sys/fs/cgroup/cpu.pressure": PRESSURE}
    found = pressure(tree({"proc/self/cgroup": "0::/\n", **second(), **own, **machine}))
    assert found == {("cpu", "some"): 1.5, ("cpu", "full"): 0.25, ("memory", "some"): 9, ("memory", "full"): 0.25}


def test_pressure__not_told__is_left_out(tmp_path: Path) -> None:
    """Older systems and locked containers do not tell."""
    assert pressure(tmp_path) == {}


def test_open_descriptors__counts_what_is_open(tree: Tree) -> None:
    """From its own folder, or else nothing; on this machine one more file makes one more."""
    assert open_descriptors(tree({})) is None
    assert open_descriptors(tree({"proc/self/fd/0": "", "proc/self/fd/1": ""})) is not None
    before = open_descriptors()
    with Path(os.devnull).open() as _:
        assert before is None or open_descriptors() == before + 1


def test_container_metrics__what_there_is__is_shown_and_nothing_else(tree: Tree) -> None:
    """Families without a value stay without a series, also after they had one."""
    root = tree({"proc/self/cgroup": "0::/\n", **second(), "proc/pressure/io": PRESSURE})
    metrics = ContainerMetrics(root)
    shown = [row for row in metrics.render().decode().splitlines() if not row.startswith("#")]
    assert "flagstone_container_cpu_seconds_total 90.0" in shown
    assert "flagstone_container_memory_limit_bytes 4000.0" in shown
    assert 'flagstone_pressure_seconds_total{kind="some",resource="io"} 1.5' in shown
    assert len(shown) == 7
    for path in root.rglob("*"):
        if path.is_file():
            path.write_text("")
    assert all(row.startswith("#") for row in metrics.render().decode().splitlines())

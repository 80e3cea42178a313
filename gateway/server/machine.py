"""What the system says of the container: its processor time, its memory, and how long its work had to wait.

Reads files below a root and keeps nothing. Invariant: what cannot be read is None or left out, never a guess, and
nothing here raises because of what it found.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

ROOT: Final = Path("/")
RESOURCES: Final = ("cpu", "memory", "io")
KINDS: Final = ("some", "full")
_UNLIMITED: Final = 1 << 60
"""Version 1 says "no limit" with the largest number of pages, which differs between machines."""


class Container(Struct, frozen=True):
    cpu_s: float | None = None
    cpu_limit_cores: float | None = None
    cpu_throttled_s: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None


def container(cores: int, root: Path = ROOT) -> Container:
    """What the control group of this process used and may use, on a machine with so many cores for it.

    The group that everything belongs to is no container: of it nothing is told.
    """
    group = _group(root, "", "cgroup.type")
    if group is not None:
        return _second_version(group, cores)
    return _first_version(root, cores)


def pressure(root: Path = ROOT) -> dict[tuple[str, str], float]:
    """Seconds by resource and by kind: of the container where the system tells, else of the machine."""
    group = _group(root, "", "cgroup.type")
    found = {}
    for resource in RESOURCES:
        text = "" if group is None else _read(group / f"{resource}.pressure")
        for line in (text or _read(root / "proc/pressure" / resource)).splitlines():
            kind, _, rest = line.partition(" ")
            total = _number(rest.rpartition("total=")[2])
            if kind in KINDS and total is not None:
                found[resource, kind] = total / 1e6
    return found


def open_descriptors(root: Path = ROOT) -> int | None:
    """How many files, connections and so on this process has open."""
    folder = root / "proc/self/fd"
    with suppress(OSError):
        # Newer systems count them by themselves, which matters with ten thousand connections.
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    return None


def _second_version(group: Path, cores: int) -> Container:
    quota, _, period = _read(group / "cpu.max").partition(" ")
    used = _table(group / "cpu.stat")
    return Container(
        cpu_s=_scaled(used.get("usage_usec"), 1e6),
        cpu_limit_cores=_cores(_number(quota), _number(period), cores),
        cpu_throttled_s=_scaled(used.get("throttled_usec"), 1e6),
        memory_bytes=_occupied(group, "memory.current", "inactive_file"),
        memory_limit_bytes=_number(_read(group / "memory.max")),
    )


def _first_version(root: Path, cores: int) -> Container:
    """Each controller has a tree of its own, or one with another; only the top of a tree has a release_agent."""
    used, cpu, memory = (_own_group(root, name) for name in ("cpuacct", "cpu", "memory"))
    limit = None if memory is None else _number(_read(memory / "memory.limit_in_bytes"))
    return Container(
        cpu_s=None if used is None else _scaled(_number(_read(used / "cpuacct.usage")), 1e9),
        cpu_limit_cores=None if cpu is None else _quota(cpu, cores),
        cpu_throttled_s=None if cpu is None else _scaled(_table(cpu / "cpu.stat").get("throttled_time"), 1e9),
        memory_bytes=None if memory is None else _occupied(memory, "memory.usage_in_bytes", "total_inactive_file"),
        memory_limit_bytes=limit if limit is not None and limit < _UNLIMITED else None,
    )


def _own_group(root: Path, controller: str) -> Path | None:
    group = _group(root, controller, "cgroup.procs")
    return None if group is None or (group / "release_agent").exists() else group


def _group(root: Path, controller: str, witness: str) -> Path | None:
    """The folder of this process's group of a controller, which has this file; of version 2 if there is no controller.

    Seen from inside a container the group is often the top of what is mounted, whatever it is called outside.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        match line.split(":", 2):
            case [_, controllers, path] if controller in controllers.split(","):
                top = root / "sys/fs/cgroup" / controllers
                candidates = (top / path.strip("/"), top)
                return next((folder for folder in candidates if (folder / witness).is_file()), None)
    return None


def _quota(group: Path, cores: int) -> float:
    quota, period = _number(_read(group / "cpu.cfs_quota_us")), _number(_read(group / "cpu.cfs_period_us"))
    return _cores(quota, period, cores)


def _cores(quota: int | None, period: int | None, cores: int) -> float:
    return min(quota / period, cores) if quota and quota > 0 and period else cores


def _occupied(group: Path, used: str, droppable: str) -> int | None:
    """Without the files that the system can forget at once: they fill any container, and say nothing of its need."""
    occupied = _number(_read(group / used))
    return None if occupied is None else max(0, occupied - _table(group / "memory.stat").get(droppable, 0))


def _table(path: Path) -> dict[str, int]:
    return dict(_rows(_read(path)))


def _rows(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        number = _number(value)
        if number is not None:
            yield name, number


def _scaled(number: int | None, per_unit: float) -> float | None:
    return None if number is None else number / per_unit


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""

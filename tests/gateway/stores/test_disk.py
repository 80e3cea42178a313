"""The disk: atomic files within a bound, and failures that cost nobody anything."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from config.backends import Disk
from gateway.ports import Definitions
from gateway.stores import disk
from gateway.stores.disk import DiskStore
from tests.fakes import FakeClock

TOKEN = "phc_a"


def definitions(token: str = TOKEN, version: int = 1, size: int = 0) -> Definitions:
    noise = os.urandom(size).hex()
    return Definitions(1, version, msgspec.json.encode({"token": token, "name": noise}))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def opened(folder: Path, clock: FakeClock) -> Callable[..., DiskStore]:
    return lambda **changes: DiskStore(Disk(path=str(folder), **changes), clock)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


async def written(store: DiskStore) -> None:
    """Waits until nothing is pending."""
    assert store._draining is not None
    await asyncio.wait_for(asyncio.shield(store._draining), 10)


async def test_disk__closed__has_written_what_was_pending(opened: Callable[..., DiskStore], folder: Path) -> None:
    """A process that ends in order leaves its last definitions for the next."""
    async with opened() as store:
        for number in range(20):
            store.keep_definitions(f"phc_{number}", definitions(f"phc_{number}"))
    assert names(folder) == [".snapshot"] * 20
    async with opened() as store:
        found = await store.load_definitions("phc_7")
        assert found is not None


async def test_keep__several_versions_quickly__writes_only_the_newest(
    opened: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pending for a token is replaced, not queued."""
    writes: list[int] = []
    write = DiskStore._write

    def counted(self: DiskStore, token: str, what: Definitions) -> None:
        writes.append(what.version)
        write(self, token, what)

    monkeypatch.setattr(DiskStore, "_write", counted)
    async with opened() as store:
        for version in range(1, 50):
            store.keep_definitions(TOKEN, definitions(version=version))
        await written(store)
    assert writes == [49]


async def test_keep__still_current__renews_the_file_once_a_minute(
    opened: Callable[..., DiskStore], folder: Path, clock: FakeClock
) -> None:
    """Its age says when it was last known to be current, at no more cost than one look a minute."""
    kept = definitions()
    async with opened() as store:
        store.keep_definitions(TOKEN, kept)
        await written(store)
        (path,) = folder.iterdir()
        os.utime(path, (1, 1))
        store.keep_definitions(TOKEN, kept)
        assert path.stat().st_mtime == 1
        clock.advance(disk.RENEW_S)
        store.keep_definitions(TOKEN, kept)
        await written(store)
        assert path.stat().st_mtime > 1
        path.unlink()
        clock.advance(disk.RENEW_S)
        store.keep_definitions(TOKEN, kept)
        await written(store)
        assert path.exists()


async def test_keep__beyond_the_bound__the_oldest_go(opened: Callable[..., DiskStore], folder: Path) -> None:
    """The folder keeps within its bound, and what was written last stays."""
    async with opened(max_bytes=50_000) as store:
        for number in range(10):
            store.keep_definitions(f"phc_{number}", definitions(f"phc_{number}", size=10_000))
            await written(store)
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert 20_000 < size <= 50_000
        assert await store.load_definitions("phc_9") is not None
        assert await store.load_definitions("phc_0") is None


async def test_keep__larger_than_the_bound__is_told_and_not_kept(
    opened: Callable[..., DiskStore], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One project too large for the folder pushes out nobody."""
    async with opened(max_bytes=5000) as store:
        store.keep_definitions("phc_small", definitions("phc_small"))
        store.keep_definitions(TOKEN, definitions(size=20_000))
    assert names(folder) == [".snapshot"]
    assert events(caplog) == ["disk_snapshot_too_large"]


@pytest.mark.parametrize("damage", [b"", b"FLSN nonsense", None])
async def test_load__damaged_file__is_told_and_passed_over(
    opened: Callable[..., DiskStore], folder: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    """A file that is not whole is put aside for whoever wants to know why, and becomes no definitions."""
    async with opened() as store:
        store.keep_definitions(TOKEN, definitions())
        await written(store)
        (path,) = folder.iterdir()
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
        assert await store.load_definitions(TOKEN) is None
        assert await store.load_definitions(TOKEN) is None
        assert not await store.has_any()
    assert names(folder) == [".corrupt"]
    assert events(caplog) == ["disk_snapshot_corrupt"]


async def test_load__file_of_another_token__is_corrupt(
    opened: Callable[..., DiskStore], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file under a wrong name answers nobody's requests."""
    async with opened() as store:
        store.keep_definitions("phc_other", definitions("phc_other"))
        await written(store)
        (path,) = folder.iterdir()
        path.rename(store._path(TOKEN))
        assert await store.load_definitions(TOKEN) is None
    assert events(caplog) == ["disk_snapshot_corrupt"]


async def test_load__unreadable_file__is_told_and_passed_over(
    opened: Callable[..., DiskStore], caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that fails to read is no failure of the request."""
    async with opened() as store:
        store._path(TOKEN).mkdir()
        assert await store.load_definitions(TOKEN) is None
    assert events(caplog) == ["disk_snapshot_unreadable"]


async def test_open__folder_that_cannot_be_written__turns_writing_off_loudly(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """On a read-only root the service runs, says so once, and tries again a minute later."""
    caplog.set_level(logging.INFO)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    async with DiskStore(Disk(path=str(in_the_way / "snapshots")), clock) as store:
        assert not store.is_writable
        store.keep_definitions(TOKEN, definitions())
        assert await store.load_definitions(TOKEN) is None
        assert not await store.has_any()
        clock.advance(disk.RETRY_S)
        store.keep_definitions(TOKEN, definitions())
        await written(store)
        assert not store.is_writable
        assert "read-only" in repr(store)
        in_the_way.unlink()
        (in_the_way / "snapshots").mkdir(parents=True)
        clock.advance(disk.RETRY_S)
        store.keep_definitions(TOKEN, definitions())
        await written(store)
        assert store.is_writable
        assert await store.has_any()
    assert [record.message for record in caplog.records] == ["disk_snapshots_read_only", "disk_snapshots_writable"]


async def test_write__disk_full__leaves_the_file_before(
    opened: Callable[..., DiskStore], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails midway leaves neither half a file nor a temporary one."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async with opened() as store:
        store.keep_definitions(TOKEN, definitions())
        await written(store)
        monkeypatch.setattr(os, "fsync", full)
        store.keep_definitions(TOKEN, definitions(version=2))
        await written(store)
        found = await store.load_definitions(TOKEN)
        assert found is not None
        assert found.definitions.version == 1
    assert names(folder) == [".snapshot"]
    assert events(caplog) == ["disk_snapshots_read_only"]


async def test_open__half_written_files_of_before__are_removed(
    opened: Callable[..., DiskStore], folder: Path, clock: FakeClock
) -> None:
    """What a killed process was writing goes; what may still be written, by a process that shares the folder, stays."""
    folder.mkdir()
    now = clock.now().timestamp()
    for name, age_s in ((".writing-old", disk.LEFTOVER_S + 1), (".writing-new", disk.LEFTOVER_S - 1)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (now - age_s, now - age_s))
    async with opened():
        assert [path.name for path in folder.iterdir()] == [".writing-new"]


async def test_keep__more_tokens_than_may_wait__drops_and_tells(
    opened: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow disk collects a bounded number of files to write."""
    monkeypatch.setattr(disk, "MAX_PENDING", 3)
    async with opened() as store:
        for number in range(5):
            store.keep_definitions(f"phc_{number}", definitions(f"phc_{number}"))
        assert "3/3 pending" in repr(store)
    assert events(caplog) == ["disk_snapshot_dropped"] * 2

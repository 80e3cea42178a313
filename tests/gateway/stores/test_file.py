"""The file store's own promises: when it looks at the file, and what it does with one it cannot use."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluator.definitions import InvalidDefinitions
from gateway.errors import StoreUnavailable
from gateway.stores.file import FileStore
from tests.builders import project
from tests.fakes import FakeClock

POLL_S = 2.0


class Watched:
    """An open store over a file that can be edited, and the clock that tells it when to look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.store = FileStore(str(path), poll_s=POLL_S, clock=self.clock)

    def write(self, *names: str) -> None:
        """A project per name, with token and name alike."""
        projects = [project(id=number, name=name, token=name) for number, name in enumerate(names)]
        self.path.write_bytes(msgspec.json.encode({"projects": projects}))

    async def version(self, token: str) -> int | None:
        """The version as seen after the next look."""
        self.clock.advance(POLL_S)
        return (await self.store.definitions_versions([token])).get(token)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path / "definitions.json")
    watched.write("first")
    async with watched.store:
        yield watched


async def test_file__changed__is_looked_at_once_the_time_has_come(file: Watched) -> None:
    """Between two looks nothing touches the disk, and the next one finds the change."""
    file.write("first", "second")
    file.clock.advance(POLL_S - 0.01)
    assert await file.store.load_definitions("second") is None
    file.clock.advance(0.01)
    assert await file.store.load_definitions("second") is not None


async def test_file__put_back_to_an_older_one__has_a_greater_version(file: Watched) -> None:
    """The version grows with each change, whatever the file says of its age."""
    before = await file.version("first")
    file.write("first", "second")
    os.utime(file.path, ns=(1, 1))
    after = await file.version("first")
    assert before is not None
    assert after is not None
    assert after > before


async def test_file__replaced_by_a_broken_one__goes_on_with_the_old(
    file: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that cannot be used is told once and changes nothing; repaired, it is in force."""
    before = await file.version("first")
    file.path.write_text('{"projects": [{"id": 1}]}')
    assert await file.version("first") == before
    assert await file.version("first") == before
    assert events(caplog) == ["store_file_refused"]
    assert "missing required field `token`" in str(caplog.records[0].__dict__["fields"]["error"])
    file.write("repaired")
    assert await file.version("repaired") is not None
    assert await file.version("first") is None


async def test_file__taken_away__goes_on_with_what_was_read(file: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is gone is told once, and its return is told too."""
    caplog.set_level("INFO")
    before = await file.version("first")
    aside = file.path.rename(file.path.with_suffix(".aside"))
    assert await file.version("first") == before
    assert await file.version("first") == before
    aside.rename(file.path)
    assert await file.version("first") == before
    assert events(caplog) == ["store_file_failed", "store_file_recovered"]


async def test_file__that_could_not_be_read__is_tried_again(file: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure to read is not taken for a broken version: the same file is read at the next look."""
    file.write("first", "second")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        assert await file.version("second") is None
    assert await file.version("second") is not None


async def test_file__read_slowly__holds_up_only_who_looked(file: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one caller reads the file, the others are answered from what was read before."""
    is_reading, may_go_on, reads = threading.Event(), threading.Event(), []
    read_bytes = Path.read_bytes

    def read_slowly(path: Path) -> bytes:
        reads.append(path)
        is_reading.set()
        may_go_on.wait()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_slowly)
    file.write("first", "second")
    file.clock.advance(POLL_S)
    looking = asyncio.create_task(file.store.load_definitions("second"))
    await asyncio.to_thread(is_reading.wait)
    try:
        assert await file.store.load_definitions("first") is not None
        assert await file.version("second") is None
    finally:
        may_go_on.set()
    assert await looking is not None
    assert len(reads) == 1


async def test_open__broken_file__tells_every_problem(tmp_path: Path) -> None:
    """There is nothing to go on with, so that opening fails and says all that is wrong."""
    path = tmp_path / "definitions.json"
    path.write_bytes(msgspec.json.encode({"projects": [{"id": 1}, {"id": "x", "token": "t"}]}))
    with pytest.raises(InvalidDefinitions) as caught:
        await FileStore(str(path)).__aenter__()
    assert [problem.path for problem in caught.value.problems] == ["$.projects[0]", "$.projects[1].id"]


async def test_open__no_file__names_it(tmp_path: Path) -> None:
    """A wrong path is easily seen."""
    with pytest.raises(StoreUnavailable, match=r"nope\.json: No such file"):
        await FileStore(str(tmp_path / "nope.json")).__aenter__()


def fail(_: Any) -> bytes:
    raise OSError(5, "Input/output error")


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.msg for record in caplog.records if record.name == "flagstone"]

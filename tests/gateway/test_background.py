"""Work that goes on beside everything else."""

import asyncio
import logging

import pytest

from gateway.background import Background
from tests.gateway.serving import settle


async def test_spawn__work_crashes__is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """No task dies in silence, and one that ended is let go of."""
    caplog.set_level(logging.INFO)
    background = Background()

    async def crash() -> None:
        raise RuntimeError("a bug")

    background.spawn(crash())
    background.spawn(asyncio.sleep(0))
    await settle()
    assert [record.message for record in caplog.records] == ["task_crashed"]
    assert repr(background) == "<Background 0 tasks>"


async def test_cancel__work_under_way__ends_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """What is ended on purpose is no crash."""
    caplog.set_level(logging.INFO)
    background = Background()
    background.spawn(asyncio.Event().wait())
    await settle()
    background.cancel()
    await settle()
    assert repr(background) == "<Background 0 tasks>"
    assert not caplog.records

"""Doors that are closed in the end."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.middleware.door import Door


@pytest.fixture
async def doors() -> AsyncIterator[list[Door]]:
    """Doors to be closed in the end."""
    made: list[Door] = []
    yield made
    for each in made:
        await each.close()

"""The share of the one key that a limit is checked with most, as the metrics show it."""

import pytest

from config.rates import Rates
from tests.gateway.services.test_limits import PUBLIC, Door

MINUTE_S = 60.0


@pytest.mark.parametrize(("clients", "share"), [(1, 1.0), (4, 0.25)])
async def test_top_key_share__clients_of_a_limit__show_how_alike_they_look(clients: int, share: float) -> None:
    """One address that has most of the requests, denied or not, stands out among as many as there are."""
    door = Door(address=Rates("10/minute"), token=Rates("1000/minute"))
    for number in range(120):
        await door.come(f"203.0.113.{number % clients}", token=f"phc_{number % 2}")
    door.clock.advance(MINUTE_S)
    assert door.metric('limit_top_key_share{limit="address"}') == share


async def test_top_key_share__limits_that_check_nobody__are_left_out() -> None:
    """A limit without rates, or one that few come to, has no share."""
    door = Door(address=Rates(""), token=Rates("1000/minute"))
    for _ in range(120):
        await door.come(PUBLIC, token="phc_one")
    door.clock.advance(MINUTE_S)
    assert door.metric('limit_top_key_share{limit="token"}') == 1
    assert 'limit_top_key_share{limit="address"}' not in door.metrics.render().decode()

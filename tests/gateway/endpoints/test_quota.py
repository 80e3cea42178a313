"""What /flags and /decide say to a project whose quota is used up, as a client sees it."""

from typing import Any

import pytest

from config.clients import Quota
from config.rates import Rates
from config.settings import Settings
from gateway.errors import StoreUnavailable
from tests.gateway.serving import one_project, serving

ONE_A_DAY = Settings(quota=Quota(project=Rates("1/day")))
LIMITED = {"quotaLimited": ["feature_flags"]}
COUNTED = {"errorsWhileComputingFlags": False, **LIMITED}


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/flags?v=2", {"flags": {}, **COUNTED}),
        ("/flags?v=4", {"flags": {}, **COUNTED}),
        ("/flags?v=1", {"featureFlags": {}, "featureFlagPayloads": {}, **COUNTED}),
        ("/decide?v=1&config=false", {"featureFlags": [], **LIMITED}),
        ("/decide?v=2&config=false", {"featureFlags": {}, **LIMITED}),
        ("/decide?v=3&config=false", {"featureFlags": {}, "featureFlagPayloads": {}, **COUNTED}),
        ("/decide?v=4&config=false", {"flags": {}, **COUNTED}),
    ],
)
async def test_flags__over_quota__are_none_and_say_why(path: str, members: dict[str, Any]) -> None:
    """Every shape is a 200 without flags and errors, and names the quota, so that clients keep what they have."""
    async with serving(one_project(), ONE_A_DAY) as client:
        before = (await client.ask()).json()
        body = {"token": "phc_project_one", "distinct_id": "u1"}
        answer = await client.post(path, json=body)
    assert "quotaLimited" not in before
    found = answer.json()
    assert answer.status_code == 200
    assert {name: value for name, value in found.items() if name not in ("requestId", "evaluatedAt")} == members


async def test_flags__over_quota_with_config__has_both() -> None:
    """Remote config is no matter of quota."""
    async with serving(one_project(), ONE_A_DAY) as client:
        await client.ask()
        found = (await client.ask("v=2&config=true")).json()
    assert found["quotaLimited"] == ["feature_flags"]
    assert found["hasFeatureFlags"] is True


async def test_flags__disabled_flags__cost_nothing() -> None:
    """Whoever asks for no flags uses no quota, and is answered when it is used up."""
    async with serving(one_project(), ONE_A_DAY) as client:
        for _ in range(3):
            assert "quotaLimited" not in (await client.ask(disable_flags=True)).json()
        assert (await client.ask()).json()["flags"]
        assert "quotaLimited" not in (await client.ask(disable_flags=True)).json()


async def test_flags__over_quota_with_store_down__is_the_same() -> None:
    """Counting needs no backend: a quota lasts through an outage, and an outage uses none of it up."""
    store = one_project()
    async with serving(store, Settings(quota=Quota(project=Rates("2/day")))) as client:
        await client.ask()
        store.error = StoreUnavailable("down")
        assert (await client.ask()).json()["flags"]["on"]["enabled"] is True
        assert (await client.ask()).json()["quotaLimited"] == ["feature_flags"]

"""Each setting of the management API, shown to change what it does."""

import asyncio

import httpx
import pytest

from config.edge import Concurrency, Limits
from config.management import Api
from config.rates import Rates
from config.settings import Requests, Settings, check
from gateway.api.app import ManagementApi
from gateway.editing_ports import Actor
from tests.gateway.api.managing import managing
from tests.gateway.serving import one_project, serving, settle

ONE = "/api/projects/1"


@pytest.mark.parametrize(("is_enabled", "status"), [(True, 401), (False, 404)])
async def test_api_is_enabled__decides_whether_it_is_there(is_enabled: bool, status: int) -> None:
    """api.is_enabled: switched off, there is no such path for anybody."""
    store = one_project()
    store.managed = object()
    async with serving(store, Settings(api=Api(is_enabled=is_enabled))) as client:
        assert (await client.get("/api/projects")).status_code == status
        assert (await client.get("/api/openapi.json")).status_code == (200 if is_enabled else 404)


async def test_store__that_is_only_read__has_nothing_to_manage() -> None:
    """Over a file, the API says that there is nothing to edit, and not that a key is wrong."""
    async with serving(one_project()) as client:
        answer = await client.get("/api/projects", headers={"authorization": "Bearer x"})
        assert (answer.status_code, answer.json()["code"]) == (409, "read_only_store")
        assert (await client.get("/api/openapi.json")).status_code == 200


@pytest.mark.parametrize(("room", "status"), [(-1, 413), (0, 201)])
async def test_api_max_body_bytes__bounds_a_json_body(room: int, status: int) -> None:
    """api.max_body_bytes: a longer JSON body is refused; what other requests may have does not count here."""
    body = b'{"key": "beta", "name": "' + b"x" * 100 + b'"}'
    api = Api(max_body_bytes=200 if status == 201 else len(body) + room)
    settings = {"requests": Requests(max_body_bytes=1, max_decoded_bytes=1)}
    async with managing(api, settings=settings) as client:
        assert (await client.post(f"{ONE}/feature_flags", content=body)).status_code == status


@pytest.mark.parametrize(("timeout_s", "status"), [(0.1, 503), (600, 200)])
async def test_api_timeout_s__bounds_a_call(timeout_s: float, status: int) -> None:
    """api.timeout_s: a store that answers later than that is one that does not answer; requests.budget_ms is not for
    these calls."""
    async with managing(
        Api(timeout_s=timeout_s), settings={"requests": Requests(budget_ms=1, answer_reserve_ms=0)}
    ) as api:
        api.store.hang = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, api.store.hang.set)
        assert (await api.get(ONE)).status_code == status


async def test_api_timeout_s__bounds_each_batch_of_a_stream() -> None:
    """api.timeout_s: a store that takes longer for a batch ends the stream, with what was stored before."""
    async with managing(Api(timeout_s=0.1)) as api:
        api.store.upsert_persons = lambda *_: asyncio.Event().wait()  # type: ignore[assignment,method-assign,return-value]
        answer = await api.send_lines("persons", '{"distinct_id": "u1"}')
        assert (answer.status_code, answer.json()["stored"]) == (503, 0)


async def test_api_rate__of_a_key__is_its_own() -> None:
    """api.rate: beyond it a key is refused as everybody is elsewhere, and other keys are not."""
    async with managing(Api(rate=Rates("4/minute")), limits=Limits()) as api:
        statuses = [(await api.get(ONE)).status_code for _ in range(4)]
        refused = await api.get(f"{ONE}/feature_flags")
        other = await api.get(ONE, headers=await api.with_key("*"))
    assert statuses == [200, 200, 200, 429]  # One was spent to make the project.
    assert refused.json()["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == ("4", "0")
    assert other.status_code == 200


async def test_api_rate__of_calls_without_a_good_key__is_by_address() -> None:
    """api.rate: whoever tries keys is held by address, which costs nobody behind it who has a good one."""
    async with managing(Api(rate=Rates("3/minute")), limits=Limits()) as api:
        tries = [{"authorization": f"Bearer phx_{'a' * 30}{number}"} for number in range(4)]
        statuses = [(await api.get(ONE, headers=headers)).status_code for headers in tries]
        assert statuses == [401, 401, 401, 429]
        assert (await api.get(ONE)).status_code == 200


@pytest.mark.parametrize(("rate", "limits"), [("", Limits()), ("1/minute", Limits(mode="shadow"))])
async def test_api_rate__not_enforced__refuses_nobody(rate: str, limits: Limits) -> None:
    """api.rate: empty, or with limits that are not enforced, nobody is refused."""
    async with managing(Api(rate=Rates(rate)), limits=limits) as api:
        assert {(await api.get(ONE)).status_code for _ in range(20)} == {200}


def test_api_rate__that_is_none__is_a_problem() -> None:
    """api.rate: text that is no rate is told before anything starts."""
    (problem,) = check(Settings(api=Api(rate=Rates("often"))))
    assert problem.paths == ("api.rate",)


@pytest.mark.parametrize(("management", "expected"), [(1, 503), (2, 200)])
async def test_concurrency_management__bounds_calls_at_once(management: int, expected: int) -> None:
    """concurrency.management: so many calls at once, whatever flags are doing."""
    settings = {"concurrency": Concurrency(management=management, max_queued=0, limit=1, mode="fixed")}
    async with managing(settings=settings) as api:
        api.store.hang = asyncio.Event()
        first = asyncio.ensure_future(api.get(ONE))
        await settle()
        second = asyncio.ensure_future(api.get(ONE))
        await settle()
        api.store.hang.set()
        assert [(await first).status_code, (await second).status_code] == [200, expected]


async def test_actor__of_an_in_process_caller__needs_no_key() -> None:
    """Who can open the store may do everything."""
    async with managing() as api:
        app = ManagementApi(api.store)

        async def in_process(scope: dict[str, object], receive: object, send: object) -> None:
            await app({**scope, "state": {"actor": Actor("cli:me")}}, receive, send)  # type: ignore[arg-type]

        transport = httpx.ASGITransport(in_process)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            made = await client.post(f"{ONE}/feature_flags", json={"key": "beta"})
            assert made.status_code == 201
            assert (
                await client.post("/api/personal_api_keys", json={"label": "a", "scopes": ["*"]})
            ).status_code == 201
        assert api.store.audit[-1].actor == "cli:me"

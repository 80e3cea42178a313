"""The suite itself: it passes a good server, and each of its cases notices when that one thing is broken."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from config.edge import Limits
from config.rates import Rates
from config.settings import Settings
from gateway.errors import StoreUnavailable
from tests.builders import condition, flag, person, project
from tests.clients.stage import FACTS, Stage
from tests.clients.stage import TOKEN as STAGE_TOKEN
from tests.conftest import ServerProcess
from tests.gateway.serving import TOKEN, MemoryStore, serving
from tests.ofrep_conformance.__main__ import main
from tests.ofrep_conformance.cases import CASES, Case, Flags, Varies
from tests.ofrep_conformance.runner import Result, Target, run, run_case

HEALTHY = Flags(
    boolean="on",
    text="split",
    integer="count",
    float="ratio",
    object="layout",
    disabled="inactive",
    slash="a/b",
    varies=Varies("paid", "plan", ("pro", "free")),
)
DEGRADED = msgspec.structs.replace(HEALTHY, failing="paid")
BURST = 20
Break = Callable[[httpx.Request, httpx.Response], httpx.Response]


def typed(key: str, value: Any) -> dict[str, Any]:
    rules = [{"id": "r", "rule_type": "targeted_release", "value": value}]
    return flag(key, filters={"version": 2, "rules": rules})


def definitions() -> list[dict[str, Any]]:
    """A flag for each role."""
    return [
        flag("on"), flag("split", variants={"blue": 100}), typed("count", 3), typed("ratio", 1.0),
        typed("layout", {"columns": 2}), flag("inactive", active=False), flag("a/b"),
        flag("paid", condition(person("plan", "pro"))),
    ]  # fmt: skip


class Broken(httpx.AsyncBaseTransport):
    """The same server with one thing broken, where an answer has it."""

    def __init__(self, inner: httpx.AsyncBaseTransport, how: Break) -> None:
        self._inner = inner
        self._how = how

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        await answer.aread()
        return self._how(request, answer)


def again(answer: httpx.Response, status: int | None = None, content: bytes | None = None, **headers: str) -> Any:
    kept = {name: value for name, value in answer.headers.items() if name != "content-length"}
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status or answer.status_code, headers={**kept, **changed}, content=content or answer.content)


def status(number: int) -> Break:
    return lambda _, answer: again(answer, number)


def header(name: str, value: str) -> Break:
    return lambda _, answer: again(answer, None, None, **{name: value})


def without_header(name: str) -> Break:
    def break_(_: httpx.Request, answer: httpx.Response) -> httpx.Response:
        answer.headers.pop(name, None)
        return answer

    return break_


def edited(change: Callable[[dict[str, Any]], object], *, in_items: bool = False) -> Break:
    """The answer, or each of its items, with this change."""

    def break_(_: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if not answer.content:
            return answer
        value = answer.json()
        for it in value["flags"] if in_items else [value]:
            change(it)
        return again(answer, content=msgspec.json.encode(value))  # type: ignore[no-any-return]

    return break_


def put(**members: Any) -> Break:
    return edited(lambda it: it.update(members))


def put_in_items(**members: Any) -> Break:
    return edited(lambda it: it.update(members), in_items=True)


def drop(name: str, *, in_items: bool = False) -> Break:
    return edited(lambda it: it.pop(name, None), in_items=in_items)


def only_paths(*, escaped: bool) -> Break:
    """No flag is found by a key that is not written in this way."""
    return lambda request, answer: again(answer, 200 if (b"%2F" in request.url.raw_path) == escaped else 404)


def etag_of_definitions(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
    """A tag that knows nothing of the context."""
    if request.headers.get("if-none-match") == '"v1"':
        return httpx.Response(304)
    return again(answer, etag='"v1"')  # type: ignore[no-any-return]


BREAKS: dict[str, Break] = {
    "single/is-json": header("content_type", "text/html"),
    "single/key": drop("key"),
    "single/variant-is-there": drop("variant"),
    "single/reason-is-known": put(reason="DEGRADED"),
    "single/metadata-is-plain": put(metadata={"payload": {"a": 1}}),
    "single/boolean": put(value="true"),
    "single/text": put(value=True),
    "single/integer": put(value=3.0),
    "single/float": put(value=1),
    "single/object": put(value='{"columns":2}'),
    "single/disabled": put(value=False),
    "single/key-with-a-slash": only_paths(escaped=True),
    "single/key-escaped": only_paths(escaped=False),
    "single/no-context": status(500),
    "single/unknown-flag": drop("errorDetails"),
    "single/no-json": drop("errorDetails"),
    "single/context-is-no-object": status(200),
    "single/unknown-credential": status(404),
    "single/failed-flag": status(503),
    "bulk/is-json": header("content_type", "text/plain"),
    "bulk/items-are-whole": edited(lambda it: it["flags"].append(it["flags"][0])),
    "bulk/variants-are-there": drop("variant", in_items=True),
    "bulk/reasons-are-known": put_in_items(reason="STALE_CACHE"),
    "bulk/metadata-is-plain": put(metadata={"cause": None}),
    "bulk/streams-are-whole": put(eventStreams=[{"type": "sse", "url": "x", "endpoint": {"requestUri": "/"}}]),
    "bulk/nobody-yet": status(400),
    "bulk/no-json": put(errorCode="BAD"),
    "bulk/unknown-credential": status(503),
    "bulk/partial-success": put(flags=[{"key": "paid", "errorCode": "GENERAL", "errorDetails": "down"}]),
    "etag/is-sent": without_header("etag"),
    "etag/not-modified": lambda _, answer: again(answer, 200, b"{}"),
    "etag/of-the-attributes": etag_of_definitions,
    "etag/refetch-parameters": lambda request, answer: again(answer, 400 if request.url.query else None),
    "browser/answers-are-readable": without_header("access-control-allow-origin"),
    "browser/etag-is-readable": header("access_control_expose_headers", "x-etag-of-mine"),
    "browser/preflight": header("access_control_allow_headers", "content-type"),
    "limits/retry-after-is-whole-seconds": header("retry_after", "2030-02-07T12:00:00Z"),
}


@asynccontextmanager
async def target(*, is_degraded: bool, how: Break | None = None, limit: str = "") -> AsyncIterator[Target]:
    """Our service in this process; what stands between it and the suite may break its answers."""
    store = MemoryStore({TOKEN: project(*definitions())})
    async with serving(store, Settings(limits=Limits(token=Rates(limit)))) as client:
        await client.ask()
        store.error = StoreUnavailable("x") if is_degraded else None
        if how is not None:
            client._transport = Broken(client._transport, how)
        yield Target(client, TOKEN, DEGRADED if is_degraded else HEALTHY, BURST if limit else 0)


def failures(results: list[Result]) -> list[tuple[str, str]]:
    return [(it.case.name, it.why) for it in results if it.outcome == "fail"]


def skipped(results: list[Result]) -> set[str]:
    return {it.case.name for it in results if it.outcome == "skip"}


NEED_AN_OUTAGE = {"single/failed-flag", "bulk/partial-success"}
NEED_A_LIMIT = {"limits/retry-after-is-whole-seconds"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_case__of_a_good_server_with_one_thing_broken__fails(case: Case) -> None:
    """A check that nothing can fail is worth nothing; and a good server passes."""
    is_degraded, limit = case.name in NEED_AN_OUTAGE, "5/minute" if case.name in NEED_A_LIMIT else ""
    async with target(is_degraded=is_degraded, limit=limit) as good:
        result = await run_case(good, case)
        assert result.outcome == "pass", result.why
    async with target(is_degraded=is_degraded, limit=limit, how=BREAKS[case.name]) as bad:
        result = await run_case(bad, case)
        assert result.outcome == "fail"
        assert result.why


async def test_suite__of_a_server_about_which_nothing_is_said__skips_what_it_cannot_ask() -> None:
    """A case that has nothing to look at says so, and is no success."""
    async with target(is_degraded=False) as good:
        results = await run(good._replace(flags=Flags(), token=None))
        assert {it.case.name for it in results if it.outcome == "pass"} == {
            "browser/answers-are-readable", "browser/etag-is-readable", "browser/preflight",
        }  # fmt: skip
        assert "single/boolean" in skipped(results)
        assert "bulk/unknown-credential" in skipped(results)


async def test_suite__of_a_server_that_is_not_there__fails_what_it_asks() -> None:
    """A connection that fails is a case that fails."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")

    async with httpx.AsyncClient(base_url="http://gone", transport=httpx.MockTransport(refuse)) as client:
        results = await run(Target(client, "x", HEALTHY))
    assert {it.outcome for it in results} == {"fail", "skip"}
    assert skipped(results) == NEED_AN_OUTAGE | NEED_A_LIMIT


@pytest.fixture
def shop(start_server: Callable[..., ServerProcess], tmp_path: Path, engine: str) -> Stage:
    return Stage(tmp_path, start_server, *definitions(), settings=(f"server.engine={engine}",))


def test_suite__of_a_real_server__passes_healthy_and_without_its_persons(
    shop: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On either engine all cases pass, and go on to while the store of persons is gone."""
    words = ["--base-url", shop.url, "--token", STAGE_TOKEN, "--flags", str(tmp_path / "about.json")]
    (tmp_path / "about.json").write_bytes(msgspec.json.encode(HEALTHY))
    assert main(words) == 0, capsys.readouterr().out
    assert f"{len(CASES) - 3} pass, 0 fail, 3 skip" in capsys.readouterr().out
    shop.lose(*FACTS)
    (tmp_path / "about.json").write_bytes(msgspec.json.encode(DEGRADED))
    assert main(words) == 0, capsys.readouterr().out
    assert f"{len(CASES) - 1} pass, 0 fail, 1 skip" in capsys.readouterr().out
    assert main([*words[:2], "--token", "phc_wrong"]) == 1
    assert "fail  spec    bulk/is-json" in capsys.readouterr().out

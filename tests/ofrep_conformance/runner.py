"""Runs the table of cases against a server, and prints what came of it as a grid.

Invariant: a run is bounded, whatever the server does: each answer by a timeout, and each case by a number of requests.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from tests.ofrep_conformance.cases import CASES, NOBODY, Ask, Case, Flags

MAX_ASKED = 1000
"""Requests after which a case that waits for a status gives up."""
TIMEOUT_S = 10.0
_PATH = "/ofrep/v1/evaluate/flags"


class Result(NamedTuple):
    case: Case
    outcome: Literal["pass", "fail", "skip"]
    why: str = ""


class Target(NamedTuple):
    """A server: `token` None says that it asks for none."""

    client: httpx.AsyncClient
    token: str | None
    flags: Flags
    burst: int = 0
    """How many requests may be sent to be limited; none to leave that out."""


async def run(target: Target, cases: Sequence[Case] = CASES) -> list[Result]:
    """What came of each case, in their order."""
    return [await run_case(target, case) for case in cases]


async def run_case(target: Target, case: Case) -> Result:
    """What came of one case. A server that does not answer has failed it."""
    lacking = _lacking(target, case)
    if lacking:
        return Result(case, "skip", lacking)
    try:
        return await _run(target, case)
    except httpx.HTTPError as error:
        return Result(case, "fail", f"{type(error).__name__}: {error}")


def _lacking(target: Target, case: Case) -> str | None:
    """What the server would have to have for this case; None when it has it."""
    for role in filter(None, (case.ask.role, case.needs)):
        if getattr(target.flags, role) is None:
            return f"no flag given for {role!r}"
    if not case.ask.is_known and target.token is None:
        return "no token given"
    return "no burst allowed" if case.until and target.burst <= 0 else None


async def _run(target: Target, case: Case) -> Result:
    headers = {}
    if case.first is not None:
        first = await _ask(target, case.first)
        if "etag" not in first.headers:
            return Result(case, "skip", f"no ETag in an answer with status {first.status_code}")
        headers["if-none-match"] = first.headers["etag"]
    answer = await _ask(target, case.ask, headers)
    for _ in range(1, min(target.burst, MAX_ASKED) if case.until else 1):
        if answer.status_code == case.until:
            break
        answer = await _ask(target, case.ask, headers)
    wrong = next((it for check in case.checks if (it := check(answer)) is not None), None)
    return Result(case, "pass") if wrong is None else Result(case, "fail", wrong)


async def _ask(target: Target, ask: Ask, more: dict[str, str] | None = None) -> httpx.Response:
    headers = {"content-type": "application/json", **ask.headers, **(more or {})}
    credential = target.token if ask.is_known else "conformance-suite-unknown"
    if credential is not None and ask.method == "POST":
        headers["authorization"] = f"Bearer {credential}"
    path = _PATH + (f"?{ask.query}" if ask.query else "")
    context = ask.context
    if ask.which is not None and target.flags.varies is not None:
        context = target.flags.varies.context(ask.which)
    else:
        key = ask.key if ask.role is None else getattr(target.flags, ask.role)
        if key is not None:
            path += "/" + (quote(key, safe="") if ask.is_escaped else key)
    body = msgspec.json.encode({"context": context if context is not NOBODY else {}}) if ask.body is None else ask.body
    return await target.client.request(ask.method, path, content=body, headers=headers, timeout=TIMEOUT_S)


def grid(results: Sequence[Result]) -> str:
    """A line for each case: what came of it, who wants it, and why it failed or was left out."""
    lines = [f"{it.outcome:4}  {it.case.of:6}  {it.case.name:34}  {it.why}".rstrip() for it in results]
    counts = {outcome: sum(it.outcome == outcome for it in results) for outcome in ("pass", "fail", "skip")}
    reasons = [f"{it.case.name}: {it.case.why}" for it in results if it.outcome == "fail"]
    summary = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return "\n".join([*lines, "", summary, *(["", *reasons] if reasons else [])])

"""Rates on calls that are rare and may cost a little more: those of operators and of the management API.

slowapi counts them, set up so that it can be trusted: by decorator, keyed by endpoint, without its middleware, its
headers and its reading of .env files. Invariant: its refusals look like everybody else's.
"""

import os
import time
import warnings
from collections.abc import Callable
from math import ceil

from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.requests import Request

from config.rates import Rates
from config.reload import Live
from config.settings import Settings
from gateway.errors import RateLimited


class SlowLimits:
    """Holds callers to the rates that `rates` finds in the settings."""

    def __init__(self, live: Live, rates: Callable[[Settings], Rates]) -> None:
        self._live = live
        self._rates = rates
        limiter = self._limiter = _make_limiter()

        @limiter.limit(lambda: str(rates(live.settings)))
        async def count(request: Request) -> None:
            """slowapi looks for the argument by its name."""

        self._count = count

    async def check(self, request: Request, caller: str) -> None:
        """Returns when the call may go on. Raises RateLimited. Each caller is remembered until their time is over."""
        settings = self._live.settings
        if settings.limits.mode != "enforce" or not self._rates(settings):
            return
        request.state.caller = caller
        try:
            await self._count(request)
        except RateLimitExceeded:
            raise self._refusal(request) from None

    def _refusal(self, request: Request) -> RateLimited:
        item, key = request.state.view_rate_limit
        stats = self._limiter.limiter.get_window_stats(item, *key)
        reset_s = max(1, ceil(stats.reset_time - time.time()))
        return RateLimited(item.amount, stats.remaining, reset_s, reset_s)


def _caller(request: Request) -> str:
    caller: str = request.state.caller
    return caller


def _make_limiter() -> Limiter:
    """A limiter that its environment cannot switch off."""
    with warnings.catch_warnings():
        # Given no file, slowapi would read .env in the working directory; given one, it misses it.
        warnings.simplefilter("ignore")
        limiter = Limiter(_caller, key_style="endpoint", storage_uri="memory://", config_filename=os.devnull)
    limiter.enabled = True
    return limiter

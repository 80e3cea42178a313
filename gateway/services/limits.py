"""How often somebody may ask: which rates apply to whom, and what becomes of a denial.

Counting is done by the limiters. Invariant: nobody is denied for an address that may stand for everybody, and a fleet's
count that cannot be had costs no more than its time.
"""

import logging
from math import ceil
from typing import Protocol

from config.edge import Limits, Proxies
from config.rates import Rates
from config.reload import Live
from gateway.client import Client
from gateway.errors import RateLimited
from gateway.metrics import LIMITS, Metrics
from gateway.ports import Clock
from gateway.resilience.gcra import ALLOW, Decision, LocalLimiter, Outcome
from gateway.resilience.limit_watch import LimitWatch, Reason, Suspicion
from gateway.resilience.top_key import TopKey
from gateway.telemetry import RequestRecord, log_event


class FleetLimiter(Protocol):
    """Counts for all processes together."""

    async def check(self, key: str, rates: Rates) -> Decision | None:
        """As the local limiter, but without warnings; None when it cannot be told in time."""
        ...


class LimitService:
    def __init__(self, live: Live, clock: Clock, metrics: Metrics, fleet: FleetLimiter | None = None) -> None:
        self._metrics = metrics
        self._fleet = fleet
        self._settings = live.settings.limits
        self._proxies = live.settings.proxies
        self._local = LocalLimiter(clock, self._settings.max_keys, warn_ratio=self._settings.warn_ratio)
        self._watch = LimitWatch(clock)
        self._top_keys = {limit: TopKey(clock) for limit in LIMITS}
        self._told: set[Suspicion] = set()
        metrics.at_scrape(self._measure)

    def __repr__(self) -> str:
        return f"<LimitService {self._local!r}, {self._watch!r}>"

    def suspicions(self) -> list[Suspicion]:
        """Why the limit on addresses is not enforced for some now; tells of it in the log when that changes."""
        active = set(self._watch.active())
        for suspicion in active - self._told:
            log_event("address_limit_suspended", logging.ERROR, reason=suspicion.reason.value, problem=suspicion.text)
        for suspicion in self._told - active:
            log_event("address_limit_resumed", reason=suspicion.reason.value, address=str(suspicion.address))
        self._told = active
        return sorted(active, key=lambda it: it.text)

    async def check_address(self, client: Client, route: str, record: RequestRecord) -> None:
        """Returns when the client may ask, and notes on the record when not much longer. Raises RateLimited."""
        limits = record.settings.limits
        if limits.mode == "off":
            return
        if limits is not self._settings or record.settings.proxies is not self._proxies:
            self._keep_up(limits, record.settings.proxies)
        origin = client.origin
        own = limits.routes.get(route)
        key, rates = ("a:" + origin.bucket, limits.address) if own is None else (f"{route}:{origin.bucket}", own)
        decision = self._local.check(key, rates)
        if rates:
            self._top_keys["address"].count(key)
        if limits.is_fleet_wide and rates:
            decision = await self._ask_fleet(decision, key, rates, limits, record)
        is_denied = decision.outcome is Outcome.DENY
        is_internal = origin.is_internal or client.is_trusted
        # A flood that is denied must not outnumber those that a misconfigured balancer hides.
        if is_internal or not is_denied:
            self._watch.observe(origin.address, is_internal, client.is_unproven, client.is_trusted)
        if is_denied and is_internal and limits.is_balancer_spared:
            suspicion = self._watch.suspicion(origin.address, is_internal)
            if suspicion is not None:
                self._metrics.rate_limited("address", "suspended")
                if suspicion not in self._told:
                    self.suspicions()
                return
        self._judge("address", decision, limits, record)

    async def check_token(self, token: str, record: RequestRecord) -> None:
        """The same for a project's token."""
        limits = record.settings.limits
        rates = limits.tokens.get(token)
        await self._check("token", "t:" + token, limits.token if rates is None else rates, limits, record)

    async def check_definitions(self, token: str, record: RequestRecord) -> None:
        """The same for a project whose definitions are wanted, all of them."""
        limits = record.settings.limits
        rates = limits.definitions_tokens.get(token)
        await self._check("definitions", "d:" + token, limits.definitions if rates is None else rates, limits, record)

    async def check_conditional_definitions(self, token: str, record: RequestRecord) -> None:
        """The same where definitions are wanted only if they are others than before."""
        limits = record.settings.limits
        await self._check("definitions", "n:" + token, limits.conditional_definitions, limits, record)

    async def check_remote_config(self, digest: str, record: RequestRecord) -> None:
        """The same for a personal API key that reads remote config."""
        limits = record.settings.limits
        await self._check("remote_config", "r:" + digest, limits.remote_config, limits, record)

    async def _check(self, limit: str, key: str, rates: Rates, limits: Limits, record: RequestRecord) -> None:
        if rates and limits.mode != "off":
            decision = self._local.check(key, rates)
            self._top_keys[limit].count(key)
            if limits.is_fleet_wide:
                decision = await self._ask_fleet(decision, key, rates, limits, record)
            self._judge(limit, decision, limits, record)

    async def _ask_fleet(
        self, local: Decision, key: str, rates: Rates, limits: Limits, record: RequestRecord
    ) -> Decision:
        """What all processes together say, given what this one alone says."""
        if self._fleet is None or (local.outcome is Outcome.DENY and limits.on_failure != "allow"):
            return local
        began_s = record.duration_s()
        decided = await self._fleet.check(key, rates)
        record.waited_s += record.duration_s() - began_s
        if decided is not None:
            return local if decided.outcome is Outcome.ALLOW else decided
        self._metrics.fleet_limit_fallbacks.inc()
        if limits.on_failure == "deny":
            return Decision(Outcome.DENY, rates.windows[0][0], 0, 1.0, 1.0)
        return local if limits.on_failure == "local" else ALLOW

    def _judge(self, limit: str, decision: Decision, limits: Limits, record: RequestRecord) -> None:
        if decision.outcome is Outcome.ALLOW:
            return
        if decision.outcome is Outcome.WARN:
            self._metrics.rate_limited(limit, "warned")
            record.is_near_limit = True
        elif limits.mode == "shadow":
            self._metrics.rate_limited(limit, "would_deny")
        else:
            self._metrics.rate_limited(limit, "denied")
            reset_s, retry_after_s = ceil(decision.reset_s), max(1, ceil(decision.retry_after_s))
            raise RateLimited(decision.limit, decision.remaining, reset_s, retry_after_s)

    def _keep_up(self, limits: Limits, proxies: Proxies) -> None:
        """Follow a reload of the settings."""
        self._settings = limits
        self._local.max_keys, self._local.warn_ratio = limits.max_keys, limits.warn_ratio
        if proxies != self._proxies:
            self._watch.reset()
        self._proxies = proxies

    def _measure(self) -> None:
        self._metrics.limiter_keys.set(len(self._local))
        for limit, top_key in self._top_keys.items():
            self._metrics.limit_top_key_share.set(top_key.share(), limit)
        reasons = {suspicion.reason for suspicion in self.suspicions()}
        for reason in Reason:
            self._metrics.limit_suspended(reason, is_suspended=reason in reasons)
        self._metrics.unproven_requests.set(self._watch.unproven_public)

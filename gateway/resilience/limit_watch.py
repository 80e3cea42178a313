"""The limiter's doubt about itself: is this address a client, or a load balancer that everybody stands behind?

Counts requests and gives its opinion; limiting is not done here. Invariant: only internal addresses are ever doubted,
so whoever floods from a public one is always limited.
"""

from enum import StrEnum
from heapq import nlargest
from math import inf
from typing import Final

from msgspec import Struct

from gateway.client import Address
from gateway.ports import Clock

MAX_PEERS: Final = 64
FEW: Final = 8
"""As many addresses as the balancers of one installation may have."""
MOST_RATIO: Final = 0.9


class Reason(StrEnum):
    UNTRUSTED_PROXY = "untrusted_proxy"
    NO_CLIENT_NAMED = "no_client_named"
    ONE_INTERNAL_ADDRESS = "one_internal_address"


_TEXTS: Final = {
    Reason.UNTRUSTED_PROXY: "{} sends forwarding headers but is not in proxies.trusted, so everybody behind it counts "
    "as one client; if it is a load balancer of yours, add it to proxies.trusted",
    Reason.NO_CLIENT_NAMED: "{} is in proxies.trusted but names no client in the header of proxies.header, so "
    "everybody behind it counts as one client; set proxies.header to the header it writes, or have it write that one",
    Reason.ONE_INTERNAL_ADDRESS: "{} sends most of the requests, without forwarding headers, so that it looks like a "
    "load balancer that hides its clients; have it name them in a header, and add it to proxies.trusted",
}


class Suspicion(Struct, frozen=True):
    """Why a limit on this address would hit many clients at once."""

    reason: Reason
    address: Address

    @property
    def text(self) -> str:
        """A sentence for whoever can put it right."""
        return _TEXTS[self.reason].format(self.address)


class _Peer(Struct):
    """An internal address: its requests in this half of the window and in the one before."""

    count: int = 0
    count_before: int = 0
    unproven_at: float = -inf
    is_trusted: bool = False


class LimitWatch:
    """Looks back over half of `window_s` at least, and over all of it at most."""

    def __init__(self, clock: Clock, window_s: float = 60.0) -> None:
        self._clock = clock
        self._window_s = window_s
        self._half_s = window_s / 2
        self._suppressed_at: dict[Suspicion, float] = {}
        self._peers: dict[Address, _Peer] = {}
        self._forget(clock.monotonic())

    def __repr__(self) -> str:
        return (
            f"<LimitWatch {self._count} requests, {len(self._peers)} internal peers, {len(self.active())} suspicions>"
        )

    def reset(self) -> None:
        """Forget everything, as after a reload of the settings that the doubts were about."""
        self._suppressed_at.clear()
        self._forget(self._clock.monotonic())

    def observe(self, address: Address, is_internal: bool, is_unproven: bool, is_trusted: bool) -> None:
        """Count a request of the client `address`. `is_unproven`: it sent forwarding headers that were not believed."""
        now = self._now()
        self._count += 1
        if is_internal:
            self._observe_internal(address, is_unproven, is_trusted, now)
        elif is_unproven:
            self._unproven += 1

    def suspicion(self, address: Address, is_internal: bool) -> Suspicion | None:
        """Why a denial of this address must not be enforced; None when it is to be. Asked only then."""
        if not is_internal:
            return None
        now = self._now()
        reason = self._reason(self._peers.get(address), now)
        if reason is None:
            return None
        suspicion = Suspicion(reason, address)
        self._suppressed_at[suspicion] = now
        if len(self._suppressed_at) > MAX_PEERS:
            del self._suppressed_at[min(self._suppressed_at, key=self._suppressed_at.__getitem__)]
        return suspicion

    def active(self) -> list[Suspicion]:
        """The doubts that kept a limit from being enforced within the last `window_s`."""
        since = self._clock.monotonic() - self._window_s
        return [suspicion for suspicion, at in self._suppressed_at.items() if at > since]

    @property
    def unproven_public(self) -> int:
        """Requests of public addresses with headers that were not believed: a warning, as anybody can send them."""
        self._now()
        return self._unproven + self._unproven_before

    def _now(self) -> float:
        """The moment, once the window has moved on to it."""
        now = self._clock.monotonic()
        if now >= self._turns_at:
            self._turn(now)
        return now

    def _observe_internal(self, address: Address, is_unproven: bool, is_trusted: bool, now: float) -> None:
        peer = self._peers.get(address)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                if is_unproven:
                    self._others_unproven_at = now
                return
            peer = self._peers[address] = _Peer()
        peer.count += 1
        peer.is_trusted = is_trusted
        if is_unproven:
            peer.unproven_at = now

    def _reason(self, peer: _Peer | None, now: float) -> Reason | None:
        # Of peers that were too many to be counted, any may be the one.
        unproven_at = self._others_unproven_at if peer is None else peer.unproven_at
        if unproven_at > now - self._window_s:
            return Reason.UNTRUSTED_PROXY
        if peer is None or not self._is_of_the_few(peer):
            return None
        return Reason.NO_CLIENT_NAMED if peer.is_trusted else Reason.ONE_INTERNAL_ADDRESS

    def _is_of_the_few(self, peer: _Peer) -> bool:
        """Whether nearly everything comes from a few internal addresses, this one among them."""
        few = nlargest(FEW, (each.count + each.count_before for each in self._peers.values()))
        total = self._count + self._count_before
        return peer.count + peer.count_before >= few[-1] and sum(few) >= MOST_RATIO * total

    def _turn(self, now: float) -> None:
        """Let the older half of the window go."""
        if now >= self._turns_at + self._half_s:
            self._forget(now)
            return
        for peer in self._peers.values():
            peer.count, peer.count_before = 0, peer.count
        self._peers = {address: peer for address, peer in self._peers.items() if peer.count_before}
        self._count, self._count_before = 0, self._count
        self._unproven, self._unproven_before = 0, self._unproven
        self._turns_at += self._half_s

    def _forget(self, now: float) -> None:
        self._peers.clear()
        self._others_unproven_at = -inf
        self._count = self._count_before = 0
        self._unproven = self._unproven_before = 0
        self._turns_at: float = now + self._half_s

"""Whom a request comes from: real chains, spoofed ones, and everything that headers can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.networks import Networks
from gateway.client import Client
from gateway.wire.forwarded import MAX_HOPS, UNKNOWN, client_of, origin_of, parse

TRUSTED = Networks("10.0.0.0/8, fd00::/8, 127.0.0.1")


def told(peer: str | None, *values: str, trusted: Networks = TRUSTED) -> str:
    """The client's address, with these X-Forwarded-For headers."""
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    return str(client_of(peer, headers, trusted).address)


def told_forwarded(value: str) -> str:
    return str(client_of("10.0.0.1", [(b"forwarded", value.encode("latin-1"))], TRUSTED, "forwarded").address)


@pytest.mark.parametrize(
    ("peer", "values", "client"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("203.0.113.7", ["1.1.1.1"], "203.0.113.7"),
        ("203.0.113.7", [], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, garbage, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9,"], "10.0.0.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["\xff\xfe"], "10.0.0.1"),
        (None, ["203.0.113.9"], str(UNKNOWN.text)),
        ("unix", ["203.0.113.9"], str(UNKNOWN.text)),
    ],
)
def test_client__chain_of_hops__is_the_nearest_that_is_not_trusted(
    peer: str | None, values: list[str], client: str
) -> None:
    """What clients write in front is skipped, what cannot be read ends the walk at who passed it on."""
    assert told(peer, *values) == client


def test_client__nobody_is_trusted__is_the_peer() -> None:
    """An empty list of proxies believes nobody, wherever the request comes from."""
    for peer in ("10.0.0.1", "127.0.0.1", "203.0.113.9"):
        assert told(peer, "1.1.1.1", trusted=Networks("")) == peer


@pytest.mark.parametrize(
    ("peer", "values", "is_unproven"),
    [("203.0.113.7", ["1.1.1.1"], True), ("203.0.113.7", [], False), ("10.0.0.1", ["1.1.1.1"], False)],
)
def test_client__stranger_sends_headers__is_marked(peer: str, values: list[str], *, is_unproven: bool) -> None:
    """Forwarding headers from somebody who is not trusted are not believed, and that shows."""
    headers = [(b"x-forwarded-for", value.encode()) for value in values]
    assert client_of(peer, headers, TRUSTED).is_unproven is is_unproven


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;proto=https;by=10.0.0.9", "203.0.113.9"),
        ('for="203.0.113.9:4711"', "203.0.113.9"),
        ('proto=https;for="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=1.1.1.1, for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
        ('for=1.1.1.1;host="a,b;c", for=203.0.113.9', "203.0.113.9"),
        ('for=203.0.113.9, for="un\\"known"', "10.0.0.1"),
        ("for=unknown", "10.0.0.1"),
        ("for=_hidden, for=10.0.0.2", "10.0.0.2"),
        ("for=1.1.1.1;for=2.2.2.2", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ('for="203.0.113.9', "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_forwarded__as_rfc_7239_has_it__is_read_like_the_other(value: str, client: str) -> None:
    """Quotes, parameters and obscured names; an element without exactly one `for` names nobody."""
    assert told_forwarded(value) == client


def test_header__other_than_the_chosen__is_not_read() -> None:
    """A proxy that sets one header lets clients write the other."""
    both = [(b"x-forwarded-for", b"203.0.113.9"), (b"forwarded", b"for=1.1.1.1")]
    assert str(client_of("10.0.0.1", both, TRUSTED).address) == "203.0.113.9"
    assert str(client_of("10.0.0.1", both, TRUSTED, "forwarded").address) == "1.1.1.1"


@pytest.mark.parametrize(
    "text",
    ["", " ", "1.2.3", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:70000", "[::1", "[::1]x", "[1.2.3.4]", "::1%lo", "1.2.3.4/8",
     "01.2.3.4", "localhost", "-", "[]", "[::1]:", "1.2.3.4:\u0661"],
)  # fmt: skip
def test_parse__no_address__is_none(text: str) -> None:
    """Nothing but an address, with or without a port, passes for one."""
    assert parse(text) is None


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_bucket__ipv6__is_the_subscribers_network(address: str, bucket: str) -> None:
    """One subscriber has many IPv6 addresses and one bucket."""
    origin = origin_of(address)
    assert origin is not None
    assert Client(origin).bucket == bucket


ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(["10.0.0.1", "10.9.9.9", "fd00::1", "127.0.0.1"])
HOPS = ADDRESSES | st.text(max_size=12)


@given(st.lists(HOPS, max_size=60), ADDRESSES)
def test_client__whatever_is_sent__is_never_a_proxy_that_named_somebody(hops: list[str], peer: str) -> None:
    """The walk never raises, and ends at a trusted hop only where that named nobody who can be read."""
    value = ", ".join(hops).encode("latin-1", "replace")
    client = client_of(peer, [(b"x-forwarded-for", value)], TRUSTED)
    if client.address in TRUSTED:
        chain = [*value.decode("latin-1").split(",")[-MAX_HOPS:], peer]
        read = [parse(hop) for hop in chain]
        nearest = len(read) - 1 - read[::-1].index(client.address)
        assert all(hop in TRUSTED for hop in read[nearest:] if hop is not None)


@given(st.text(max_size=200))
def test_forwarded__any_text__names_an_address_or_the_peer(value: str) -> None:
    """No header, however written, is an error."""
    headers = [(b"forwarded", value.encode("utf-8", "replace"))]
    assert client_of("10.0.0.1", headers, TRUSTED, "forwarded").address
